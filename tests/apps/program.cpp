#include "apps/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace dsrsq::testing {

namespace fs = std::filesystem;

namespace {
// Lines "2026-01-31 12:00:00.000 error message" of this level.
std::vector<std::string> logged(const std::string& text, const std::string& level) {
  std::vector<std::string> found;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string day, time, its_level, message;
    words >> day >> time >> its_level;
    if (its_level != level) continue;
    std::getline(words >> std::ws, message);
    found.push_back(message);
  }
  return found;
}
}  // namespace

std::vector<std::string> ProgramResult::errors() const { return logged(err, "error"); }
std::vector<std::string> ProgramResult::warnings() const { return logged(err, "warning"); }

Program::Program(const std::vector<std::string>& arguments, const std::string& folder,
                 const std::string& input)
    : folder_(folder) {
  fs::create_directories(folder);
  std::vector<std::string> values = arguments;
  values[0] = std::string(DSRSQ_BINARY_DIR) + "/bin/" + arguments[0];
  std::vector<char*> pointers;
  for (auto& value : values) pointers.push_back(value.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, 0, input.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, (folder + "/stdout").c_str(), flags, 0644);
  posix_spawn_file_actions_addopen(&actions, 2, (folder + "/stderr").c_str(), flags, 0644);
  const int error =
      posix_spawn(&pid_, values[0].c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw std::runtime_error("cannot start " + values[0] + ": build the programs first");
}

Program::~Program() {
  if (!running()) return;
  send(SIGKILL);
  waitpid(pid_, &status_, 0);
}

void Program::send(int signal) const {
  if (!ended_) kill(pid_, signal);
}

bool Program::running() {
  if (!ended_) ended_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return !ended_;
}

bool Program::wait_for_file(const std::string& path) {
  while (running()) {
    if (fs::exists(path)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return fs::exists(path);
}

ProgramResult Program::wait() {
  if (!ended_) waitpid(pid_, &status_, 0);
  ended_ = true;
  ProgramResult result;
  if (WIFEXITED(status_)) result.code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
  if (fs::is_regular_file(folder_ + "/stdout")) result.out = read_bytes(folder_ + "/stdout");
  result.err = read_bytes(folder_ + "/stderr");
  return result;
}

ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& folder,
                          const std::string& input) {
  return Program(arguments, folder, input).wait();
}

std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

void flip_bit(const std::string& path, size_t byte) {
  auto bytes = read_bytes(path);
  bytes.at(byte) = static_cast<char>(bytes[byte] ^ 1);
  write_bytes(path, bytes);
}

TinyProject::TinyProject() {
  std::string pattern = ::testing::TempDir() + "/dsrsq-apps-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  folder_ = pattern;
  std::vector<std::string> synth{"dsrsq-data",      "synth",  "--output",
                                 folder_ + "/data", "--name", "facts"};
  for (const char* set :
       {"context_tokens=64", "facts=4", "names=12", "attributes=8", "values=24", "filler_words=16",
        "train_documents=24", "validation_documents=4", "test_documents=8"}) {
    synth.push_back("--set");
    synth.push_back(set);
  }
  auto made = run_program(synth, folder_ + "/synth");
  if (made.code != 0) throw std::runtime_error("dsrsq-data synth failed: " + made.err);
  write_bytes(config(), "data:\n  tokenizer: " + tokenizer() + "\n  train: " + store() + R"(
  questions_per_sequence: 2
prompt: {question: " ask {question} ?"}
model: {layers: 2, width: 32, heads: 4, key_value_heads: 2, mlp_width: 48, sinks: 2}
dsr: {width: 16, budget: 32, alpha: 0, complexity: none}
sqa: {clusters: 8, clusters_per_query: 2, window: 4}
rckv: {latent_width: 8, buffer_length: 6, window: 8, segment: 16, calibration_sequences: 8}
loss: {ramp_steps: 10}
optimizer: {learning_rate: 1.0e-2, warmup_steps: 4}
train: {threads: 1, batch_size: 4, log_every: 5, evaluate_every: 10, evaluation_batches: 1, checkpoint_every: 4, keep_checkpoints: 3}
stages:
  - {name: dense, steps: 12, sqa: false, rckv: false}
  - {name: joint, steps: 20}
eval: {batch_size: 8, maximum_tokens: 3, latency_questions: 2}
)");
}

TinyProject::~TinyProject() { fs::remove_all(folder_); }

const TinyProject& TinyProject::get() {
  static const TinyProject project;
  return project;
}

std::vector<std::string> TinyProject::train(const std::string& run,
                                            const std::vector<std::string>& more) const {
  std::vector<std::string> arguments{"dsrsq-train", "--config", config(), "--output-dir",
                                     run_folder(run)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string checkpoint_bytes(const std::string& run_folder, int step) {
  auto number = std::to_string(step);
  auto folder = run_folder + "/checkpoints/step-" + std::string(8 - number.size(), '0') + number;
  return read_bytes(folder + "/model.safetensors") + read_bytes(folder + "/optimizer.safetensors");
}

}  // namespace dsrsq::testing
