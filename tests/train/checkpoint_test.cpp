#include "dsrsq/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

NamedTensors sample_model(double value) {
  return {{"layers.0.weight", torch::full({8, 4}, value)},
          {"layers.0.bias", torch::full({4}, -value)}};
}

NamedTensors sample_optimizer(double value) {
  return {{"first.layers.0.weight", torch::full({8, 4}, value * 2)},
          {"step.layers.0.weight", torch::tensor(static_cast<float>(value))}};
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError was thrown";
}

#define EXPECT_MENTIONS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/checkpoint-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    run_ = pattern;
    set_log_file(log());
  }
  void TearDown() override {
    set_log_file("");
    fs::remove_all(run_);
  }
  std::string log() const { return run_ + "/log.txt"; }
  Checkpoint save(int64_t step, int64_t keep = 10) {
    const double value = static_cast<double>(step);
    return CheckpointFolder(run_).save(step, sample_model(value), sample_optimizer(value),
                                       {{"tokens", step * 1000}}, keep);
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> steps;
    for (const Checkpoint& checkpoint : CheckpointFolder(run_).list())
      steps.push_back(checkpoint.step);
    return steps;
  }
  int64_t temporaries() const {
    int64_t count = 0;
    for (const auto& entry : fs::directory_iterator(run_ + "/checkpoints"))
      count += entry.path().filename().string().rfind(".tmp-", 0) == 0;
    return count;
  }

  std::string run_;
};

void flip_bit(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-3, std::ios::end);
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(-3, std::ios::end);
  file.put(byte);
  ASSERT_TRUE(file.good());
}

TEST_F(CheckpointTest, TensorsRoundTripBitExactly) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const NamedTensors tensors = {
      {"a.float", torch::tensor({0.1f, -0.0f, nan, infinity, 1e-42f})},
      {"a.double", torch::tensor({0.1, -1e-310, 3.0}, torch::kDouble)},
      {"a.long", torch::tensor({int64_t{1} << 62, int64_t{-1}})},
      {"a.bool", torch::tensor({true, false, true})},
      {"b.bf16.weight", torch::randn({3, 5}).to(torch::kBFloat16)},
      {"b.scalar", torch::tensor(7.25f)},
      {"b.empty", torch::empty({0, 3})},
      {"c.transposed", torch::arange(6).view({2, 3}).t()},
      {"c.requires_grad", torch::ones({2}).set_requires_grad(true)},
  };
  const std::string path = run_ + "/tensors.safetensors";
  write_tensors(path, tensors, {{"format", "pt"}});
  const NamedTensors read = read_tensors(path);
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors)
    EXPECT_TRUE(same_bits(read.at(name), tensor.detach())) << name;
  fs::remove(path);
  EXPECT_EQ(read.at("b.scalar").item<float>(), 7.25f) << "tensors own their memory";
  EXPECT_THROW(write_tensors(path, {{"x", torch::ones({1}, torch::kComplexFloat)}}), Error);
  EXPECT_THROW(write_tensors(path, {{"x", at::Tensor()}}), Error);
  EXPECT_THROW(read_tensors(path + ".absent"), CheckpointError);
}

TEST_F(CheckpointTest, SavesAndReadsBack) {
  CheckpointFolder folder(run_);
  EXPECT_FALSE(fs::exists(run_ + "/checkpoints")) << "nothing is created before the first save";
  EXPECT_TRUE(folder.list().empty());
  EXPECT_FALSE(folder.newest_whole());
  EXPECT_FALSE(folder.best());

  const Checkpoint saved =
      folder.save(1000, sample_model(1), sample_optimizer(1), {{"seed", 17}, {"loss", 0.1}}, 3);
  EXPECT_EQ(saved.folder, run_ + "/checkpoints/step-00001000");
  EXPECT_EQ(checkpoint_damage(saved.folder), "");
  const auto newest = folder.newest_whole();
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step, 1000);
  EXPECT_EQ(CheckpointFolder::read_state(*newest),
            (json{{"seed", 17}, {"loss", 0.1}, {"step", 1000}}));
  for (const auto& [name, tensor] : CheckpointFolder::read_model(*newest))
    EXPECT_TRUE(same_bits(tensor, sample_model(1).at(name)));
  for (const auto& [name, tensor] : CheckpointFolder::read_optimizer(*newest))
    EXPECT_TRUE(same_bits(tensor, sample_optimizer(1).at(name)));

  const json manifest = json::parse(read_file(saved.folder + "/manifest.json"));
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    EXPECT_EQ(manifest.at("files").at(name).at("sha256"),
              sha256_hex(read_file(saved.folder + "/" + name)));
    EXPECT_EQ(manifest.at("files").at(name).at("bytes"), fs::file_size(saved.folder + "/" + name));
  }
}

