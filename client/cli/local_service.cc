#include "client/cli/local_service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/api/client.h"
#include "client/cli/interrupt.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSocketPath = 100;  // sockaddr_un holds 108 bytes.
constexpr absl::Duration kPoll = absl::Milliseconds(50);
constexpr uint64_t kFullDiskBytes = 256 << 10;
constexpr absl::Duration kDiskPatience = absl::Seconds(5);
constexpr absl::Duration kStopTimeout = absl::Seconds(8);

std::string OwnBinaryDir() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

std::string Tail(const std::string& path, size_t max_bytes) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return "";
  return text->size() <= max_bytes ? *text
                                   : text->substr(text->size() - max_bytes);
}

// Ours without BITWRIGHT_*: the children get every setting as a flag.
std::vector<char*> ChildEnvironment() {
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, "BITWRIGHT_")) environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  return environment;
}

std::string DescribeExit(int wait_status) {
  return WIFSIGNALED(wait_status)
             ? absl::StrCat("was ended by signal ", WTERMSIG(wait_status))
             : absl::StrCat("ended with code ", WEXITSTATUS(wait_status));
}

}  // namespace

std::string DefaultStateDir() {
  const char* state_home = std::getenv("XDG_STATE_HOME");
  if (state_home != nullptr && *state_home != '\0') {
    return absl::StrCat(state_home, "/bitwright");
  }
  const char* home = std::getenv("HOME");
  return absl::StrCat(home != nullptr && *home != '\0' ? home : ".",
                      "/.local/state/bitwright");
}

// All children are started and awaited by one thread, the supervisor: the
// kernel's death signal goes by the thread that forked, not by the process.
class LocalService::Impl {
 public:
  explicit Impl(LocalServiceOptions options) : options_(std::move(options)) {}
  ~Impl() {
    Stop();
    if (lock_ >= 0) close(lock_);
  }

  absl::Status Start() {
    BW_RETURN_IF_ERROR(PrepareDirectories());
    BW_RETURN_IF_ERROR(Lock());
    BW_RETURN_IF_ERROR(ChooseAddress());
    BW_RETURN_IF_ERROR(DescribeChildren());
    supervisor_ = std::thread([this] { Supervise(); });
    return AwaitServer();
  }

  const std::string& address() const { return address_; }

  absl::Status health() const {
    absl::MutexLock lock(&mutex_);
    return health_;
  }

 private:
  // One child process, its command and its log.
  struct Child {
    std::vector<std::string> command;
    std::string log_path;
    pid_t pid = -1;
  };

