#include "dsrsq/model/generate.h"

#include <torch/torch.h>

#include "dsrsq/core/timer.h"

namespace dsrsq {

namespace {
void wait_for(at::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}
}  // namespace

Generated generate(LanguageModel& model, const Batch& batch, const PassOptions& options,
                   const GenerateOptions& settings) {
  at::NoGradGuard no_grad;
  auto device = model->device();
  Generated result;
  result.tokens.resize(size_t(batch.size()));
  result.state = model->method().make_state(batch, options);
  auto& state = result.state;

  wait_for(device);
  Timer timer;
  model->choose_tokens(batch, state);
  wait_for(device);
  result.select_seconds = timer.seconds();

  timer.restart();
  auto hidden = model->read_selected(batch, state);
  auto last = (batch.tail_valid.sum(1) - 1).view({-1, 1});
  auto next =
      model->backbone()->logits(gather_entries(hidden, last, 1).squeeze(1)).argmax(-1);  // [B]
  auto host = next.to(at::kCPU);
  result.prefill_seconds = timer.seconds();

  timer.restart();
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
      result.tokens[size_t(b)].push_back(token);
      unfinished_mask.data_ptr<bool>()[b] = true;
      ++unfinished;
    }
    if (unfinished == 0 || step + 1 == settings.maximum_tokens) break;
    result.decoded_tokens += unfinished;
    hidden = model->read_next(next, unfinished_mask.to(device), state);
    next = model->backbone()->logits(hidden.squeeze(1)).argmax(-1);
    host = next.to(at::kCPU);
  }
  wait_for(device);
  result.decode_seconds = timer.seconds();
  result.state_bytes = model->method().state_bytes(state);
  return result;
}

}  // namespace dsrsq