TEST_F(CheckpointTest, SavingAStepAgainReplacesIt) {
  save(5);
  CheckpointFolder(run_).save(5, sample_model(9), {}, json::object(), 3);
  EXPECT_EQ(steps(), std::vector<int64_t>{5});
  EXPECT_EQ(CheckpointFolder::read_model(*CheckpointFolder(run_).newest_whole())
                .at("layers.0.weight")[0][0]
                .item<float>(),
            9);
}

TEST_F(CheckpointTest, RejectsStatesThatCannotBeReadBack) {
  CheckpointFolder folder(run_);
  const json nan = {{"best", {{"value", std::nan("")}}}};
  EXPECT_THROW(folder.save(1, {}, {}, nan, 1), Error);
  EXPECT_THROW(folder.save(1, {}, {}, json::array(), 1), Error);
  EXPECT_THROW(folder.save(-1, {}, {}, json::object(), 1), Error);
  EXPECT_THROW(folder.save(1, {}, {}, json::object(), 0), ConfigError);
}

TEST_F(CheckpointTest, DamagedNewestGivesWayToThePreviousOneWithAWarning) {
  struct Case {
    const char* file;
    std::function<void(const std::string&)> damage;
  };
  const Case cases[] = {
      {"model.safetensors", flip_bit},
      {"optimizer.safetensors",
       [](const std::string& path) { fs::resize_file(path, fs::file_size(path) - 1); }},
      {"model.safetensors", [](const std::string& path) { fs::resize_file(path, 0); }},
      {"state.json", [](const std::string& path) { fs::remove(path); }},
      {"manifest.json", [](const std::string& path) { fs::remove(path); }},
      {"manifest.json", [](const std::string& path) { fs::resize_file(path, 40); }},
      {"manifest.json",
       [](const std::string& path) { std::ofstream(path) << R"({"format": "other"})"; }},
  };
  save(1);
  for (const Case& c : cases) {
    const Checkpoint newest = save(2);
    set_log_file("");
    fs::remove(log());
    set_log_file(log());
    c.damage(newest.folder + "/" + c.file);
    const auto found = CheckpointFolder(run_).newest_whole();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, 1);
    EXPECT_MENTIONS(checkpoint_damage(newest.folder), c.file);
    const std::string logged = read_file(log());
    EXPECT_MENTIONS(logged, "warn");
    EXPECT_MENTIONS(logged, newest.folder);
    EXPECT_MENTIONS(logged, c.file);
    EXPECT_MENTIONS(message_of([&] { find_checkpoint(newest.folder, false); }), c.file);
  }
}

TEST_F(CheckpointTest, ManifestsOfAnotherStepAndHostileNamesAreDamage) {
  const Checkpoint checkpoint = save(3);
  fs::rename(checkpoint.folder, run_ + "/checkpoints/step-00000004");
  EXPECT_MENTIONS(checkpoint_damage(run_ + "/checkpoints/step-00000004"), "step 3");
  fs::rename(run_ + "/checkpoints/step-00000004", checkpoint.folder);
  json manifest = json::parse(read_file(checkpoint.folder + "/manifest.json"));
  manifest["files"]["../../log.txt"] = manifest["files"]["state.json"];
  std::ofstream(checkpoint.folder + "/manifest.json") << manifest.dump();
  EXPECT_MENTIONS(checkpoint_damage(checkpoint.folder), "odd name \"../../log.txt\"");
  EXPECT_MENTIONS(checkpoint_damage(run_ + "/absent"), "not a folder");
}

TEST_F(CheckpointTest, PrunesAllButTheNewestAndTheBest) {
  save(10, 2);
  CheckpointFolder(run_).mark_best(10, 0.75, "eval/f1");
  for (const int64_t step : {20, 30, 40}) save(step, 2);
  EXPECT_EQ(steps(), (std::vector<int64_t>{40, 30, 10}));
  EXPECT_EQ(temporaries(), 0);
  ASSERT_TRUE(CheckpointFolder(run_).best());
  EXPECT_EQ(CheckpointFolder(run_).best()->step, 10);
  const json best = json::parse(read_file(run_ + "/checkpoints/best.json"));
  EXPECT_EQ(best, (json{{"step", 10}, {"metric", "eval/f1"}, {"value", 0.75}}));
  CheckpointFolder(run_).mark_best(40, 0.8, "eval/f1");
  save(50, 2);
  EXPECT_EQ(steps(), (std::vector<int64_t>{50, 40}));
  EXPECT_THROW(CheckpointFolder(run_).mark_best(11, 1, "eval/f1"), CheckpointError);
  EXPECT_THROW(CheckpointFolder(run_).mark_best(40, std::nan(""), "eval/f1"), Error);
}

