// Rows that were evaluated elsewhere or at different times, put together without a model.
#pragma once

#include <string>
#include <vector>

#include "eval_rows.h"

namespace dsrsq {

// The rows in `folders` (<output-dir>/rows of dsrsq-eval): runs first, then methods as the registry
// lists them, each with its budgets ascending. Throws DataError where two rows have one name, or
// were evaluated on other weights, by other commits or under other settings.
EvalOutcome collect_rows(const std::vector<std::string>& folders);

}  // namespace dsrsq
