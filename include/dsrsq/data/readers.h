// Readers: one per source format, each a stream of DocumentExample. A bad record is never skipped
// silently: it is counted and listed (file:line, reason); more than the limit is a DataError.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

struct ReadReport {
  int64_t records = 0;       // accepted questions
  int64_t unanswerable = 0;  // of these, without an answer
  struct Bad {
    std::string where;
    std::string reason;
  };
  std::vector<Bad> bad;  // all of them up to the limit
};

struct ReadOptions {
  int64_t maximum_bad = 0;  // more bad records than this: DataError that lists the first ones and
                            // says which option raises it
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};

using ExampleSink = std::function<void(DocumentExample&&)>;

// Natural Questions v1.0-simplified: (gzip) JSONL; tokens are joined by single blanks, offsets
// count these tokens; several annotators give several answers (duplicates merged); yes/no answers
// become "yes" / "no"; no non-null annotation: unanswerable. Evidence is the long answer,
// answer_spans the short answers (the long answer is the answer where there is no short one).
ReadReport read_nq_simplified(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink);

// Plain (gzip) JSONL: {"question": str, "context": str | "documents": [str | {"title","text"}],
// "answers": [str], "evidence"?: [str | [begin, end] in Unicode code points of the context],
// "answer_spans"?: the same, "id"?, "timestamp"?}. `documents` are joined by a blank line. Answers
// without spans are located in the evidence, then in the context (first verbatim occurrence).
// Consecutive records with the same context are one document.
ReadReport read_jsonl(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// The table of formats: name, one line, reader. Throws ConfigError for an unknown name, naming the
// known ones.
struct ReaderEntry {
  std::string name;
  std::string description;
  ReadReport (*read)(const std::string&, const ReadOptions&, const ExampleSink&);
};
const std::vector<ReaderEntry>& reader_table();
const ReaderEntry& find_reader(const std::string& name);

}  // namespace dsrsq
