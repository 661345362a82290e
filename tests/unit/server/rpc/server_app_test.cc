// The server as a whole: many waiting calls, one state directory, sockets,
// health, metrics.
#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "bitwright/v1/job.grpc.pb.h"
#include "bitwright/v1/worker.grpc.pb.h"
#include "proto/algorithm_version.h"
#include "proto/status_conversion.h"
#include "tests/unit/server/rpc/rpc_test_util.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

int ThreadsOfThisProcess() {
  int count = 0;
  for ([[maybe_unused]] const auto& thread :
       std::filesystem::directory_iterator("/proc/self/task")) {
    ++count;
  }
  return count;
}

// A unary call of any method with serialized messages.
grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel,
                     const std::string& method, const std::string& request,
                     std::string* response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  grpc::Slice slice(request);
  grpc::ByteBuffer in(&slice, 1), out;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, method, in, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&out, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (status.ok() && out.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()),
                       part.size());
    }
  }
  return status;
}

std::string HttpGet(const std::string& address, const std::string& path) {
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  where.sin_port = htons(port);
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
  const std::string request =
      "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
  EXPECT_GT(write(fd, request.data(), request.size()), 0);
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
    answer.append(buffer, n);
  }
  close(fd);
  return answer;
}

class ServerAppTest : public ServerTest {};

struct Poll {
  grpc::ClientContext context;
  v1::LeaseTasksResponse response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::LeaseTasksResponse>>
      reader;
};
struct Watch {
  grpc::ClientContext context;
  v1::Job job;
  std::unique_ptr<grpc::ClientAsyncReader<v1::Job>> reader;
};

TEST_F(ServerAppTest, HundredPollsAndHundredWatchesHoldNoThreads) {
  constexpr int kEach = 100;
  auto client = Connect();
  auto first = client->CreateJob(EvaluateRequest(client.get(), "watched"));
  ASSERT_TRUE(first.ok()) << first.status();
  // Its prepare task goes to the first worker, so that the rest wait.
  grpc::CompletionQueue polls, watches;
  auto workers = v1::WorkerService::NewStub(Channel());
  auto jobs = v1::QuantizationService::NewStub(Channel());
  std::vector<std::string> sessions;
  for (int i = 0; i < kEach + 1; ++i) {
    v1::OpenSessionRequest request;
    request.set_worker("w" + std::to_string(i));
    request.set_device("cpu");
    sessions.push_back(client->OpenSession(request)->name());
  }
  auto lease = [&](int i, int64_t seconds) {
    v1::LeaseTasksRequest request;
    request.set_session(sessions[i]);
    request.set_algorithms(AlgorithmVersions());
    request.set_max_tasks(1);
    request.mutable_wait()->set_seconds(seconds);
    return request;
  };
  auto prepare = client->LeaseTasks(lease(kEach, 10));
  ASSERT_TRUE(prepare.ok()) << prepare.status();
  ASSERT_EQ(prepare->tasks_size(), 1);

  const int threads_before = ThreadsOfThisProcess();
  std::vector<Poll> poll(kEach);
  std::vector<Watch> watch(kEach);
  for (int i = 0; i < kEach; ++i) {
    poll[i].reader =
        workers->AsyncLeaseTasks(&poll[i].context, lease(i, 8), &polls);
    poll[i].reader->Finish(&poll[i].response, &poll[i].status, &poll[i]);
    v1::WatchJobRequest request;
    request.set_name(first->name());
    watch[i].reader =
        jobs->AsyncWatchJob(&watch[i].context, request, &watches, &watch[i]);
  }
  void* tag;
  bool ok;
  for (int i = 0; i < kEach; ++i) {  // All are started.
    ASSERT_TRUE(watches.Next(&tag, &ok) && ok);
  }
  for (Watch& w : watch) w.reader->Read(&w.job, &w);
  for (int i = 0; i < kEach; ++i) {  // All have seen the job.
    ASSERT_TRUE(watches.Next(&tag, &ok) && ok);
    EXPECT_EQ(static_cast<Watch*>(tag)->job.name(), first->name());
  }
  EXPECT_LT(ThreadsOfThisProcess() - threads_before, 40);
  // Others are served meanwhile, and work that comes finds a waiting worker.
  const absl::Time start = absl::Now();
  ASSERT_TRUE(client->GetJob(first->name()).ok());
  ASSERT_TRUE(client->CancelJob(first->name()).ok());
  v1::CreateJobRequest other = EvaluateRequest(client.get(), "other");
  *other.mutable_spec()
       ->mutable_evaluation()
       ->mutable_source()
       ->mutable_texts(0)
       ->mutable_digest() =
      ToProto(client->UploadBytes("another text").value());
  ASSERT_TRUE(client->CreateJob(other).ok());
  ASSERT_TRUE(polls.Next(&tag, &ok) && ok);
  EXPECT_EQ(static_cast<Poll*>(tag)->response.tasks_size(), 1);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  int leased = 1;
  for (int i = 1; i < kEach; ++i) {  // The rest wait in vain.
    ASSERT_TRUE(polls.Next(&tag, &ok) && ok);
    EXPECT_TRUE(static_cast<Poll*>(tag)->status.ok())
        << static_cast<Poll*>(tag)->status.error_message();
    leased += static_cast<Poll*>(tag)->response.tasks_size();
  }
  EXPECT_EQ(leased, 1);
  for (Watch& w : watch) w.reader->Read(&w.job, &w);
  for (int i = 0; i < kEach; ++i) {  // All see that it was cancelled.
    ASSERT_TRUE(watches.Next(&tag, &ok));
    EXPECT_TRUE(ok);
    EXPECT_GE(static_cast<Watch*>(tag)->job.state(), v1::JOB_STATE_CANCELLING);
  }
  for (Watch& w : watch) w.context.TryCancel();
}

