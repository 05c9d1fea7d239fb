// dsrsq-eval --nq: predictions made elsewhere, scored as Natural Questions scores them.
#pragma once

#include <string>
#include <vector>

#include "eval_rows.h"

namespace dsrsq {

// Records of each "[ROW=]FILE": NAME.json, spans with scores (eval/nq_scoring.h), by the official
// rules; JSON lines of {"id", "prediction"}, words, as nq_short_text_*. `gold`: the annotated
// pages; `annotators`: how many must have answered for a page to have an answer.
EvalOutcome score_nq(const std::vector<std::string>& inputs, const std::string& gold,
                     int64_t annotators);
// Those metrics, for the table.
std::vector<Column> nq_columns();

}  // namespace dsrsq
