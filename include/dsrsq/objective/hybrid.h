// The hybrid loss (paper section 3.5, D18): every term is a sum and a count, and is averaged once,
// over all micro-batches (and ranks) of a step, so that the result does not depend on how a batch
// was cut (the compression term is a ratio of energies and is averaged over micro-batches and
// layers).
#pragma once

#include <map>
#include <string>

#include "dsrsq/model/method.h"

namespace dsrsq {

// sum over terms of weight x sum / total count. `total_counts`: of the whole step. A term without a
// weight is an error (a typo would switch it off silently); a term whose total count is 0 is left
// out.
at::Tensor hybrid_loss(const LossTerms& terms, const std::map<std::string, double>& weights,
                       const std::map<std::string, double>& total_counts);

}  // namespace dsrsq
