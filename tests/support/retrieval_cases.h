#pragma once

#include <vector>

#include "support/op_case.h"

namespace dsrsq::testing {

// Numbers of rows around the kernels' 32 rows a warp, 2048 keys a turn and several ranges; widths
// that fill no vector; shared stores, several queries, masks, ties, noise, more places than rows,
// in every dtype of rows.
std::vector<OpCase> retrieval_topk_cases();

// Repeated and missing rows, widths of every word size, in every dtype.
std::vector<OpCase> gather_tokens_cases();

// Rows that pick nothing, some or all.
std::vector<OpCase> subset_log_prob_cases();
// More picks and candidates than a block has threads; too long for central differences.
std::vector<OpCase> long_subset_log_prob_cases();

// Empty and full reservoirs, padding, weights, decay, noise, ties; more keys than a thread holds.
std::vector<OpCase> reservoir_update_cases();

}  // namespace dsrsq::testing
