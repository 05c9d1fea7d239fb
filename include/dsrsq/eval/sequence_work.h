// From what was counted while sequences were read to the mean work of one (eval/efficiency.h).
#pragma once

#include "dsrsq/eval/efficiency.h"
#include "dsrsq/ops/attention_shape.h"

namespace dsrsq {

struct WorkSums {
  double sequences = 0;
  double context_tokens = 0;
  double reader_tokens = 0;   // sinks, selected tokens and tails, without what was decoded
  double decoded_tokens = 0;  // that were read again, to predict the next
  // Of `counted` sequences, over layers and query heads (AttentionStats).
  double counted = 0, attended_pairs = 0, latent_pairs = 0, rebuilt_latents = 0;
};

SequenceWork mean_work(const WorkSums& sums, const AttentionShape& shape,
                       const FlopSettings& settings);

}  // namespace dsrsq
