// A generated data set and a model small enough that a test trains it in under a second.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/data/store.h"
#include "dsrsq/text/tokenizer.h"
#include "dsrsq/train/run_config.h"

namespace dsrsq::testing {

// A folder of its own under the test's temporary folder, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Writes `documents` to `path`, all in the split of `splits[i]`; splits are train, validation,
// test.
void write_store(const std::string& path, const Tokenizer& tokenizer,
                 const std::vector<DocumentExample>& documents, const std::vector<uint8_t>& splits);

// Facts of 64 tokens: <folder>/tokenizer.json and facts.h5 with 24 training documents (4 questions
// each), 4 for validation, 8 for test (one question each).
class TinyFacts {
 public:
  TinyFacts();
  std::string tokenizer_path() const { return folder_ / "tokenizer.json"; }
  std::string store_path() const { return folder_ / "facts.h5"; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  std::string folder(const std::string& name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
  Tokenizer tokenizer_;
};

// All four parts on from the first step: 2 layers, width 32, grouped heads, fp32, one thread, 6
// steps, no evaluation.
RunConfig tiny_config(const TinyFacts& facts);
StageConfig tiny_stage(const std::string& name, int64_t steps, bool sqa, bool rckv);

}  // namespace dsrsq::testing
