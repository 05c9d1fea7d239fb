// Disks that fill up, folders and files that vanish or freeze, and signals, while the programs run:
// one clear line, the right exit code, nothing lost that was saved.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "apps/program.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::checkpoint_bytes;
using ::testing::HasSubstr;
using testing::Program;
using testing::ProgramResult;
using testing::ReadOnlyFolder;
using testing::run_program;
using testing::SmallDisk;
using testing::TinyProject;
namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

constexpr int kSteps = 32;  // of the tiny config

const TinyProject& project() { return TinyProject::get(); }

class Survival : public ::testing::Test {
 protected:
  static std::string output(const std::string& run) {
    return project().folder() + "/output-" + run;
  }
  // Trains into `folder`, with a checkpoint every 4 steps.
  static Arguments train(const std::string& folder, const Arguments& more = {}) {
    Arguments arguments{"dsrsq-train", "--config", project().config(), "--output-dir", folder};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static std::string checkpoint(const std::string& folder, const std::string& step) {
    return folder + "/checkpoints/step-000000" + step;
  }
  static std::vector<std::string> checkpoints(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder + "/checkpoints", none))
      if (entry.is_directory()) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  static const std::string& uninterrupted() {
    static const std::string bytes = [] {
      auto folder = project().run_folder("straight");
      auto result = run_program(train(folder), output("straight"));
      if (result.code != 0) throw std::runtime_error("the uninterrupted run failed: " + result.err);
      return checkpoint_bytes(folder, kSteps);
    }();
    return bytes;
  }
  static void expect_error(const ProgramResult& result, int code,
                           const ::testing::Matcher<const std::string&>& message) {
    EXPECT_EQ(result.code, code) << result.err;
    ASSERT_EQ(result.errors().size(), 1u) << result.err;
    EXPECT_THAT(result.errors()[0], message);
  }
  // The same command goes on from what was saved, and ends as if nothing had been.
  static void expect_resumes(const std::string& folder, const Arguments& more = {}) {
    auto result = run_program(train(folder, more), output("resumed"));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("resumed from"));
    EXPECT_TRUE(checkpoint_bytes(folder, kSteps) == uninterrupted())
        << "other weights or optimiser state";
    for (const auto& name : checkpoints(folder)) EXPECT_THAT(name, ::testing::StartsWith("step-"));
  }
};

