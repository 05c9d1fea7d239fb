// A training run that is stopped, killed or damaged ends where an uninterrupted one ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::checkpoint_bytes;
using testing::flip_bit;
using ::testing::HasSubstr;
using testing::Program;
using testing::ProgramResult;
using testing::run_program;
using testing::TinyProject;
namespace fs = std::filesystem;

constexpr int kSteps = 32;  // of the tiny config: SQA and RCKV switch on at step 12

class Resume : public ::testing::Test {
 protected:
  static const TinyProject& project() { return TinyProject::get(); }
  static std::string output(const std::string& run) {
    return project().folder() + "/output-" + run;
  }
  static ProgramResult train(const std::string& run) {
    return run_program(project().train(run), output(run));
  }
  static std::string checkpoint(const std::string& run, const std::string& step) {
    return project().run_folder(run) + "/checkpoints/step-000000" + step;
  }
  // Made by the first test that asks.
  static const std::string& uninterrupted() {
    static const std::string bytes = [] {
      auto result = train("straight");
      if (result.code != 0) throw std::runtime_error("the uninterrupted run failed: " + result.err);
      return checkpoint_bytes(project().run_folder("straight"), kSteps);
    }();
    return bytes;
  }
  static void copy_run(const std::string& to) {
    uninterrupted();
    fs::copy(project().run_folder("straight"), project().run_folder(to),
             fs::copy_options::recursive);
    ASSERT_TRUE(fs::exists(checkpoint(to, "32") + "/model.safetensors"));
  }
  static void expect_equal_weights(const std::string& run) {
    EXPECT_TRUE(checkpoint_bytes(project().run_folder(run), kSteps) == uninterrupted())
        << run << ": other weights or optimiser state";
  }
};

TEST_F(Resume, SigtermStopsAtAStepBoundaryAndTheSameCommandFinishes) {
  Program program(project().train("stopped"), output("stopped"));
  ASSERT_TRUE(program.wait_for_file(checkpoint("stopped", "04") + "/manifest.json"));
  program.send(SIGTERM);
  auto stopped = program.wait();
  ASSERT_EQ(stopped.code, 75) << stopped.err;
  ASSERT_EQ(stopped.errors().size(), 1u) << stopped.err;
  EXPECT_THAT(stopped.errors()[0], HasSubstr("run the same command again"));
  auto finished = train("stopped");
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("resumed from"));
  expect_equal_weights("stopped");
}

// Each round goes on until one more checkpoint is there, then a random moment on: inside a step, an
// evaluation or a write.
TEST_F(Resume, ARunKilledAtRandomMomentsEndsBitEqual) {
  uninterrupted();
  std::mt19937 random(20240607);
  int killed = 0;
  for (int wanted = 0; wanted < kSteps; wanted += 4) {  // the first round is killed while it starts
    Program program(project().train("killed"), output("killed"));
    if (wanted > 0)
      program.wait_for_file(
          checkpoint("killed", (wanted < 10 ? "0" : "") + std::to_string(wanted)));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 80));
    program.send(SIGKILL);
    auto result = program.wait();
    if (result.signal == SIGKILL) {
      ++killed;
    } else {
      EXPECT_EQ(result.code, 0) << result.err;
    }
  }
  EXPECT_GE(killed, 4) << "the moments are to fall inside the run";
  auto finished = train("killed");
  EXPECT_EQ(finished.code, 0) << finished.err;
  expect_equal_weights("killed");
}

TEST_F(Resume, AFinishedRunIsLeftAlone) {
  copy_run("finished");
  auto written = fs::last_write_time(checkpoint("finished", "32") + "/model.safetensors");
  auto result = train("finished");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("all 32 steps are done"));
  EXPECT_EQ(fs::last_write_time(checkpoint("finished", "32") + "/model.safetensors"), written);
}

TEST_F(Resume, AFlippedBitInTheNewestCheckpointFallsBackToThePreviousOneWithAWarning) {
  copy_run("flipped");
  auto model = checkpoint("flipped", "32") + "/model.safetensors";
  flip_bit(model, fs::file_size(model) - 100);
  auto result = train("flipped");
  EXPECT_EQ(result.code, 0) << result.err;
  ASSERT_EQ(result.warnings().size(), 1u) << result.err;
  EXPECT_THAT(result.warnings()[0],
              AllOf(HasSubstr("step-00000032"), HasSubstr("model.safetensors")));
  // 28, or 30 where the best held-out loss was saved.
  EXPECT_THAT(result.err, AnyOf(HasSubstr("at step 28"), HasSubstr("at step 30")));
  expect_equal_weights("flipped");
}

TEST_F(Resume, WithAllCheckpointsDamagedNothingIsStartedAnew) {
  copy_run("ruined");
  for (const auto& entry : fs::directory_iterator(project().run_folder("ruined") + "/checkpoints"))
    if (entry.is_directory()) flip_bit(entry.path().string() + "/optimizer.safetensors", 200);
  auto result = train("ruined");
  EXPECT_EQ(result.code, 4) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("whole"), HasSubstr("--output-dir")));
}

}  // namespace
}  // namespace dsrsq
