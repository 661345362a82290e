// What every JobStore must do. An implementation instantiates the suite with a
// type that opens it:
//
//   struct SqliteStores {
//     std::unique_ptr<JobStore> Open();  // The same store at every call.
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, JobStoreContract, SqliteStores);
#ifndef BITWRIGHT_TESTS_CONTRACT_JOB_STORE_CONTRACT_H_
#define BITWRIGHT_TESTS_CONTRACT_JOB_STORE_CONTRACT_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/store/job_store.h"
#include "tests/contract/job_store_fixture.h"

namespace bitwright {

TYPED_TEST_SUITE_P(JobStoreContract);

TYPED_TEST_P(JobStoreContract, JobsComeBackAsTheyWere) {
  JobRecord job = this->Job("a", "request");
  job.state = v1::JOB_STATE_FAILED;
  job.start_time = absl::FromUnixMicros(0);
  job.error.set_message("why");
  job.result.set_checkpoint("c");
  job.sequence = 9;
  const int64_t number = this->Insert(job);
  this->store_ = this->stores_.Open();
  this->Read([&](JobTransaction* t) {
    for (const auto& found :
         {this->Value(t->FindJob("a")), this->Value(t->JobByNumber(number)),
          this->Value(t->JobByRequest("request"))}) {
      ASSERT_TRUE(found);
      EXPECT_EQ(found->number, number);
      EXPECT_EQ(found->id, "a");
      EXPECT_EQ(found->request_id, "request");
      EXPECT_EQ(found->asked, "asked");
      EXPECT_EQ(found->spec.model().path(), "/models/a");
      EXPECT_EQ(found->state, v1::JOB_STATE_FAILED);
      EXPECT_EQ(found->create_time, absl::FromUnixMicros(1234567));
      EXPECT_EQ(found->start_time, absl::UnixEpoch());
      EXPECT_EQ(found->end_time, absl::InfinitePast());
      EXPECT_EQ(found->error.message(), "why");
      EXPECT_EQ(found->result.checkpoint(), "c");
      EXPECT_EQ(found->sequence, 9);
    }
    EXPECT_FALSE(this->Value(t->FindJob("b")));
    EXPECT_FALSE(this->Value(t->JobByNumber(number + 1)));
    EXPECT_FALSE(this->Value(t->JobByRequest("")));
  });
}

TYPED_TEST_P(JobStoreContract, IdsAndRequestIdsAreUniqueButMayBeEmpty) {
  this->Insert(this->Job("a", "r"));
  for (const JobRecord& clash : {this->Job("a"), this->Job("b", "r")}) {
    const absl::Status status = this->store_->Write(
        [&](JobTransaction* t) { return t->InsertJob(clash).status(); });
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
  }
  this->Insert(this->Job("c"));
  this->Insert(this->Job("d"));
}

TYPED_TEST_P(JobStoreContract, FailedTransactionsChangeNothing) {
  const absl::Status status =
      this->store_->Write([&](JobTransaction* t) -> absl::Status {
        EXPECT_TRUE(t->InsertJob(this->Job("a")).ok());
        EXPECT_TRUE(this->Value(t->FindJob("a")));  // It sees its own changes.
        return absl::AbortedError("no");
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  this->Read(
      [&](JobTransaction* t) { EXPECT_FALSE(this->Value(t->FindJob("a"))); });
}

TYPED_TEST_P(JobStoreContract, ReadersChangeNothing) {
  EXPECT_FALSE(this->store_
                   ->Read([&](JobTransaction* t) {
                     return t->InsertJob(this->Job("a")).status();
                   })
                   .ok());
  this->Insert(this->Job("a"));
}

TYPED_TEST_P(JobStoreContract, JobsAreListedUpdatedAndPlannedInOrder) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b")),
                c = this->Insert(this->Job("c"));
  EXPECT_TRUE(a < b && b < c);
  this->Write([&](JobTransaction* t) {
    const std::vector<JobRecord> jobs = this->Value(t->JobsBefore(c + 1, 2));
    ASSERT_EQ(jobs.size(), 2u);
    EXPECT_EQ(jobs[0].id, "c");
    EXPECT_EQ(this->Value(t->JobsBefore(b, 10)).size(), 1u);
    EXPECT_EQ(this->Value(t->OldestUnplanned())->id, "a");
    JobRecord first = *this->Value(t->FindJob("a"));
    first.state = v1::JOB_STATE_RUNNING;
    first.sequence = 2;
    this->Ok(t->UpdateJob(first));
    JobRecord second = *this->Value(t->FindJob("b"));
    second.state = v1::JOB_STATE_PLANNING;
    this->Ok(t->UpdateJob(second));
    EXPECT_EQ(this->Value(t->OldestUnplanned())->id, "b");
    v1::JobSpec spec;
    spec.mutable_model()->set_path("/other");
    this->Ok(t->SetJobSpec(a, spec));
    EXPECT_EQ(this->Value(t->FindJob("a"))->spec.model().path(), "/other");
    EXPECT_EQ(this->Value(t->FindJob("a"))->sequence, 2);
    first.number = c + 1;
    EXPECT_EQ(t->UpdateJob(first).code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(t->SetJobSpec(c + 1, spec).code(), absl::StatusCode::kNotFound);
  });
}

TYPED_TEST_P(JobStoreContract, NumbersAreNeverUsedTwice) {
  const int64_t a = this->Insert(this->Job("a"));
  this->Write([&](JobTransaction* t) { this->Ok(t->DeleteJob(a)); });
  EXPECT_GT(this->Insert(this->Job("a")), a);
}

TYPED_TEST_P(JobStoreContract, TasksComeBackAndAreUpdatedConditionally) {
  const int64_t job = this->Insert(this->Job("a"));
  this->Write([&](JobTransaction* t) {
    for (int i = 0; i < 5; ++i) {
      this->Ok(t->InsertTask(this->Task(job, i, v1::TASK_STATE_READY), {}, {}));
    }
    TaskRecord task = *this->Value(t->FindTask(job, "task-3"));
    EXPECT_EQ(task.position, 3);
    EXPECT_EQ(task.stage, 1);
    EXPECT_EQ(task.affinity, "shard-0");
    EXPECT_EQ(task.kind, v1::TASK_KIND_FORWARD);
    EXPECT_EQ(task.lease_deadline, absl::InfinitePast());
    task.state = v1::TASK_STATE_RUNNING;
    task.pending = 3;
    task.attempts = 2;
    task.epoch = 1;
    task.session = "s";
    task.worker = "w";
    task.lease_deadline = absl::FromUnixMicros(50);
    task.action_digest = "action";
    task.start_time = absl::FromUnixMicros(20);
    task.fraction_done = 0.375;
    task.note = "half way";
    EXPECT_FALSE(this->Value(t->UpdateTask(task, v1::TASK_STATE_RUNNING, 0)));
    EXPECT_FALSE(this->Value(t->UpdateTask(task, v1::TASK_STATE_READY, 1)));
    EXPECT_EQ(this->Value(t->TaskAt(job, 3))->epoch, 0);
    EXPECT_TRUE(this->Value(t->UpdateTask(task, v1::TASK_STATE_READY, 0)));
    const TaskRecord stored = *this->Value(t->TaskAt(job, 3));
    EXPECT_EQ(stored.state, v1::TASK_STATE_RUNNING);
    EXPECT_EQ(stored.pending, 3);
    EXPECT_EQ(stored.attempts, 2);
    EXPECT_EQ(stored.session, "s");
    EXPECT_EQ(stored.worker, "w");
    EXPECT_EQ(stored.lease_deadline, absl::FromUnixMicros(50));
    EXPECT_EQ(stored.action_digest, "action");
    EXPECT_EQ(stored.start_time, absl::FromUnixMicros(20));
    EXPECT_EQ(stored.end_time, absl::InfinitePast());
    EXPECT_EQ(stored.fraction_done, 0.375);
    EXPECT_EQ(stored.note, "half way");
    EXPECT_EQ(this->Positions(this->Value(t->RunningTasks(job))),
              (std::vector<int>{3}));
    EXPECT_TRUE(this->Value(t->RunningTasks(job + 1)).empty());
    EXPECT_EQ(this->Positions(this->Value(t->ListTasks(job, 1, 3))),
              (std::vector<int>{1, 2, 3}));
    EXPECT_EQ(this->Positions(this->Value(t->ReadyTasks(3))),
              (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(this->Positions(this->Value(t->LeasesOf("s"))),
              (std::vector<int>{3}));
    EXPECT_TRUE(this->Value(t->LeasesOf("")).empty());
    EXPECT_TRUE(this->Value(t->LeasesUntil(absl::FromUnixMicros(49))).empty());
    EXPECT_EQ(this->Value(t->LeasesUntil(absl::FromUnixMicros(50))).size(), 1u);
    EXPECT_FALSE(this->Value(t->FindTask(job, "none")));
    EXPECT_FALSE(this->Value(t->TaskAt(job, 9)));
  });
}

TYPED_TEST_P(JobStoreContract, ReadyTasksOfOlderJobsComeFirst) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b"));
  this->Write([&](JobTransaction* t) {
    this->Ok(t->InsertTask(this->Task(b, 0, v1::TASK_STATE_READY), {}, {}));
    this->Ok(t->InsertTask(this->Task(a, 4, v1::TASK_STATE_READY), {}, {}));
    EXPECT_EQ(this->Positions(this->Value(t->ReadyTasks(9))),
              (std::vector<int>{4, 0}));
  });
}

TYPED_TEST_P(JobStoreContract, CancelAndCount) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b"));
  this->Write([&](JobTransaction* t) {
    int position = 0;
    for (v1::TaskState state :
         {v1::TASK_STATE_WAITING, v1::TASK_STATE_READY, v1::TASK_STATE_RUNNING,
          v1::TASK_STATE_SUCCEEDED, v1::TASK_STATE_FAILED}) {
      this->Ok(t->InsertTask(this->Task(a, position++, state), {}, {}));
    }
    this->Ok(t->InsertTask(this->Task(b, 0, v1::TASK_STATE_READY), {}, {}));
    auto count = [&](v1::TaskState state) {
      for (const TaskCount& c : this->Value(t->CountTasks(a))) {
        if (c.state == state) return c.count;
      }
      return int64_t{0};
    };
    this->Ok(t->CancelTasks(a, /*running=*/false, absl::FromUnixMicros(5)));
    EXPECT_EQ(count(v1::TASK_STATE_CANCELLED), 2);
    EXPECT_EQ(count(v1::TASK_STATE_RUNNING), 1);
    EXPECT_EQ(this->Value(t->TaskAt(a, 0))->end_time, absl::FromUnixMicros(5));
    this->Ok(t->CancelTasks(a, /*running=*/true, absl::FromUnixMicros(6)));
    EXPECT_EQ(count(v1::TASK_STATE_CANCELLED), 3);
    EXPECT_EQ(count(v1::TASK_STATE_SUCCEEDED), 1);
    EXPECT_EQ(count(v1::TASK_STATE_FAILED), 1);
    EXPECT_EQ(this->Value(t->TaskAt(b, 0))->state, v1::TASK_STATE_READY);
    JobRecord done = *this->Value(t->JobByNumber(a));
    done.state = v1::JOB_STATE_FAILED;
    this->Ok(t->UpdateJob(done));
    const std::vector<TaskCount> open = this->Value(t->CountOpenTasks());
    ASSERT_EQ(open.size(), 1u);
    EXPECT_EQ(open[0].state, v1::TASK_STATE_READY);
    EXPECT_EQ(open[0].count, 1);
  });
}

TYPED_TEST_P(JobStoreContract, GraphUnblocksAndResolves) {
  const int64_t job = this->Insert(this->Job("a"));
  this->Write([&](JobTransaction* t) {
    v1::Action planned;
    planned.set_model_digest("m");
    this->Ok(t->InsertTask(this->Task(job, 0), {}, {}));
    this->Ok(t->InsertTask(this->Task(job, 1), {}, {}));
    TaskRecord consumer = this->Task(job, 2);
    consumer.pending = 2;
    const std::vector<TaskInput> inputs = {
        {"z", 0, "hidden", {}},
        {"b", std::nullopt, "", this->Blob('b')},
        {"a", 0, "hessian", {}},
        {"c", 1, "hidden", {}}};
    this->Ok(t->InsertTask(consumer, planned, inputs));
    const std::vector<TaskEdge> edges = this->Value(t->Edges(job));
    ASSERT_EQ(edges.size(), 2u);
    EXPECT_EQ(edges[0].source, 0);
    EXPECT_EQ(edges[1].source, 1);
    EXPECT_EQ(edges[1].consumer, 2);

    EXPECT_EQ(t->ResolveAction(job, 2).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(this->Value(t->Unblock(job, 0)).empty());
    EXPECT_EQ(this->Value(t->Unblock(job, 1)), std::vector<int>{2});
    EXPECT_TRUE(this->Value(t->Unblock(job, 1)).empty());  // Never below zero.
    for (int i : {0, 1}) {
      TaskRecord source = *this->Value(t->TaskAt(job, i));
      source.action_digest = "action-" + std::to_string(i);
      EXPECT_TRUE(
          this->Value(t->UpdateTask(source, v1::TASK_STATE_WAITING, 0)));
      this->Ok(
          t->PutResult(this->Result(source.action_digest, i == 0 ? '0' : '1')));
    }
    const v1::Action action = this->Value(t->ResolveAction(job, 2));
    EXPECT_EQ(action.model_digest(), "m");
    ASSERT_EQ(action.inputs_size(), 4);
    std::string names, digits;
    for (const v1::NamedBlob& input : action.inputs()) {
      names += input.name();
      digits += input.digest().sha256()[0];
      EXPECT_EQ(input.digest().size_bytes(), 7);
    }
    EXPECT_EQ(names, "abcz");
    EXPECT_EQ(digits, "eb10");
    EXPECT_FALSE(t->GetAction(job, 2).ok());
    this->Ok(t->SetAction(job, 2, action));
    EXPECT_EQ(this->Value(t->GetAction(job, 2)).SerializeAsString(),
              action.SerializeAsString());
    EXPECT_EQ(t->SetAction(job, 7, action).code(), absl::StatusCode::kNotFound);
  });
}

TYPED_TEST_P(JobStoreContract, APlanIsDroppedWhole) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b"));
  this->Write([&](JobTransaction* t) {
    for (int64_t job : {a, b}) {
      this->Ok(t->InsertTask(this->Task(job, 0), {}, {}));
      this->Ok(t->InsertTask(this->Task(job, 1), {},
                             std::vector<TaskInput>{{"x", 0, "hidden", {}}}));
      this->Ok(t->AddTaskError(job, 0, {}));
    }
    this->Ok(t->PutResult(this->Result("x", '1')));
    this->Ok(t->DeleteTasks(a));
    this->Ok(t->DeleteTasks(a));
    EXPECT_TRUE(this->Value(t->ListTasks(a, 0, 9)).empty());
    EXPECT_TRUE(this->Value(t->Edges(a)).empty());
    EXPECT_TRUE(this->Value(t->TaskErrors(a, 0)).empty());
    EXPECT_EQ(t->ResolveAction(a, 0).status().code(),
              absl::StatusCode::kNotFound);
    EXPECT_EQ(this->Value(t->ListTasks(b, 0, 9)).size(), 2u);
    EXPECT_EQ(this->Value(t->Edges(b)).size(), 1u);
    EXPECT_EQ(this->Value(t->TaskErrors(b, 0)).size(), 1u);
    EXPECT_TRUE(this->Value(t->JobByNumber(a)));
    EXPECT_TRUE(this->Value(t->FindResult("x")));
    // The same again may be inserted.
    this->Ok(t->InsertTask(this->Task(a, 0), {}, {}));
  });
}

TYPED_TEST_P(JobStoreContract, TaskErrorsKeepTheirOrder) {
  const int64_t job = this->Insert(this->Job("a"));
  this->Write([&](JobTransaction* t) {
    this->Ok(t->InsertTask(this->Task(job, 0), {}, {}));
    for (const char* message : {"first", "second"}) {
      v1::Error error;
      error.set_message(message);
      this->Ok(t->AddTaskError(job, 0, error));
    }
    const std::vector<v1::Error> errors = this->Value(t->TaskErrors(job, 0));
    ASSERT_EQ(errors.size(), 2u);
    EXPECT_EQ(errors[1].message(), "second");
    EXPECT_TRUE(this->Value(t->TaskErrors(job, 1)).empty());
  });
}

TYPED_TEST_P(JobStoreContract, ResultsAreReplacedWhole) {
  this->Write([&](JobTransaction* t) {
    EXPECT_FALSE(this->Value(t->FindResult("x")));
    this->Ok(t->PutResult(this->Result("x", '1')));
    const ResultRecord result = *this->Value(t->FindResult("x"));
    EXPECT_EQ(result.outputs, this->Result("x", '1').outputs);
    EXPECT_EQ(result.summary.evaluate().nll(), 2.5);
    ResultRecord other = this->Result("x", '2');
    other.outputs.pop_back();
    this->Ok(t->PutResult(other));
    EXPECT_EQ(this->Value(t->FindResult("x"))->outputs, other.outputs);
  });
}

TYPED_TEST_P(JobStoreContract, DeletingTellsWhichBlobsNobodyUses) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b"));
  this->Write([&](JobTransaction* t) {
    auto add = [&](int64_t job, int position, const std::string& action) {
      TaskRecord task = this->Task(job, position, v1::TASK_STATE_SUCCEEDED);
      task.action_digest = action;
      this->Ok(t->InsertTask(task, {}, {}));
    };
    add(a, 0, "shared");
    add(b, 0, "shared");
    add(a, 1, "own");
    this->Ok(t->PutResult(this->Result("shared", '1')));
    this->Ok(t->PutResult(this->Result("own", '2')));
    const std::vector<Digest> given = {this->Blob('3'), this->Blob('4')};
    this->Ok(t->AddJobBlobs(a, given));
    this->Ok(t->AddJobBlobs(a, given));
    this->Ok(t->AddJobBlobs(b, {this->Blob('4')}));
    CheckpointRecord checkpoint;
    checkpoint.job = a;
    checkpoint.job_id = "a";
    this->Ok(t->PutCheckpoint(checkpoint));
    const auto summaries = this->Value(t->Summaries(a));
    ASSERT_EQ(summaries.size(), 2u);
    EXPECT_EQ(summaries[1].first, "task-1");

    const std::vector<Digest> blobs = this->Value(t->BlobsOf(a));
    EXPECT_EQ(blobs, (std::vector<Digest>{this->Blob('1'), this->Blob('2'),
                                          this->Blob('3'), this->Blob('4'),
                                          this->Blob('e')}));
    EXPECT_TRUE(this->Value(t->DropUnusedResults()).empty());
    this->Ok(t->DeleteJob(a));
    std::vector<Digest> dropped = this->Value(t->DropUnusedResults());
    std::sort(dropped.begin(), dropped.end());
    EXPECT_EQ(dropped, (std::vector<Digest>{this->Blob('2'), this->Blob('e')}));
    EXPECT_EQ(this->Value(t->Unreferenced(blobs)),
              (std::vector<Digest>{this->Blob('2'), this->Blob('3')}));
    EXPECT_FALSE(this->Value(t->FindJob("a")));
    EXPECT_FALSE(this->Value(t->TaskAt(a, 0)));
    EXPECT_FALSE(this->Value(t->FindCheckpoint("a")));
    EXPECT_TRUE(this->Value(t->FindResult("shared")));
    EXPECT_TRUE(this->Value(t->TaskAt(b, 0)));
  });
}

TYPED_TEST_P(JobStoreContract, WorkersByNameAndSession) {
  this->Write([&](JobTransaction* t) {
    WorkerRecord worker;
    worker.name = "w";
    worker.device = "cuda";
    worker.session = "s";
    worker.last_seen = absl::FromUnixMicros(3);
    worker.completed = 4;
    worker.affinities = {"shard-1", "shard-0"};
    this->Ok(t->PutWorker(worker));
    worker.name = "v";
    worker.session = "";
    this->Ok(t->PutWorker(worker));
    const WorkerRecord found = *this->Value(t->WorkerOf("s"));
    EXPECT_EQ(found.name, "w");
    EXPECT_EQ(found.device, "cuda");
    EXPECT_EQ(found.last_seen, absl::FromUnixMicros(3));
    EXPECT_EQ(found.completed, 4);
    EXPECT_EQ(found.affinities,
              (std::vector<std::string>{"shard-1", "shard-0"}));
    EXPECT_FALSE(this->Value(t->WorkerOf("")));
    ASSERT_EQ(this->Value(t->ListWorkers()).size(), 2u);
    EXPECT_EQ(this->Value(t->ListWorkers())[0].name, "v");
    WorkerRecord changed = found;
    changed.session = "s2";
    this->Ok(t->PutWorker(changed));
    EXPECT_FALSE(this->Value(t->WorkerOf("s")));
    this->Ok(t->DeleteWorker("w"));
    EXPECT_FALSE(this->Value(t->FindWorker("w")));
    EXPECT_TRUE(this->Value(t->FindWorker("v")));
  });
}

TYPED_TEST_P(JobStoreContract, CheckpointsNewestFirst) {
  const int64_t a = this->Insert(this->Job("a")),
                b = this->Insert(this->Job("b"));
  this->Write([&](JobTransaction* t) {
    for (int64_t job : {a, b}) {
      CheckpointRecord checkpoint;
      checkpoint.job = job;
      checkpoint.job_id = job == a ? "a" : "b";
      checkpoint.manifest.add_files()->set_path("config.json");
      checkpoint.create_time = absl::FromUnixMicros(job);
      this->Ok(t->PutCheckpoint(checkpoint));
      this->Ok(t->PutCheckpoint(checkpoint));
    }
    const std::vector<CheckpointRecord> all =
        this->Value(t->CheckpointsBefore(b + 1, 9));
    ASSERT_EQ(all.size(), 2u);
    EXPECT_EQ(all[0].job_id, "b");
    EXPECT_EQ(this->Value(t->CheckpointsBefore(b, 9)).size(), 1u);
    EXPECT_EQ(this->Value(t->FindCheckpoint("a"))->manifest.files(0).path(),
              "config.json");
    EXPECT_FALSE(this->Value(t->FindCheckpoint("c")));
  });
}

// Counting up in one row from several threads and several stores: no update is
// lost.
TYPED_TEST_P(JobStoreContract, WritersAreSerialized) {
  const int64_t number = this->Insert(this->Job("a"));
  const std::unique_ptr<JobStore> other = this->stores_.Open();
  constexpr int kThreads = 4, kRounds = 25;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, store = i % 2 == 0 ? this->store_.get()
                                                : other.get()] {
      for (int round = 0; round < kRounds; ++round) {
        this->Ok(store->Write([&](JobTransaction* t) -> absl::Status {
          JobRecord job = *this->Value(t->JobByNumber(number));
          ++job.sequence;
          return t->UpdateJob(job);
        }));
        this->Ok(store->Read([&](JobTransaction* t) {
          const int64_t first = this->Value(t->JobByNumber(number))->sequence;
          EXPECT_EQ(this->Value(t->JobByNumber(number))->sequence,
                    first);  // A snapshot.
          return absl::OkStatus();
        }));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  this->Read([&](JobTransaction* t) {
    EXPECT_EQ(this->Value(t->JobByNumber(number))->sequence,
              1 + kThreads * kRounds);
  });
}

REGISTER_TYPED_TEST_SUITE_P(
    JobStoreContract, JobsComeBackAsTheyWere,
    IdsAndRequestIdsAreUniqueButMayBeEmpty, FailedTransactionsChangeNothing,
    ReadersChangeNothing, JobsAreListedUpdatedAndPlannedInOrder,
    NumbersAreNeverUsedTwice, TasksComeBackAndAreUpdatedConditionally,
    ReadyTasksOfOlderJobsComeFirst, CancelAndCount, GraphUnblocksAndResolves,
    APlanIsDroppedWhole, TaskErrorsKeepTheirOrder, ResultsAreReplacedWhole,
    DeletingTellsWhichBlobsNobodyUses, WorkersByNameAndSession,
    CheckpointsNewestFirst, WritersAreSerialized);

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_CONTRACT_JOB_STORE_CONTRACT_H_