TEST_F(Survival, AFullDiskDuringACheckpointLeavesThePreviousOne) {
  const SmallDisk disk(16 << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  uninterrupted();
  auto run = disk.folder() + "/run";
  Program program(train(run), output("full"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  disk.fill(64 << 10);  // room for logs
  auto result = program.wait();
  expect_error(result, 4,
               AllOf(HasSubstr("/checkpoints/step-000000"), HasSubstr("a checkpoint needs "),
                     HasSubstr(" are free"), HasSubstr("run the same command again")));
  auto left = checkpoints(run);
  ASSERT_FALSE(left.empty());
  for (const auto& name : left)
    EXPECT_THAT(name, ::testing::StartsWith("step-")) << "nothing half-written";
  disk.empty();
  expect_resumes(run);
}

TEST_F(Survival, AFullDiskForTheLogsEndsTheRun) {
  const SmallDisk disk(16 << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  auto run = disk.folder() + "/run";
  const Arguments often{"--set", "train.log_every=1"};
  const Arguments rarely{"--set", "train.log_every=1", "--set", "train.checkpoint_every=100"};
  Program program(train(run, rarely), output("full-logs"));
  ASSERT_TRUE(program.wait_for_file(run + "/metrics.jsonl"));
  disk.fill(0);
  auto result = program.wait();
  expect_error(result, 4,
               AllOf(AnyOf(HasSubstr("metrics.jsonl"), HasSubstr("events.out.tfevents")),
                     HasSubstr("No space left on device"), HasSubstr("0 bytes are free")));
  disk.empty();
  auto again = run_program(train(run, often), output("full-logs"));
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(checkpoint_bytes(run, kSteps) == uninterrupted());
}

TEST_F(Survival, ARunFolderThatVanishesIsNotedAndNotMadeAnew) {
  auto run = project().run_folder("vanished");
  Program program(train(run), output("vanished"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  std::error_code racing;  // with what the program writes meanwhile
  for (int i = 0; i < 1000 && fs::exists(run); ++i) fs::remove_all(run, racing);
  auto result = program.wait();
  expect_error(result, 4, HasSubstr(run));
  EXPECT_FALSE(fs::exists(run)) << "a run without its config and logs would look like a whole one";
}

TEST_F(Survival, AReadOnlyFolderLeavesThePreviousCheckpoint) {
  uninterrupted();
  auto run = project().run_folder("frozen");
  Program program(train(run), output("frozen"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  {
    std::unique_ptr<ReadOnlyFolder> frozen;  // busy while a checkpoint is being written
    for (int i = 0; i < 1000 && (!frozen || !frozen->mounted()); ++i) {
      frozen.reset();
      frozen = std::make_unique<ReadOnlyFolder>(run + "/checkpoints");
    }
    if (!frozen->mounted()) GTEST_SKIP() << frozen->reason();
    expect_error(program.wait(), 4,
                 AllOf(HasSubstr("/checkpoints/"), HasSubstr("Read-only file system")));
    // The same command at once: it says so too, before any work.
    auto again = run_program(train(run), output("frozen"));
    EXPECT_EQ(again.code, 4) << again.err;
  }
  expect_resumes(run);
}

TEST_F(Survival, AnOutputFolderThatCannotBeMadeIsAnOutputError) {
  auto file = project().folder() + "/a-file";
  testing::write_bytes(file, "x");
  expect_error(run_program(train(file + "/run"), output("no-folder")), 4,
               AllOf(HasSubstr("a-file/run"), HasSubstr("--output-dir")));
}

// A data set of its own, whose files may be harmed.
std::string own_data(const std::string& name) {
  auto path = project().folder() + "/" + name + ".h5";
  fs::copy_file(project().store(), path);
  fs::copy_file(project().store() + ".sha256", path + ".sha256");
  return path;
}

TEST_F(Survival, ADataFileThatIsRemovedWhileItIsOpenIsReadToTheEnd) {
  auto data = own_data("removed");
  auto run = project().run_folder("data-removed");
  const Arguments use{"--set", "data.train=" + data};
  Program program(train(run, use), output("data-removed"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  fs::remove(data);
  auto result = program.wait();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(checkpoint_bytes(run, kSteps) == uninterrupted());
  expect_error(run_program(train(project().run_folder("data-gone"), use), output("data-gone")), 3,
               AllOf(HasSubstr("removed.h5"), HasSubstr("no such data set file")));
}

TEST_F(Survival, ADataFileThatChangesWhileItIsOpenIsADataError) {
  uninterrupted();
  auto data = own_data("changed");
  auto run = project().run_folder("data-changed");
  const Arguments use{"--set", "data.train=" + data};
  Program program(train(run, use), output("data-changed"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  testing::flip_bit(data, fs::file_size(data) / 2);  // in place
  expect_error(program.wait(), 3,
               AllOf(HasSubstr("changed.h5"), HasSubstr("was changed while it was in use")));
  expect_error(run_program(train(run, use), output("data-changed")), 3,
               AllOf(HasSubstr("changed.h5"), HasSubstr("SHA-256")));
  testing::flip_bit(data, fs::file_size(data) / 2);
  expect_resumes(run, use);
}

// Of checkpoints that are being written, or were when their process was killed.
std::vector<std::string> temporaries(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder + "/checkpoints", none))
    if (entry.path().filename().string().rfind(".tmp-step-", 0) == 0)
      names.push_back(entry.path().filename().string());
  return names;
}
bool has_temporary(const std::string& folder) { return !temporaries(folder).empty(); }

void expect_stopped(Program& program) {
  auto stopped = program.wait();
  ASSERT_EQ(stopped.code, 75) << stopped.err;
  ASSERT_EQ(stopped.errors().size(), 1u) << stopped.err;
  EXPECT_THAT(stopped.errors()[0], HasSubstr("run the same command again"));
}

// As schedulers send it ahead of the end of the time.
TEST_F(Survival, Sigusr1SavesAndStopsToo) {
  uninterrupted();
  auto run = project().run_folder("usr1");
  Program program(train(run), output("usr1"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  program.send(SIGUSR1);
  expect_stopped(program);
  expect_resumes(run);
}

TEST_F(Survival, ASignalWhileACheckpointIsWrittenLetsItBeFinished) {
  uninterrupted();
  auto run = project().run_folder("while-writing");
  const Arguments often{"--set", "train.checkpoint_every=1"};
  Program program(train(run, often), output("while-writing"));
  while (program.running() && !has_temporary(run)) std::this_thread::yield();
  program.send(SIGTERM);
  expect_stopped(program);
  EXPECT_FALSE(has_temporary(run));
  ASSERT_FALSE(checkpoints(run).empty());
  expect_resumes(run);
}

// Evaluation takes nearly all of the time here: the stop comes behind it, and it is not lost.
TEST_F(Survival, ASignalWhileHeldOutQuestionsAreReadIsHeededBehindThem) {
  auto run = project().run_folder("while-evaluating");
  const Arguments mostly{"--set", "train.evaluate_every=1",
                         "--set", "train.evaluate_answers=true",
                         "--set", "train.evaluation_batches=40"};
  auto straight = project().run_folder("evaluating");
  ASSERT_EQ(run_program(train(straight, mostly), output("evaluating")).code, 0);
  Program program(train(run, mostly), output("while-evaluating"));
  ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
  std::this_thread::sleep_for(std::chrono::milliseconds(37));
  program.send(SIGTERM);
  expect_stopped(program);
  auto finished = run_program(train(run, mostly), output("while-evaluating"));
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_TRUE(checkpoint_bytes(run, kSteps) == checkpoint_bytes(straight, kSteps));
  EXPECT_EQ(testing::read_bytes(run + "/checkpoints/best.json"),
            testing::read_bytes(straight + "/checkpoints/best.json"));
}

TEST_F(Survival, ASecondSignalDoesNotWaitForTheStep) {
  auto run = project().run_folder("second");
  // A step of minutes: the first signal cannot be heeded.
  Program program(train(run, {"--set", "train.accumulation=20000"}), output("second"));
  ASSERT_TRUE(program.wait_for_file(run + "/metrics.jsonl"));
  program.send(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  ASSERT_TRUE(program.running()) << "the first signal waits for the step";
  program.send(SIGTERM);
  auto begin = std::chrono::steady_clock::now();
  auto result = program.wait();
  EXPECT_EQ(result.code, 75) << result.err;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_TRUE(checkpoints(run).empty());
}

TEST_F(Survival, WhatAKilledRunLeftIsRemovedAtTheNextStart) {
  uninterrupted();
  auto run = project().run_folder("stale");
  bool left = false;
  for (int round = 0; round < 20 && !left; ++round) {
    fs::remove_all(run);
    Program program(train(run, {"--set", "train.checkpoint_every=1"}), output("stale"));
    ASSERT_TRUE(program.wait_for_file(checkpoint(run, "04")));
    while (program.running() && !has_temporary(run)) std::this_thread::yield();
    program.send(SIGKILL);
    program.wait();
    left = has_temporary(run);
  }
  ASSERT_TRUE(left) << "no kill fell into the writing of a checkpoint";
  const std::string living = ".tmp-step-00000099-" + std::to_string(::getpid());
  fs::create_directories(run + "/checkpoints/" + living);
  auto before = checkpoints(run).size();
  // Without a checkpoint of its own before the end of the first stage: it is the start that cleans.
  Program program(train(run, {"--set", "train.checkpoint_every=100"}), output("stale"));
  while (program.running() && temporaries(run).size() > 1) std::this_thread::yield();
  program.send(SIGKILL);
  EXPECT_EQ(program.wait().signal, SIGKILL);
  EXPECT_EQ(temporaries(run), std::vector<std::string>{living}) << "its process runs";
  EXPECT_EQ(checkpoints(run).size(), before - 1) << "one name less, none more";
  fs::remove(run + "/checkpoints/" + living);
  expect_resumes(run);
}

// A kill may fall between the save of the best step and its mark: the next start sets it.
TEST_F(Survival, ABestStepThatWasNotMarkedBeforeAKillIsMarkedAtTheNextStart) {
  uninterrupted();
  auto run = project().run_folder("unmarked");
  fs::copy(project().run_folder("straight"), run, fs::copy_options::recursive);
  auto mark = run + "/checkpoints/best.json";
  auto before = testing::read_bytes(mark);
  fs::remove(mark);
  EXPECT_EQ(run_program(train(run), output("unmarked")).code, 0);
  EXPECT_EQ(testing::read_bytes(mark), before);
}

TEST_F(Survival, PrepareOnAFullDiskLeavesNothingUnderTheFinalName) {
  const SmallDisk disk(512 << 10);  // no data set is that small: each column has a chunk
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  auto input = project().folder() + "/records.jsonl";
  testing::write_bytes(input, R"({"question": "who?", "context": "vu ri", "answers": ["vu"]})"
                              "\n");
  auto result = run_program({"dsrsq-data", "prepare", input, "--format", "jsonl", "--tokenizer",
                             project().tokenizer(), "--output", disk.folder() + "/x.h5"},
                            output("prepare"));
  expect_error(result, 4, AllOf(HasSubstr("x.h5"), HasSubstr("the disk is full")));
  EXPECT_TRUE(fs::is_empty(disk.folder()));
}

TEST_F(Survival, EvaluationOnAFullDiskLeavesWholeFilesOnly) {
  const SmallDisk disk(256 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  uninterrupted();
  auto folder = disk.folder() + "/eval";
  const Arguments evaluate{"dsrsq-eval", "--checkpoint", project().run_folder("straight"),
                           "--output-dir", folder};
  disk.fill(4 << 10);
  expect_error(run_program(evaluate, output("eval")), 4,
               AllOf(HasSubstr("eval/"), HasSubstr("the disk is full"), HasSubstr("are needed")));
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_EQ(entry.path().filename().string().rfind(".tmp-", 0), std::string::npos);
  EXPECT_FALSE(fs::exists(folder + "/questions.jsonl"));
  disk.empty();
  EXPECT_EQ(run_program(evaluate, output("eval")).code, 0);
  EXPECT_TRUE(fs::exists(folder + "/results.json"));
}

}  // namespace
}  // namespace dsrsq
