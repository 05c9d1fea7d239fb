// The commands of dsrsq-data. Each throws dsrsq::Error; results go to standard output, progress to
// standard error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string format;
  std::string tokenizer;
  std::string output;
  std::string split;        // "train=0.8,validation=0.1,test=0.1"; empty: one split "all"
  uint64_t seed = 0;        // of the splits
  int64_t maximum_bad = 0;  // an input file
  std::string command;
};
void prepare_dataset(const PrepareOptions& options);

struct SynthOptions {
  std::string output;  // folder
  std::string name = "data";
  std::string config;
  std::vector<std::string> overrides;
  std::string command;
};
void synthesise_dataset(const SynthOptions& options);

struct InspectOptions {
  std::string path;
  std::string tokenizer;
  std::string split;  // empty: all records
  int64_t records = 0;
};
void inspect_dataset(const InspectOptions& options);

void validate_dataset(const std::string& path, const std::string& tokenizer);

}  // namespace dsrsq