TEST_F(ServerAppTest, ShutdownFreesWaitingCalls) {
  auto client =
      Client::Connect({.address = address(), .retry_for = absl::ZeroDuration()})
          .value();
  v1::OpenSessionRequest open;
  open.set_worker("w");
  const v1::Session session = client->OpenSession(open).value();
  absl::Status status;
  std::thread poll([&] {
    v1::LeaseTasksRequest request;
    request.set_session(session.name());
    request.set_algorithms(AlgorithmVersions());
    request.set_max_tasks(1);
    request.mutable_wait()->set_seconds(20);
    status = client->LeaseTasks(request).status();
  });
  absl::SleepFor(absl::Milliseconds(300));
  const absl::Time start = absl::Now();
  server_->Shutdown();
  poll.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_FALSE(std::filesystem::exists(directory_.path() + "/server.sock"));
}

TEST_F(ServerAppTest, OneServerOnAStateDirectory) {
  ServerOptions second = options_;
  second.listen = {"127.0.0.1:0"};
  absl::Status status = ServerApp::Start(second).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(std::to_string(getpid())));
  server_.reset();
  EXPECT_TRUE(ServerApp::Start(second).ok());
}

TEST_F(ServerAppTest, AddressesInUseAreNotShared) {
  ServerOptions second = options_;
  second.state_dir = directory_.path() + "/second";
  absl::Status status = ServerApp::Start(second).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_TRUE(Connect() != nullptr);  // The first is unharmed.
  second.listen = {"127.0.0.1:0"};
  auto third = ServerApp::Start(second);
  ASSERT_TRUE(third.ok()) << third.status();
  ServerOptions fourth = options_;
  fourth.state_dir = directory_.path() + "/fourth";
  fourth.listen = (*third)->addresses();
  EXPECT_THAT(fourth.listen[0], ::testing::Not(HasSubstr(":0")));
  EXPECT_EQ(ServerApp::Start(fourth).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(Client::Connect({.address = fourth.listen[0]}).ok());
}

TEST_F(ServerAppTest, SocketIsItsOwnersOnly) {
  struct stat info;
  ASSERT_EQ(stat((directory_.path() + "/server.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ServerAppTest, RemoteAddressesNeedConsent) {
  ServerOptions remote = options_;
  remote.state_dir = directory_.path() + "/remote";
  for (const char* address :
       {"0.0.0.0:0", "[::]:0", "example.com:1", "127.0.0.1.example.com:1"}) {
    remote.listen = {"127.0.0.1:0", address};
    EXPECT_EQ(ServerApp::Start(remote).status().code(),
              absl::StatusCode::kPermissionDenied)
        << address;
  }
  remote.listen = {"0.0.0.0:0"};
  remote.insecure_allow_remote = true;
  EXPECT_TRUE(ServerApp::Start(remote).ok());
}

TEST_F(ServerAppTest, EachServiceHasItsHealth) {
  auto channel = Channel();
  for (const char* name :
       {"", "bitwright.v1.QuantizationService", "bitwright.v1.WorkerService",
        "bitwright.v1.BlobService", "bitwright.v1.CheckpointService",
        "bitwright.v1.ServerInfoService"}) {
    // HealthCheckRequest { string service = 1; }
    std::string request = name;
    if (!request.empty()) {
      request =
          std::string("\x0a") + static_cast<char>(request.size()) + request;
    }
    std::string response;
    grpc::Status status =
        RawCall(channel, "/grpc.health.v1.Health/Check", request, &response);
    EXPECT_TRUE(status.ok()) << name << status.error_message();
    EXPECT_EQ(response, "\x08\x01") << name;  // SERVING
  }
  std::string response;
  EXPECT_EQ(
      RawCall(channel, "/grpc.health.v1.Health/Check", "\x0a\x01x", &response)
          .error_code(),
      grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerAppTest, ReflectionOnlyOnDemand) {
  constexpr char kMethod[] =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services = std::string("\x3a\x01*");
  std::string response;
  EXPECT_EQ(RawCall(Channel(), kMethod, list_services, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  server_.reset();
  options_.enable_reflection = true;
  Start();
  // A stream of one message looks like a unary call.
  grpc::Status status = RawCall(Channel(), kMethod, list_services, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response, HasSubstr("bitwright.v1.WorkerService"));
}

TEST_F(ServerAppTest, MetricsPage) {
  server_.reset();
  options_.metrics_address = "127.0.0.1:0";
  Start();
  auto client = Connect();
  ASSERT_TRUE(client->UploadBytes("12345").ok());
  ASSERT_TRUE(client->CreateJob(EvaluateRequest(client.get(), "r")).ok());
  // A call is counted when it has ended, a moment after its reply has arrived.
  const std::string call =
      "bitwright_rpc_seconds_bucket{method=\"/bitwright.v1."
      "QuantizationService/CreateJob\"";
  std::string page;
  for (int i = 0; i < 200 && !absl::StrContains(page, call); ++i) {
    absl::SleepFor(absl::Milliseconds(i == 0 ? 0 : 50));
    page = HttpGet(server_->metrics_address(), "/metrics");
  }
  for (const std::string& part : std::vector<std::string>{
           "bitwright_build_info{", "bitwright_jobs{state=\"",
           "bitwright_leases_granted_total 0", "bitwright_leases_expired_total",
           "bitwright_tasks_completed_total", "bitwright_tasks_cached_total",
           "bitwright_tasks_failed_total", "bitwright_stale_results_total",
           "bitwright_damping_retries_total",
           "bitwright_diagonal_fallbacks_total",
           "bitwright_blob_bytes_total{direction=\"in\"} 27", call}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
}

TEST_F(ServerAppTest, ClientNamesAServerThatIsNotThere) {
  absl::Status status =
      Client::Connect({.address = "unix:" + directory_.path() + "/none"},
                      absl::Milliseconds(300))
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/none"));
}

}  // namespace
}  // namespace bitwright
