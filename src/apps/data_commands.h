// The commands of dsrsq-data. Each throws dsrsq::Error; results go to standard output, progress to
// standard error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/data/store.h"

namespace dsrsq {

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string format;     // one for all inputs, or one for each: "lost_in_the_middle,qed"
  std::string tokenizer;  // empty where the output is JSONL, which holds text
  std::string output;     // NAME.jsonl: format jsonl; else HDF5
  std::string split;      // "train=0.8,validation=0.1,test=0.1"; empty: one split "all"
  std::string split_by = "content";  // or "time", "input"
  uint64_t seed = 0;                 // of the splits and of the passages that are drawn
  int64_t documents = 0;  // passages of an assembled context; 0: contexts are not assembled
  std::string gold;       // first, middle, last or an index; empty: first
  std::string passages = "plain";  // or "numbered"
  std::string questions;    // kinds of question, "next_line,docstring"; empty: all of the format's
  int64_t maximum_bad = 0;  // an input file
  // Second files of the formats that take one: one for all inputs, or one for each.
  std::vector<std::string> companions;
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

struct StreamOptions {
  std::string output;     // .jsonl
  std::string dated;      // entries of changelogs instead of generated facts; empty: generated
  std::string tokenizer;  // for `dated`
  std::string config;
  std::vector<std::string> overrides;
};
void make_stream(const StreamOptions& options);

struct InspectOptions {
  std::string path;
  std::string tokenizer;
  std::string split;  // empty: all records
  int64_t records = 0;
};
void inspect_dataset(const InspectOptions& options);

struct TokenizeOptions {
  std::vector<std::string> inputs;
  std::string tokenizer;
};
// A JSON line for each input, whole files that need not be valid UTF-8: {"file", "bytes", "ids",
// "spans" ([begin, end) of each token in the file's bytes), "decoded"}.
void tokenize_files(const TokenizeOptions& options);

// Shared by the commands. The answer spans that are at their text, as a share.
void print_info(const Store& store);
void print_spans(int64_t spans, int64_t at_text);
// Whether every answer span is to be the text of an answer, by the formats that `source` of a data
// set names.
bool spans_are_exact(const std::string& source);

// A run's backbone as a Hugging Face folder that `transformers` loads; its other tensors in
// dsrsq.safetensors, its config in dsrsq_config.json. `path`: a run, or one of its checkpoints.
// Throws ConfigError where no family has such a backbone, CheckpointError.
void export_run(const std::string& path, const std::string& folder);

// With a tokenizer, answer spans are compared with their text as well.
void validate_dataset(const std::string& path, const std::string& tokenizer);

}  // namespace dsrsq
