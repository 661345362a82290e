// A server in this process on a Unix socket, and clients of it.
#ifndef BITWRIGHT_TESTS_UNIT_SERVER_RPC_RPC_TEST_UTIL_H_
#define BITWRIGHT_TESTS_UNIT_SERVER_RPC_RPC_TEST_UTIL_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "client/api/client.h"
#include "common/base/file.h"
#include "server/rpc/server_app.h"

namespace bitwright {

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(models());
    std::filesystem::copy(SourceDir() + "/tests/fixtures/models/handbook-llama",
                          models() + "/llama");
    options_.listen = {address()};
    options_.state_dir = directory_.path() + "/state";
    options_.model_roots = {models()};
    options_.scheduler.lease_duration = absl::Minutes(1);
    Start();
  }

  static std::string SourceDir() {
    const char* dir = std::getenv("BITWRIGHT_SOURCE_DIR");
    return dir == nullptr ? "." : dir;
  }
  std::string models() const { return directory_.path() + "/models"; }
  std::string address() const {
    return "unix:" + directory_.path() + "/server.sock";
  }

  void Start() {
    auto server = ServerApp::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::unique_ptr<Client> Connect() {
    auto client = Client::Connect({.address = address()});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  std::shared_ptr<grpc::Channel> Channel() {
    return grpc::CreateChannel(address(), grpc::InsecureChannelCredentials());
  }

  // An evaluation of the model over a text that is uploaded.
  v1::CreateJobRequest EvaluateRequest(Client* client,
                                       const std::string& request_id) {
    v1::CreateJobRequest request;
    request.set_request_id(request_id);
    v1::JobSpec* spec = request.mutable_spec();
    spec->mutable_model()->set_path(models() + "/llama");
    spec->set_evaluate_only(true);
    v1::NamedBlob* text =
        spec->mutable_evaluation()->mutable_source()->add_texts();
    text->set_name("text.txt");
    *text->mutable_digest() =
        ToProto(client->UploadBytes("a text to be evaluated").value());
    return request;
  }

  TempDirectory directory_ = TempDirectory::Create("bw-rpc").value();
  ServerOptions options_;
  std::unique_ptr<ServerApp> server_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_UNIT_SERVER_RPC_RPC_TEST_UTIL_H_
