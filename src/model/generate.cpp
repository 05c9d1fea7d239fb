#include "dsrsq/model/generate.h"

#include <torch/torch.h>

#include <cmath>
#include <utility>

#include "dsrsq/core/timer.h"
#include "dsrsq/model/decode.h"
#include "dsrsq/model/shared_prompt.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

namespace {
void wait_for(at::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}
}  // namespace

at::Tensor next_tokens(const at::Tensor& logits, const GenerateOptions& options,
                       const std::vector<int64_t>& sample_ids, int64_t step) {
  if (options.temperature <= 0) return logits.argmax(-1);
  auto score = logits / options.temperature;
  if (options.top_k > 0 && options.top_k < score.size(1)) {
    auto least = std::get<0>(score.topk(options.top_k, 1)).narrow(1, options.top_k - 1, 1);
    score = score.masked_fill(score < least, -INFINITY);
  }
  if (options.top_p < 1) {
    auto [sorted, index] = score.sort(1, /*descending=*/true);
    auto probability = at::softmax(sorted, 1);
    // What the more probable ones already reach p without; the most probable always stays.
    auto spare = (probability.cumsum(1) - probability) >= options.top_p;
    spare.select(1, 0).fill_(false);
    score = score.masked_fill(at::zeros_like(spare).scatter_(1, index, spare), -INFINITY);
  }
  auto noise = ops::noise(ops::Noise::kGumbel, uint64_t(options.seed), Purpose::kGenerate,
                          uint64_t(step), sample_ids, score.size(1), score.device());
  return (score + noise).argmax(-1);
}

at::Tensor read_more(LanguageModel& model, const at::Tensor& ids, const at::Tensor& valid,
                     MethodState& state) {
  ReaderInput reader;
  reader.inputs = model->backbone()->embed(ids);
  reader.valid = valid;
  reader.padded = !valid.all().item<bool>();
  auto rank = (valid.cumsum(1) - 1).clamp_min(0);
  reader.order = rank + state.next_order.unsqueeze(1);
  reader.positions = rank + state.next_position.unsqueeze(1);
  reader.segments = {ids.size(1)};
  auto hidden = model->backbone()->forward(reader, model->method(), state);
  auto tokens = valid.sum(1);
  state.next_order = state.next_order + tokens;
  state.next_position = state.next_position + tokens;
  return hidden;
}

namespace {

// The tail behind a context that `state` has read whole, so that ranks and places are the same.
at::Tensor read_tail(LanguageModel& model, const Batch& batch, MethodState& state) {
  state.next_order = batch.context_valid.sum(1) + model->backbone()->config().sinks;
  state.next_position = state.next_order;
  return read_more(model, batch.tail, batch.tail_valid, state);
}

}  // namespace

Generated generate(LanguageModel& model, const Batch& batch, const PassOptions& options,
                   const GenerateOptions& settings) {
  at::NoGradGuard no_grad;
  auto device = model->device();
  Generated result;
  result.state = model->method().make_state(batch, options);

  wait_for(device);
  Timer timer;
  model->choose_tokens(batch, result.state);
  wait_for(device);
  result.select_seconds = timer.seconds();

  timer.restart();
  auto hidden = model->read_selected(batch, result.state);
  result.prefill_seconds = timer.seconds();
  decode_answers(model, batch, hidden, settings, result);
  return result;
}

void generate_budgets(LanguageModel& model, const Batch& batch,
                      const std::vector<PassOptions>& options, const GenerateOptions& settings,
                      const std::function<void(size_t, const Generated&)>& use) {
  at::NoGradGuard no_grad;
  auto* shared = dynamic_cast<SharedPrompt*>(&model->method());
  if (shared == nullptr || options.size() < 2) {
    for (size_t i = 0; i < options.size(); ++i)
      use(i, generate(model, batch, options[i], settings));
    return;
  }
  auto state = model->method().make_state(batch, options.front());
  for (size_t i = 1; i < options.size(); ++i)
    state.branches.push_back(model->method().make_state(batch, options[i]));
  model->choose_tokens(batch, state);
  auto hidden = model->read_selected(batch, state);
  auto branches = std::exchange(state.branches, {});
  auto parting = shared->parting();
  for (auto& branch : branches) {
    if (parting == Parting::kSelection) continue;
    branch.selected = state.selected;
    branch.next_order = state.next_order;
    branch.next_position = state.next_position;
  }
  for (size_t i = 0; i < options.size(); ++i) {
    Generated result;
    result.state = std::move(i == 0 ? state : branches[i - 1]);
    auto own = hidden;
    if (i > 0 && parting == Parting::kSelection)
      own = model->read_selected(batch, result.state);
    else if (i > 0 && parting == Parting::kContext)
      own = read_tail(model, batch, result.state);
    decode_answers(model, batch, own, settings, result);
    use(i, result);
  }
}

}  // namespace dsrsq
