// `bitwright submit | watch | jobs | job | tasks | cancel | retry | delete |
// workers`, against a running server.
#include <google/protobuf/util/json_util.h>

#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/api/client.h"
#include "client/cli/commands.h"
#include "client/cli/console.h"
#include "client/cli/interrupt.h"
#include "client/cli/prediction.h"
#include "client/cli/progress.h"
#include "client/cli/spec_options.h"
#include "client/cli/watch.h"
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

struct JobOptions {
  std::string server;
  std::string job;
  SpecOptions spec;
  std::string request_id;
  bool watch = false;
  bool exit_status = false;
  double timeout_seconds = 0;  // 0: none.
};

std::string JobName(const std::string& text) {
  return absl::StartsWith(text, "jobs/") ? text : absl::StrCat("jobs/", text);
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(message, &json, options)
           .ok())
    return "{}\n";
  return json;
}

absl::StatusOr<std::shared_ptr<Client>> Connect(const std::string& server) {
  ClientOptions options;
  options.address = server;
  BW_ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Connect(options));
  return std::shared_ptr<Client>(std::move(client));
}

absl::Time FromProtoTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) +
         absl::Nanoseconds(time.nanos());
}

std::string Elapsed(const v1::Job& job) {
  if (!job.has_start_time()) return "-";
  const absl::Time end =
      job.has_end_time() ? FromProtoTime(job.end_time()) : absl::Now();
  return HumanDuration(end - FromProtoTime(job.start_time()));
}

std::string JobText(const v1::Job& job) {
  const JobProgress progress = MeasureProgress(job);
  Table table({"job", job.name()});
  table.AddRow({"state", JobStateName(job.state())});
  table.AddRow({"model", job.spec().model().path()});
  table.AddRow(
      {"tasks", absl::StrFormat("%d of %d done, %d cached", progress.done,
                                progress.total, progress.cached)});
  table.AddRow({"elapsed", Elapsed(job)});
  if (job.has_error()) table.AddRow({"error", job.error().message()});
  if (!job.result().checkpoint().empty()) {
    table.AddRow({"checkpoint", job.result().checkpoint()});
    table.AddRow({"bits per weight",
                  absl::StrFormat("%.4f codes, %.4f file",
                                  job.result().code_bits_per_weight(),
                                  job.result().file_bits_per_weight())});
  }
  if (job.spec().method().scope() == v1::SCOPE_MODEL) {
    table.AddRow({"scope", "model"});
  }
  for (const v1::Prediction& prediction : job.result().predictions()) {
    table.AddRow({absl::StrFormat("predicted at %g bits", prediction.bits()),
                  PredictionText(prediction)});
  }
  if (job.result().has_perplexity_before()) {
    table.AddRow(
        {"perplexity before",
         Significant(job.result().perplexity_before().perplexity(), 6)});
  }
  if (job.result().has_perplexity_after()) {
    table.AddRow(
        {"perplexity after",
         Significant(job.result().perplexity_after().perplexity(), 6)});
  }
  return table.Render();
}

void PrintJob(const v1::Job& job, const Globals& globals) {
  std::cout << (globals.json ? ToJson(job) : JobText(job));
}

absl::StatusOr<int> WatchJob(std::shared_ptr<Client> client,
                             const JobOptions& options, const std::string& name,
                             const Globals& globals) {
  WatchOptions watch;
  watch.quiet = globals.quiet;
  if (options.timeout_seconds > 0)
    watch.timeout = absl::Seconds(options.timeout_seconds);
  absl::StatusOr<v1::Job> job = WatchToEnd(std::move(client), name, watch);
  if (Interrupted() != 0) {
    std::cerr << "detached; the job goes on. To come back: bitwright watch "
              << name << " --server " << options.server << "\n";
    return kExitSignalBase + Interrupted();
  }
  BW_RETURN_IF_ERROR(job.status());
  PrintJob(*job, globals);
  return ReportJobEnd(*job);
}