TEST_F(CheckpointTest, NeverPrunesWhatItJustSavedNorWithoutKnowingTheBest) {
  save(30);
  save(10, 1);  // resumed from before step 30, whose checkpoint was damaged, say
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 10}));
  std::ofstream(run_ + "/checkpoints/best.json") << "{";
  save(40, 1);
  EXPECT_EQ(steps(), (std::vector<int64_t>{40, 30, 10}));
  EXPECT_MENTIONS(read_file(log()), "no checkpoint is pruned");
  EXPECT_FALSE(CheckpointFolder(run_).best());
}

TEST_F(CheckpointTest, ListIgnoresForeignNames) {
  save(7);
  for (const char* name :
       {"step-7", "step-x", "step-000000007", "step-", "notes", "step-99999999999999999999"})
    fs::create_directories(run_ + "/checkpoints/" + name);
  std::ofstream(run_ + "/checkpoints/step-00000008") << "a file";
  EXPECT_EQ(steps(), std::vector<int64_t>{7});
  save(123456789012);
  EXPECT_EQ(steps(), (std::vector<int64_t>{123456789012, 7}));
}

TEST_F(CheckpointTest, FailedWriteLeavesOlderCheckpointsAlone) {
  save(1, 1);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit full{64, old.rlim_max};  // as on a full disk
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
  std::string message;
  try {
    save(2, 1);
  } catch (const Error& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_MENTIONS(message, "model.safetensors");
  EXPECT_EQ(steps(), std::vector<int64_t>{1});
  EXPECT_EQ(checkpoint_damage(run_ + "/checkpoints/step-00000001"), "");
  save(2, 1);
  EXPECT_EQ(steps(), std::vector<int64_t>{2});
  std::ofstream(run_ + "/file") << "x";
  EXPECT_THROW(CheckpointFolder(run_ + "/file").save(1, {}, {}, json::object(), 1), Error);
}

std::string output_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint) << error.what();
    return error.what();
  }
  return "no error";
}

NamedTensors megabytes(double count) {
  return {{"weight", torch::full({static_cast<int64_t>(count * 250000)}, count)}};
}

TEST_F(CheckpointTest, AFullDiskIsNotedBeforeAnythingIsWritten) {
  const dsrsq::testing::SmallDisk disk(8 << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  CheckpointFolder folder(disk.folder());
  folder.save(1, megabytes(1), megabytes(2), json::object(), 3);
  disk.fill(2500000);
  const std::string message =
      output_error([&] { folder.save(2, megabytes(1), megabytes(2), json::object(), 3); });
  EXPECT_MENTIONS(message, "step-00000002: the disk is full: a checkpoint needs 3.0 MB, 2.4 MB");
  EXPECT_MENTIONS(message, "the older checkpoints are whole");
  EXPECT_EQ(message.find('\n'), std::string::npos);
  const auto newest = folder.newest_whole();
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(disk.folder() + "/checkpoints"), {}), 1);
  disk.empty();
  folder.save(2, megabytes(1), megabytes(2), json::object(), 3);
  EXPECT_EQ(folder.newest_whole()->step, 2);
}

// Another program fills the disk after the look at it. Here the file entries run out, which no look
// at the bytes foresees.
TEST_F(CheckpointTest, ADiskThatBecomesFullWhileACheckpointIsWritten) {
  const dsrsq::testing::SmallDisk disk(8 << 20, /*files=*/10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  CheckpointFolder folder(disk.folder());
  folder.save(1, megabytes(1), megabytes(1), json::object(), 3);
  const std::string message =
      output_error([&] { folder.save(2, megabytes(1), megabytes(1), json::object(), 3); });
  EXPECT_MENTIONS(message, "step-00000002: the disk became full while it was written");
  EXPECT_MENTIONS(message, "a checkpoint needs 2.0 MB");
  EXPECT_EQ(folder.newest_whole()->step, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(disk.folder() + "/checkpoints"), {}), 1)
      << "the half-written one is removed";
}

TEST_F(CheckpointTest, AReadOnlyFolderLeavesTheOlderOnes) {
  save(1);
  const dsrsq::testing::ReadOnlyFolder frozen(run_ + "/checkpoints");
  if (!frozen.mounted()) GTEST_SKIP() << frozen.reason();
  EXPECT_MENTIONS(output_error([&] { save(2); }), "Read-only file system");
  EXPECT_EQ(CheckpointFolder(run_).newest_whole()->step, 1);
}

