#include "dsrsq/model/decode_step.h"

#include <torch/torch.h>

#include <mutex>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/model/recordable_step.h"
#include "dsrsq/ops/cuda_graph.h"

namespace dsrsq {

namespace {

// The first step runs as it is, so that whatever is made on first use is made; recording costs
// about another. Under so many steps the replays do not pay for it.
constexpr int64_t kWorthRecording = 4;

void log_once(const std::string& line) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  if (said.insert(line).second) log_info(line);
}

std::string obstacle(LanguageModel& model, const GenerateOptions& settings,
                     const MethodState& state) {
  auto* method = dynamic_cast<RecordableStep*>(&model->method());
  if (method == nullptr) return concat("method ", model->method().method_name());
  if (settings.temperature > 0) return "temperature above 0, whose noise the host draws";
  if (model->backbone()->config().position_embedding == "learned")
    return "model.position_embedding: learned, whose table may end";
  if (state.options.collect_stats && !model->method().counts_without_masks())
    return "attention is counted";
  for (const auto& layer : state.layers) {
    if (!layer.head_groups.empty()) return "heads hold entries of their own";
    if (!layer.keys.defined()) return "no prompt was read";
  }
  return method->step_obstacle(state);
}

// All that a step may leave a new tensor in, of the same shape.
std::vector<at::Tensor*> carried(MethodState& state) {
  auto& stats = state.stats;
  std::vector<at::Tensor*> all{&state.next_order,  &state.next_position,  &stats.rows,
                               &stats.sparse_rows, &stats.attended_pairs, &stats.visible_pairs,
                               &stats.latent_rows, &stats.latent_pairs,   &stats.rebuilt_latents,
                               &stats.latent_mass};
  for (auto& tail : state.conv_tails) all.push_back(&tail);
  for (auto& layer : state.layers)
    for (auto* tensor :
         {&layer.mass, &layer.exposure, &layer.cluster_direction, &layer.cluster_mean})
      all.push_back(tensor);
  return all;
}

std::vector<at::Tensor> tensors_at(const std::vector<at::Tensor*>& slots) {
  std::vector<at::Tensor> tensors;
  for (const auto* slot : slots) tensors.push_back(*slot);
  return tensors;
}

}  // namespace

DecodeStep::DecodeStep(LanguageModel& model, const std::vector<int64_t>& sample_ids,
                       const GenerateOptions& settings, MethodState& state)
    : model_(model), sample_ids_(sample_ids), settings_(settings), state_(state) {
  auto device = model->device();
  if (settings.decoding == Decoding::kEager) return;
  if (settings.decoding == Decoding::kAuto &&
      (!device.is_cuda() || settings.maximum_tokens < kWorthRecording))
    return;
  auto why = obstacle(model, settings, state);
  if (!why.empty()) {
    if (settings.decoding == Decoding::kFixed)
      throw ConfigError(
          concat("decoding in fixed shapes: expected a step that can be recorded, got ", why));
    log_once(concat("decoding: operator by operator, not recorded (", why, ")"));
    return;
  }
  fixed_ = true;
  records_ = settings.decoding == Decoding::kAuto;
  padded_ = state.next_order.size(0) > 1;
  for (auto& layer : state_.layers) layer.reserve(settings.maximum_tokens);
}

at::Tensor DecodeStep::choose(const at::Tensor& ids, const at::Tensor& open, bool padded) {
  auto hidden = model_->read_next(ids, open, state_, padded);
  return next_tokens(model_->backbone()->logits(hidden.squeeze(1)), settings_, sample_ids_,
                     steps_ + 1);
}

// The step in fixed shapes. The first one leaves new tensors, which nobody else holds; what a later
// one leaves goes back into them, where the next finds it.
void DecodeStep::run() {
  auto slots = carried(state_);
  const auto before = tensors_at(slots);
  auto chosen = choose(ids_, open_, padded_);
  if (steps_ == 0) {
    next_ = chosen.clone();
    return;
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!slots[i]->defined() || slots[i]->is_same(before[i])) continue;
    TORCH_CHECK(before[i].defined() && before[i].sizes() == slots[i]->sizes() &&
                    before[i].scalar_type() == slots[i]->scalar_type(),
                "decoding: a step changed the shape of the state");
    before[i].copy_(*slots[i]);
    *slots[i] = before[i];
  }
  next_.copy_(chosen);
}

// Where it cannot be, nothing has changed.
void DecodeStep::record() {
  auto slots = carried(state_);
  const auto before = tensors_at(slots);
  try {
    replay_ = ops::record_graph([this] { run(); }, model_->device());
  } catch (const c10::Error& error) {
    for (size_t i = 0; i < slots.size(); ++i) *slots[i] = before[i];
    log_once(concat("decoding: operator by operator, the step could not be recorded: ",
                    error.what_without_backtrace()));
  }
}

at::Tensor DecodeStep::next(const at::Tensor& ids, const at::Tensor& open) {
  if (!fixed_) {
    auto all_open = open.all().item<bool>();
    auto chosen = choose(ids, open.to(ids.device()), !all_open);
    ++steps_;
    return chosen;
  }
  if (steps_ == 0) {
    ids_ = ids.clone();
    open_ = open.to(ids.device(), /*non_blocking=*/false, /*copy=*/true);
  } else {
    ids_.copy_(ids);
    if (padded_) open_.copy_(open);
  }
  if (records_ && steps_ == 1) record();
  if (replay_)
    replay_();
  else
    run();
  ++steps_;
  return next_;
}

void DecodeStep::finish() {
  if (!fixed_) return;
  for (auto& layer : state_.layers) layer.release(steps_, padded_);
  fixed_ = false;
}

}  // namespace dsrsq
