#include "random_batch.h"

#include <torch/torch.h>

namespace dsrsq::bench {

Batch random_batch(int64_t vocabulary, int64_t size, int64_t context, int64_t tail,
                   c10::Device device) {
  const auto longs = at::TensorOptions(at::kLong), bools = at::TensorOptions(at::kBool);
  Batch batch;
  batch.context = at::randint(vocabulary, {size, context}, longs);
  batch.context_valid = at::ones({size, context}, bools);
  batch.passage = at::zeros({size, context}, longs);
  batch.evidence = at::zeros({size, 1, context}, bools);
  batch.answer_tokens = at::zeros({size, 1, context}, bools);
  batch.tail = at::randint(vocabulary, {size, tail}, longs);
  batch.tail_valid = at::ones({size, tail}, bools);
  batch.questions = batch.tail.unsqueeze(1);
  batch.questions_valid = batch.tail_valid.unsqueeze(1);
  batch.labels = at::full({size, tail}, -100, longs);
  batch.label_question = at::full({size, tail}, -1, longs);
  for (int64_t b = 0; b < size; ++b) batch.sample_ids.push_back(b);
  batch.records.resize(size_t(size));
  return batch.to(device);
}

}  // namespace dsrsq::bench