  // Starts `child`. Between fork and exec only async-signal-safe calls are
  // made, for other threads are running.
  static absl::Status Spawn(Child* child) {
    std::vector<char*> argv;
    for (std::string& part : child->command) argv.push_back(part.data());
    argv.push_back(nullptr);
    std::vector<char*> environment = ChildEnvironment();
    int log = open(child->log_path.c_str(),
                   O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) return ErrnoStatus(errno, "cannot open log", child->log_path);
    const pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(kExitInfrastructure);
      dup2(log, STDOUT_FILENO);
      dup2(log, STDERR_FILENO);
      execve(argv[0], argv.data(), environment.data());
      _exit(127);
    }
    int error_number = errno;
    close(log);
    if (pid < 0)
      return ErrnoStatus(error_number, "cannot start", child->command[0]);
    child->pid = pid;
    return absl::OkStatus();
  }

  absl::Status PrepareDirectories() {
    std::error_code error;
    const bool made = !fs::exists(options_.state_dir, error);
    fs::create_directories(fs::path(options_.state_dir) / "logs", error);
    if (error) {
      return ErrnoStatus(error.value(), "cannot make the state directory",
                         options_.state_dir);
    }
    if (made) {
      fs::permissions(options_.state_dir, fs::perms::owner_all, error);
    }
    options_.state_dir = fs::canonical(options_.state_dir, error).string();
    return absl::OkStatus();
  }

  absl::Status Lock() {
    const std::string path = options_.state_dir + "/client.lock";
    lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_ < 0) return ErrnoStatus(errno, "cannot open", path);
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      absl::StatusOr<std::string> owner = ReadFile(path);
      return absl::AbortedError(
          absl::StrCat("another bitwright command (process ",
                       owner.ok() && !owner->empty() ? *owner : "?",
                       ") uses the state directory ", options_.state_dir,
                       "; wait for it, or give another --state-dir"));
    }
    const std::string pid = absl::StrCat(getpid());
    if (ftruncate(lock_, 0) != 0 || pwrite(lock_, pid.data(), pid.size(), 0) !=
                                        static_cast<ssize_t>(pid.size())) {
      return ErrnoStatus(errno, "cannot write", path);
    }
    return absl::OkStatus();
  }

  absl::Status ChooseAddress() {
    std::string socket = options_.state_dir + "/server.sock";
    if (socket.size() > kMaxSocketPath) {
      BW_ASSIGN_OR_RETURN(auto directory, TempDirectory::Create("bitwright-"));
      socket_dir_.emplace(std::move(directory));
      socket = socket_dir_->path() + "/server.sock";
    }
    address_ = "unix:" + socket;
    return absl::OkStatus();
  }

  absl::Status DescribeChildren() {
    const std::string bin =
        options_.binary_dir.empty() ? OwnBinaryDir() : options_.binary_dir;
    const std::string logs = options_.state_dir + "/logs/";
    children_.push_back(
        {{bin + "/bitwright-server", "--listen", address_, "--state-dir",
          options_.state_dir + "/server", "--model-root", "/",
          "--lease-duration", "10s", "--exit-with-parent"},
         logs + "server.log"});
    const int cores = std::max(1u, std::thread::hardware_concurrency());
    const int threads = options_.threads > 0
                            ? options_.threads
                            : std::max(1, cores / options_.workers);
    for (int i = 0; i < options_.workers; ++i) {
      const std::string name = absl::StrCat("worker-", i);
      children_.push_back(
          {{bin + "/bitwright-worker", "--server", address_, "--name", name,
            "--device", options_.device, "--threads", absl::StrCat(threads),
            "--cache-dir", absl::StrCat(options_.state_dir, "/cache/", name),
            "--exit-with-parent"},
           absl::StrCat(logs, name, ".log")});
    }
    for (const Child& child : children_) {
      if (access(child.command[0].c_str(), X_OK) != 0) {
        return absl::InternalError(absl::StrCat(
            child.command[0],
            " is missing; the server and worker belong beside this program"));
      }
      std::error_code ignored;
      fs::remove(child.log_path, ignored);
    }
    return absl::OkStatus();
  }

  void Supervise() {
    for (Child& child : children_) NoteFailure(Spawn(&child));
    while (!Stopping()) {
      for (Child& child : children_) {
        int status = 0;
        if (child.pid > 0 &&
            waitpid(child.pid, &status, WNOHANG) == child.pid) {
          child.pid = -1;
          Revive(&child, status);
        }
      }
      CheckDisk();
      absl::SleepFor(kPoll);
    }
    StopChildren();
  }

  // The server waits for space when the disk is full, which is right for one
  // that others look after; here the user is the one to tell.
  void CheckDisk() {
    struct statvfs disk;
    const bool full = statvfs(options_.state_dir.c_str(), &disk) == 0 &&
                      disk.f_bavail * disk.f_frsize < kFullDiskBytes;
    if (!full) {
      disk_full_since_ = absl::InfiniteFuture();
      return;
    }
    disk_full_since_ = std::min(disk_full_since_, absl::Now());
    if (absl::Now() - disk_full_since_ > kDiskPatience) {
      NoteFailure(absl::ResourceExhaustedError(
          absl::StrCat("No space left on the disk of the state directory ",
                       options_.state_dir,
                       "; nothing is lost: free some space and run the same "
                       "command again")));
    }
  }

  void Revive(Child* child, int wait_status) {
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == kExitBadInput) {
      NoteFailure(absl::InvalidArgumentError(Tail(child->log_path, 2000)));
      return;
    }
    // A server of a command that was just killed may still be on its way out.
    const bool starting = !ServerAnswered();
    if (!starting && Interrupted() == 0) {
      std::cerr << "note: " << fs::path(child->command[0]).filename().string()
                << " " << DescribeExit(wait_status) << "; starting it again\n";
    }
    if (!starting && ++restarts_ > options_.max_restarts) {
      NoteFailure(absl::AbortedError(
          absl::StrCat(child->command[0], " ", DescribeExit(wait_status),
                       " and was started again ", options_.max_restarts,
                       " times; the end of ", child->log_path, ":\n",
                       Tail(child->log_path, 2000))));
      return;
    }
    absl::SleepFor(absl::Milliseconds(200));
    NoteFailure(Spawn(child));
  }

  void StopChildren() {
    for (Child& child : children_) {
      if (child.pid > 0) kill(child.pid, SIGTERM);
    }
    const absl::Time deadline = absl::Now() + kStopTimeout;
    for (Child& child : children_) {
      while (child.pid > 0 && waitpid(child.pid, nullptr, WNOHANG) == 0) {
        if (absl::Now() > deadline) kill(child.pid, SIGKILL);
        absl::SleepFor(kPoll);
      }
      child.pid = -1;
    }
  }

  absl::Status AwaitServer() {
    const absl::Time deadline = absl::Now() + options_.start_timeout;
    ClientOptions client_options;
    client_options.address = address_;
    client_options.retry_for = absl::ZeroDuration();
    while (absl::Now() < deadline && Interrupted() == 0) {
      BW_RETURN_IF_ERROR(health());
      if (Client::Connect(client_options, absl::Seconds(1)).ok()) {
        absl::MutexLock lock(&mutex_);
        answered_ = true;
        return absl::OkStatus();
      }
    }
    return absl::InternalError(absl::StrCat(
        "the private server did not start; the end of ", children_[0].log_path,
        ":\n", Tail(children_[0].log_path, 2000)));
  }

  void Stop() {
    if (!supervisor_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    supervisor_.join();
  }

  bool Stopping() const {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }
  bool ServerAnswered() const {
    absl::MutexLock lock(&mutex_);
    return answered_;
  }
  void NoteFailure(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (!status.ok() && health_.ok()) health_ = status;
  }

  LocalServiceOptions options_;
  std::string address_;
  std::optional<TempDirectory> socket_dir_;
  int lock_ = -1;
  std::thread supervisor_;
  std::vector<Child> children_;  // The supervisor's, once it runs.
  absl::Time disk_full_since_ = absl::InfiniteFuture();  // The supervisor's.
  int restarts_ = 0;                                     // The supervisor's.

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<LocalService>> LocalService::Start(
    const LocalServiceOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  BW_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<LocalService>(new LocalService(std::move(impl)));
}

LocalService::LocalService(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
LocalService::~LocalService() = default;
const std::string& LocalService::address() const { return impl_->address(); }
absl::Status LocalService::health() const { return impl_->health(); }

}  // namespace bitwright