TEST_F(CheckpointTest, AVanishedRunFolderIsNotMadeAnew) {
  CheckpointFolder folder(run_);
  folder.save(1, {}, {}, json::object(), 1);
  fs::remove_all(run_);
  EXPECT_MENTIONS(output_error([&] { folder.save(2, {}, {}, json::object(), 1); }),
                  "expected the run folder, found none");
  EXPECT_FALSE(fs::exists(run_));
}

TEST_F(CheckpointTest, EveryKindOfManifestDamageIsNamed) {
  const Checkpoint checkpoint = save(3);
  const std::string path = checkpoint.folder + "/manifest.json";
  const json good = json::parse(read_file(path));
  const auto damage = [&](const std::string& text) {
    write_file_atomic(path, text);
    const std::string found = checkpoint_damage(checkpoint.folder);
    EXPECT_EQ(CheckpointFolder(run_).newest_whole().has_value(), found.empty()) << found;
    return found;
  };
  const auto changed = [&](const std::string& pointer, const json& value) {
    json manifest = good;
    manifest[json::json_pointer(pointer)] = value;
    return damage(manifest.dump());
  };
  EXPECT_EQ(damage(good.dump()), "") << "as it was";
  EXPECT_MENTIONS(damage(""), "manifest.json: invalid JSON");
  EXPECT_MENTIONS(damage(good.dump().substr(0, 100)), "manifest.json: invalid JSON");
  EXPECT_MENTIONS(damage(std::string(2 << 20, ' ')), "larger than the 1048576 bytes");
  EXPECT_MENTIONS(changed("/step", 4), "manifest.json is that of step 4");
  EXPECT_MENTIONS(changed("/step", "3"), "manifest.json: step: expected a count");
  EXPECT_MENTIONS(changed("/version", 2), "manifest.json: expected version 1, got 2");
  EXPECT_MENTIONS(changed("/files/state.json/bytes", 1), "state.json: expected 1 bytes, got");
  EXPECT_MENTIONS(changed("/files/state.json/sha256", std::string(64, '0')),
                  "state.json: its SHA-256 is not that of manifest.json");
  EXPECT_MENTIONS(changed("/files/absent.bin", good["files"]["state.json"]),
                  "absent.bin: is missing");
  json fewer = good;
  fewer["files"].erase("optimizer.safetensors");
  EXPECT_MENTIONS(damage(fewer.dump()), "does not list optimizer.safetensors");
  damage(good.dump());
  fs::rename(checkpoint.folder + "/state.json", run_ + "/state.json");
  fs::create_symlink(run_ + "/state.json", checkpoint.folder + "/state.json");
  EXPECT_MENTIONS(checkpoint_damage(checkpoint.folder), "state.json: is no regular file");
}

TEST_F(CheckpointTest, ABestStepThatWasNotMarkedBeforeAKillIsMarkedLater) {
  save(10);
  save(20);
  CheckpointFolder folder(run_);
  folder.restore_best(10, 0.5, "loss");
  EXPECT_EQ(folder.best()->step, 10);
  const auto written = fs::last_write_time(run_ + "/checkpoints/best.json");
  folder.restore_best(10, 0.5, "loss");
  EXPECT_EQ(fs::last_write_time(run_ + "/checkpoints/best.json"), written);
  folder.restore_best(20, 0.25, "loss");
  EXPECT_EQ(folder.best()->step, 20);
  folder.restore_best(5, 0.75, "loss");
  EXPECT_EQ(folder.best()->step, 20) << "a step without a checkpoint cannot be the best";
}

// Saves in a loop until it is killed.
[[noreturn]] void save_forever(const std::string& run, int64_t first_step) {
  try {
    CheckpointFolder folder(run);
    for (int64_t step = first_step;; ++step)
      folder.save(step, {{"w", torch::full({20000}, static_cast<double>(step))}}, {},
                  json::object(), 2);
  } catch (...) {
    ::_exit(1);
  }
}

