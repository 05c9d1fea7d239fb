// Runs the built programs as a user would, in a folder of its own.
#pragma once

#include <string>
#include <vector>

namespace dsrsq::testing {

struct ProgramResult {
  int code = -1;    // exit code
  int signal = 0;   // the signal that ended it, else 0
  std::string out;  // standard output
  std::string err;  // standard error
  // Lines of standard error that the program logged as errors, without time and level.
  std::vector<std::string> errors() const;
  std::vector<std::string> warnings() const;
};

// A program that runs; waited for, or killed, at the latest when it is destroyed.
class Program {
 public:
  // `arguments[0]` is a name in build/bin. Output goes to files in `folder`. `input`: file or named
  // pipe of standard input; a named pipe `folder`/stdout gets standard output.
  Program(const std::vector<std::string>& arguments, const std::string& folder,
          const std::string& input = "/dev/null");
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  void send(int signal) const;
  int pid() const { return pid_; }
  bool running();
  // Waits until the file exists or the program has ended; false in the second case.
  bool wait_for_file(const std::string& path);
  ProgramResult wait();  // of a named pipe `out` stays empty

 private:
  std::string folder_;
  int pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& folder,
                          const std::string& input = "/dev/null");

std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);
void flip_bit(const std::string& path, size_t byte);

// What all tests of this folder share, made once: a data set of facts with its tokenizer, and a
// config.
class TinyProject {
 public:
  static const TinyProject& get();
  const std::string& folder() const { return folder_; }
  std::string config() const { return folder_ + "/tiny.yaml"; }
  std::string store() const { return folder_ + "/data/facts.h5"; }
  std::string tokenizer() const { return folder_ + "/data/tokenizer.json"; }
  // dsrsq-train with the tiny config into <folder>/<run>, and more arguments.
  std::vector<std::string> train(const std::string& run,
                                 const std::vector<std::string>& more = {}) const;
  std::string run_folder(const std::string& run) const { return folder_ + "/" + run; }
  ~TinyProject();

 private:
  TinyProject();
  std::string folder_;
};

// Weights, codebooks and optimiser of a checkpoint, as bytes.
std::string checkpoint_bytes(const std::string& run_folder, int step);

}  // namespace dsrsq::testing
