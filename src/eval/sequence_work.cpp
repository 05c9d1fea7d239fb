#include "dsrsq/eval/sequence_work.h"

namespace dsrsq {

SequenceWork mean_work(const WorkSums& sums, const AttentionShape& shape,
                       const FlopSettings& settings) {
  SequenceWork work;
  work.context_tokens = settings.retriever_width > 0 ? sums.context_tokens / sums.sequences : 0;
  work.reader_tokens = (sums.reader_tokens + sums.decoded_tokens) / sums.sequences;
  work.attended_pairs = sums.attended_pairs / double(shape.query_heads) / sums.counted;
  work.latent_pairs = sums.latent_pairs / double(shape.query_heads) / sums.counted;
  work.rebuilt_latents = sums.rebuilt_latents / sums.counted;
  work.routed_pairs = work.reader_tokens * double(shape.layers * settings.clusters) *
                      (1 + double(shape.key_value_heads) / double(shape.query_heads));
  work.predicted_tokens = 1 + sums.decoded_tokens / sums.sequences;
  return work;
}

}  // namespace dsrsq