TEST_F(CheckpointTest, OnlyWholeCheckpointsSurviveKills) {
  const auto newest_step = [&] {
    const std::vector<Checkpoint> found = CheckpointFolder(run_).list();
    return found.empty() ? int64_t{0} : found[0].step;
  };
  int64_t newest = 0;
  pid_t killed = 0;
  for (int round = 0; round < 15; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_forever(run_, newest + 1);
    // One checkpoint, then a kill somewhere in the saves that follow (tens of milliseconds each).
    for (int wait = 0; wait < 10000 && newest_step() <= newest; ++wait) ::usleep(1000);
    ::usleep(static_cast<useconds_t>(4300 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child must not end by itself";
    killed = child;
    const std::vector<Checkpoint> found = CheckpointFolder(run_).list();
    for (const Checkpoint& checkpoint : found) {
      ASSERT_EQ(checkpoint_damage(checkpoint.folder), "") << checkpoint.folder;
      const at::Tensor w = CheckpointFolder::read_model(checkpoint).at("w");
      ASSERT_TRUE(at::equal(w, torch::full({20000}, static_cast<double>(checkpoint.step))));
    }
    ASSERT_LE(found.size(), 3u);
    ASSERT_GT(newest_step(), newest) << "a kill must not lose what was saved";
    newest = newest_step();
  }
  fs::create_directories(concat(run_, "/checkpoints/.tmp-step-00000001-", killed));
  CheckpointFolder folder(run_);
  EXPECT_GE(temporaries(), 1) << "reading removes nothing";
  folder.save(newest + 1, {}, {}, json::object(), 2);
  EXPECT_EQ(temporaries(), 0);
}

TEST_F(CheckpointTest, FindsCheckpointsOfRunsAndFolders) {
  EXPECT_MENTIONS(message_of([&] { find_checkpoint(run_, true); }), "found neither");
  EXPECT_MENTIONS(message_of([&] { find_checkpoint(run_ + "/absent", true); }), "found no folder");
  save(1);
  const Checkpoint second = save(2);
  CheckpointFolder(run_).mark_best(1, 0.5, "f1");
  EXPECT_EQ(find_checkpoint(run_, true).step, 1);
  EXPECT_EQ(find_checkpoint(run_ + "/", false).step, 2);
  EXPECT_EQ(find_checkpoint(second.folder + "/", true).step, 2);
  fs::copy(second.folder, run_ + "/favourite");
  EXPECT_EQ(find_checkpoint(run_ + "/favourite", true).step, 2) << "a copy under any name";
  fs::remove(run_ + "/checkpoints/step-00000001/state.json");
  EXPECT_EQ(find_checkpoint(run_, true).step, 2)
      << "the best is damaged: the newest whole one, with a warning";
  EXPECT_MENTIONS(read_file(log()), "the best checkpoint");
  fs::remove(second.folder + "/manifest.json");
  EXPECT_MENTIONS(message_of([&] { find_checkpoint(run_, false); }), "found 2 damaged");
}

struct TinyModule : torch::nn::Module {
  TinyModule() {
    weight = register_parameter("weight", torch::zeros({2, 3}));
    centroids = register_buffer("centroids", torch::zeros({4}, torch::kDouble));
  }
  at::Tensor weight, centroids;
};

struct TinyParent : torch::nn::Module {
  std::shared_ptr<TinyModule> child = register_module("child", std::make_shared<TinyModule>());
};

TEST(ModuleTensors, LoadIsStrict) {
  TinyParent module;
  const NamedTensors good = {{"child.weight", torch::ones({2, 3})},
                             {"child.centroids", torch::full({4}, 2.0, torch::kDouble)}};
  EXPECT_EQ(module_tensors(module).size(), 2u);
  const auto message = [&](const NamedTensors& tensors) {
    return message_of([&] { load_module_tensors(module, tensors, "run/model.safetensors"); });
  };
  NamedTensors bad = good;
  bad.erase("child.weight");
  EXPECT_MENTIONS(message(bad),
                  "run/model.safetensors: expected the tensor child.weight, found none");
  EXPECT_MENTIONS(message(bad), "model.width");
  bad = good;
  bad["child.extra"] = torch::ones({1});
  EXPECT_MENTIONS(message(bad), "child.extra belongs to no part");
  bad = good;
  bad["child.weight"] = torch::ones({3, 2});
  EXPECT_MENTIONS(message(bad), "child.weight: expected [2, 3] Float, got [3, 2] Float");
  bad = good;
  bad["child.weight"] = torch::ones({2, 3}, torch::kBFloat16);
  EXPECT_MENTIONS(message(bad), "got [2, 3] BFloat16");
  EXPECT_EQ(module.child->centroids.sum().item<double>(), 0)
      << "nothing is copied before everything is checked";

  load_module_tensors(module, good, "run/model.safetensors");
  for (const auto& [name, tensor] : module_tensors(module))
    EXPECT_TRUE(same_bits(tensor.detach(), good.at(name))) << name;
  EXPECT_TRUE(module.child->weight.requires_grad());
  EXPECT_EQ(module.child->weight[0][0].item<float>(), 1) << "the module's own tensors are filled";
}

}  // namespace
}  // namespace dsrsq