absl::StatusOr<int> Submit(const JobOptions& options, const Globals& globals) {
  BW_RETURN_IF_ERROR(CheckOptions(options.spec, /*evaluate_only=*/false));
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  v1::CreateJobRequest request;
  BW_ASSIGN_OR_RETURN(
      *request.mutable_spec(),
      BuildQuantizeSpec(options.spec, [&](const std::string& path) {
        return client->UploadFile(path);
      }));
  request.set_request_id(options.request_id.empty()
                             ? RequestIdFor(request.spec())
                             : options.request_id);
  BW_ASSIGN_OR_RETURN(v1::Job job, CreateOrContinue(client.get(), request));
  if (options.watch) return WatchJob(client, options, job.name(), globals);
  std::cout << (globals.json ? ToJson(job) : job.name() + "\n");
  return kExitDone;
}

// All pages of a list as one response.
template <typename Request, typename Response>
absl::StatusOr<Response> AllPages(
    Client* client, Request request,
    absl::StatusOr<Response> (Client::*list)(const Request&)) {
  Response all;
  do {
    BW_ASSIGN_OR_RETURN(Response page, (client->*list)(request));
    all.MergeFrom(page);
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  all.clear_next_page_token();
  return all;
}

absl::StatusOr<int> ShowJobs(const JobOptions& options,
                             const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  BW_ASSIGN_OR_RETURN(
      v1::ListJobsResponse all,
      AllPages(client.get(), v1::ListJobsRequest(), &Client::ListJobs));
  if (globals.json) {
    std::cout << ToJson(all);
    return kExitDone;
  }
  Table table({"job", "state", "done", "elapsed", "model"});
  for (const v1::Job& job : all.jobs()) {
    table.AddRow(
        {job.name(), JobStateName(job.state()),
         absl::StrFormat("%d%%",
                         static_cast<int>(MeasureProgress(job).fraction * 100)),
         Elapsed(job), job.spec().model().path()});
  }
  std::cout << table.Render();
  return kExitDone;
}

absl::StatusOr<int> ShowJob(const JobOptions& options, const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  BW_ASSIGN_OR_RETURN(v1::Job job, client->GetJob(JobName(options.job)));
  PrintJob(job, globals);
  return options.exit_status ? ReportJobEnd(job) : static_cast<int>(kExitDone);
}

// How far a running task is, and what went wrong before.
std::string LastWords(const v1::Task& task) {
  std::vector<std::string> words;
  if (task.state() == v1::TASK_STATE_RUNNING) {
    words.push_back(absl::StrFormat("%.0f%%", 100 * task.fraction_done()));
    if (!task.note().empty()) words.push_back(task.note());
  }
  if (!task.errors().empty())
    words.push_back(task.errors().rbegin()->message());
  return absl::StrJoin(words, ", ");
}

absl::StatusOr<int> ShowTasks(const JobOptions& options,
                              const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  v1::ListTasksRequest request;
  request.set_job(JobName(options.job));
  BW_ASSIGN_OR_RETURN(v1::ListTasksResponse all,
                      AllPages(client.get(), request, &Client::ListTasks));
  if (globals.json) {
    std::cout << ToJson(all);
    return kExitDone;
  }
  Table table({"task", "kind", "state", "attempts", "worker", "time",
               "progress, last error"});
  for (const v1::Task& task : all.tasks()) {
    const std::string time =
        task.has_start_time() && task.has_end_time()
            ? HumanDuration(FromProtoTime(task.end_time()) -
                            FromProtoTime(task.start_time()))
            : "-";
    table.AddRow({task.name().substr(task.name().rfind('/') + 1),
                  TaskKindName(task.kind()), TaskStateName(task.state()),
                  absl::StrCat(task.attempts()), task.worker(), time,
                  LastWords(task)});
  }
  std::cout << table.Render();
  return kExitDone;
}

absl::StatusOr<int> ShowWorkers(const JobOptions& options,
                                const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  BW_ASSIGN_OR_RETURN(v1::ListWorkersResponse workers, client->ListWorkers());
  if (globals.json) {
    std::cout << ToJson(workers);
    return kExitDone;
  }
  Table table({"worker", "device", "version", "alive", "running", "completed",
               "last seen"});
  for (const v1::Worker& worker : workers.workers()) {
    table.AddRow(
        {worker.name(), worker.device(), worker.version(),
         worker.alive() ? "yes" : "no", absl::StrCat(worker.running_tasks()),
         absl::StrCat(worker.completed_tasks()),
         HumanDuration(absl::Now() - FromProtoTime(worker.last_seen_time())) +
             " ago"});
  }
  std::cout << table.Render();
  return kExitDone;
}

absl::StatusOr<int> Watch(const JobOptions& options, const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  BW_ASSIGN_OR_RETURN(v1::Job job, client->GetJob(JobName(options.job)));
  return WatchJob(client, options, job.name(), globals);
}

using ChangeJob = absl::StatusOr<v1::Job> (Client::*)(const std::string&);

template <ChangeJob change>
absl::StatusOr<int> Change(const JobOptions& options, const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  BW_ASSIGN_OR_RETURN(v1::Job job,
                      (client.get()->*change)(JobName(options.job)));
  PrintJob(job, globals);
  return kExitDone;
}

absl::StatusOr<int> Delete(const JobOptions& options, const Globals& globals) {
  BW_ASSIGN_OR_RETURN(std::shared_ptr<Client> client, Connect(options.server));
  const std::string name = JobName(options.job);
  BW_RETURN_IF_ERROR(client->DeleteJob(name));
  if (globals.json) {
    std::cout << nlohmann::json{{"deleted", name}}.dump(2) << "\n";
  } else {
    std::cout << name << " deleted\n";
  }
  return kExitDone;
}

using Command =
    std::function<absl::StatusOr<int>(const JobOptions&, const Globals&)>;

// A subcommand that talks to --server. Each has options of its own: CLI11 fills
// in the environment for all of them, called or not.
struct ServerCommand {
  CLI::App* app;
  std::shared_ptr<JobOptions> options;
};

ServerCommand AddServerCommand(CLI::App* app, const std::string& name,
                               const std::string& description, Globals* globals,
                               Command command) {
  auto options = std::make_shared<JobOptions>();
  CLI::App* added = app->add_subcommand(name, description);
  added->add_option("--server", options->server, "host:port or unix:/path")
      ->required();
  AddOutputOptions(added, globals);
  added->callback([=] {
    absl::StatusOr<int> code = command(*options, *globals);
    globals->exit_code = code.ok() ? *code : ReportError(code.status());
  });
  return {added, options};
}

}  // namespace

