// Whether a method cheats: what every row of a comparison owes, checked on the model and the data
// of that comparison. Independent of what the method says of itself, as far as its state can be
// counted.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/batch/loader.h"
#include "dsrsq/model/generate.h"

namespace dsrsq {

struct AuditOptions {
  Budget budget = Budget::kNone;  // what --budget buys of it
  bool oracle = false;            // it may see labels
  bool query_aware = false;       // it reads the question before it evicts
  std::vector<double> shares = {0.05, 0.12, 0.5};
  int64_t samples = 2;  // sequences, the loader's first
};

struct AuditFinding {
  std::string check;
  bool passed = false;
  std::string detail;
};

// Reads the loader's first sequences (its loader is with_answers) and changes what must not matter:
//   prefix invariance  a token of question or answer changes nothing before it
//   labels             evidence, answer spans and the answer's tokens change nothing of the
//   question
//                      (an oracle is allowed to)
//   decode             answers read token by token equal answers read at once (where query_aware,
//   the
//                      question is read before anything is evicted, and this is left out)
//   budget, a share    bytes held (kBytes), tokens read (kTokens) or keys attended by a decoded
//   token
//                      (kReads) are within it: sinks, question and answer are allowed beside it,
//                      and what their bookkeeping takes
//   sample isolation   a sequence read after another, or beside another, is read as if alone
std::vector<AuditFinding> audit_method(LanguageModel& model, const Loader& loader,
                                       const AuditOptions& options);

// "passed  prefix invariance  ..." a line.
std::string audit_report(const std::string& method, const std::vector<AuditFinding>& findings);

}  // namespace dsrsq
