// dsrsq-eval --suite: the tasks of a suite one after another, each by its own rules.
#pragma once

#include "dsrsq/eval/suite.h"
#include "dsrsq/train/run_config.h"
#include "eval_rows.h"

namespace dsrsq {

// Prompt, limits and split of the task that `split` is of take the place of the run's own.
void apply_task(const Suite& suite, const std::string& split, RunConfig& config);

// evaluate_rows for every split of the data set that holds records; then the mean over the tasks as
// a case of its own, called request.suite_name. Throws DataError for a split that the suite does
// not know, before any work.
EvalOutcome evaluate_suite(EvalRequest request);

}  // namespace dsrsq