void AddJobCommands(CLI::App* app, Globals* globals) {
  auto add = [&](const std::string& name, const std::string& description,
                 Command command) {
    return AddServerCommand(app, name, description, globals,
                            std::move(command));
  };
  auto add_for_job = [&](const std::string& name,
                         const std::string& description, Command command) {
    ServerCommand added = add(name, description, std::move(command));
    added.app->add_option("JOB", added.options->job, "jobs/ID, or the ID alone")
        ->required();
    return added;
  };

  const ServerCommand submit =
      add("submit", "Hand a quantization job to a server", Submit);
  AddModelArgument(submit.app, &submit.options->spec);
  AddQuantizationOptions(submit.app, &submit.options->spec);
  AddEvaluationOptions(submit.app, &submit.options->spec);
  submit.app->add_option(
      "--request-id", submit.options->request_id,
      "Submitting twice with one id makes one job [from the spec]");
  submit.app->add_flag("--watch", submit.options->watch, "Watch it to its end");

  const ServerCommand watch =
      add_for_job("watch", "Follow a job to its end; Ctrl-C detaches", Watch);
  watch.app->add_option("--timeout", watch.options->timeout_seconds,
                        "Seconds to wait at most");
  add("jobs", "List jobs, newest first", ShowJobs);
  const ServerCommand job = add_for_job("job", "Show a job", ShowJob);
  job.app->add_flag(
      "--exit-status", job.options->exit_status,
      "Exit 0 if it succeeded, 8 if it still runs, otherwise as quantize "
      "would");
  add_for_job("tasks", "List a job's tasks", ShowTasks);
  add_for_job("cancel", "Cancel a job", Change<&Client::CancelJob>);
  add_for_job("retry", "Take up a failed or cancelled job again",
              Change<&Client::RetryJob>);
  add_for_job("delete", "Delete an ended job and the blobs that only it uses",
              Delete);
  add("workers", "List workers", ShowWorkers);
}

}  // namespace bitwright
