#include "dsrsq/model/decode.h"

#include <torch/torch.h>

#include "dsrsq/core/timer.h"
#include "dsrsq/model/decode_step.h"

namespace dsrsq {

void decode_answers(LanguageModel& model, const Batch& batch, const at::Tensor& tail_hidden,
                    const GenerateOptions& settings, Generated& result) {
  auto device = model->device();
  auto& state = result.state;
  result.tokens.resize(size_t(batch.size()));
  if (settings.prompt_read) settings.prompt_read(tail_hidden, state);
  Timer timer;
  auto last = (batch.tail_valid.sum(1) - 1).view({-1, 1});
  auto first = gather_entries(tail_hidden, last, 1).squeeze(1);
  auto next = next_tokens(model->backbone()->logits(first), settings, batch.sample_ids, 0);  // [B]
  auto host = next.to(at::kCPU);
  result.prefill_seconds += timer.seconds();

  timer.restart();
  DecodeStep decoding(model, batch.sample_ids, settings, state);
  std::vector<bool> open(size_t(batch.size()), true);
  for (int64_t step = 0; step < settings.maximum_tokens; ++step) {
    int64_t unfinished = 0;
    auto unfinished_mask = at::zeros({batch.size()}, at::kBool);
    for (int64_t b = 0; b < batch.size(); ++b) {
      if (!open[size_t(b)]) continue;
      auto token = int32_t(host.data_ptr<int64_t>()[b]);
      if (token == settings.end_id) {
        open[size_t(b)] = false;
        continue;
      }
      auto& tokens = result.tokens[size_t(b)];
      tokens.push_back(token);
      if (settings.stop && settings.stop(tokens)) {
        open[size_t(b)] = false;
        continue;
      }
      unfinished_mask.data_ptr<bool>()[b] = true;
      ++unfinished;
    }
    if (unfinished == 0 || step + 1 == settings.maximum_tokens) break;
    result.decoded_tokens += unfinished;
    next = decoding.next(next, unfinished_mask);
    host = next.to(at::kCPU);
    if (step == 1 && decoding.recorded()) result.record_seconds = timer.seconds();
  }
  result.recorded = decoding.recorded();
  decoding.finish();
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
  result.decode_seconds = timer.seconds();
  result.state_bytes = model->method().state_bytes(state);
}

}  // namespace dsrsq
