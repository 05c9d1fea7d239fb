// A real dated stream as a fact stream (data/fact_stream.h): entries of changelogs in the order of
// time, in which every release of a package is news of one fact, its latest version ("What is the
// latest version of PACKAGE?"); or commits, whose subject "COMPONENT: CHANGE" is news of the latest
// change to the component ("What is the latest change to COMPONENT?").
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/core/config.h"
#include "dsrsq/data/fact_stream.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct DatedStreamConfig {
  int64_t seed = 0;
  std::string since;         // YYYY-MM-DD: earlier entries are left out; empty: none
  int64_t tokens = 200000;   // of the text: as many entries as fit
  int64_t segment = 512;     // S
  int64_t text_bytes = 300;  // of an entry's text, at most; whole lines
  int64_t packages = 60;     // that are asked, each around one of its releases, drawn: from the
                             // release before it to the release after it
  int64_t controls = 30;     // packages that are asked before their first release
  int64_t distractors = 6;   // versions of other packages
  void visit_fields(ConfigVisitor& v);
};

// `path`: JSON lines of {"date", "package", "version", "text"}, or of {"date", "subject", "body"}
// for commits, in the order of time (format dated_entries), plain or gzip. An entry stands as
// "DAY PACKAGE VERSION\n" or "DAY SUBJECT\n", its text and an empty line; the first line is the
// statement. A component is a first word without a space, up to ": "; commits of none are only
// text. Below, what is said of packages and versions holds of components and changes. Of a package that is asked, `values` are the two versions
// that are asked for and three before them. Lags are those of `tokenizer`. Throws DataError naming
// file:line, and where too few packages have two releases or come later.
FactStream make_dated_stream(const std::string& path, const Tokenizer& tokenizer,
                             const DatedStreamConfig& config);

}  // namespace dsrsq
