// A long text in which facts are stated and later stated anew with another value, and questions
// asked of it while it goes on: what the adaptation metrics (eval/adaptation.h, D20) are measured
// on. A question at a time is asked of the text up to there: the file holds the text once.
//
// One JSON Lines file, plain or gzip. The first line is the stream, every other one a probe:
//   {"format": "dsrsq-stream", "version": 1, "source": "...", "segment": 512, "text": "..."}
//   {"id", "fact": 7, "question": "...", "values": ["V1 V2", ...], "update": 1,
//    "prefix_bytes": 91234, "lag": 2048, "stated": [begin, end], "distractors": ["..."]}
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/data/example.h"
#include "dsrsq/data/synthetic.h"

namespace dsrsq {

struct StreamProbe {
  std::string id, question;
  int64_t fact = 0;
  std::vector<std::string> values;  // of the fact over the whole stream, in the order of time
  int64_t update = -1;       // which of them is true now: 0 as first stated; -1: never stated yet,
                             // the control
  int64_t prefix_bytes = 0;  // of the text, that are known when it is asked
  int64_t lag = -1;          // tokens since the end of the last statement; -1: never stated
  ByteSpan stated;           // that statement; empty: never stated
  std::vector<std::string> distractors;  // values of other facts, the same at all probes of a fact

  bool is_control() const { return update < 0; }
  // What is right now; of a control what would be, had it been said.
  const std::string& answer() const { return values[size_t(update < 0 ? 0 : update)]; }
};

struct FactStream {
  std::string source;   // in words: what made it
  int64_t segment = 0;  // S, tokens: lags are 0 and S 2^j
  std::string text;
  std::vector<StreamProbe> probes;  // by prefix_bytes, ascending
};

// A generated stream in the words of the synthetic task `facts`, one token each: " the ATTRIBUTE of
// NAME is V1 V2 ." in its own slot of filler; `updates` of the facts are stated a second time,
// later, with another value. `probed_facts` of them, as many updated ones as there are among all,
// are asked at every lag 0, S, 2 S, 4 S, ... that ends before the fact's next statement and before
// the text, and once more just before that statement. Probed facts and controls are test pairs
// (synthetic.h); the others are any pair.
struct FactStreamConfig {
  int64_t seed = 0;
  int64_t tokens = 200000;
  int64_t segment = 512;
  int64_t facts = 1000;
  int64_t updates = 500;
  int64_t probed_facts = 160;
  int64_t controls = 80;    // questions about facts that are never stated, at times of their own
  int64_t distractors = 6;  // values of other facts beside the fact's own, first of the same name,
                            // then of the same attribute, then any
  int64_t names = 256;      // these four as in SyntheticConfig
  int64_t attributes = 16;
  int64_t values = 512;
  int64_t filler_words = 200;
  void visit_fields(ConfigVisitor& v);
  void validate() const;  // throws ConfigError
  SyntheticConfig language() const;
};

FactStream make_fact_stream(const FactStreamConfig& config);

std::string fact_stream_lines(const FactStream& stream);
// Throws DataError naming file:line, what was expected and what was found.
FactStream read_fact_stream(const std::string& path);

}  // namespace dsrsq
