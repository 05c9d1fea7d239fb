#include "dsrsq/methods/razor.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"

namespace dsrsq {

void RazorConfig::visit_fields(ConfigVisitor& v) {
  v.field("echo_share", echo_share,
          "Key-value heads that are retrieval heads because they attend the same token earlier.",
          between(0, 1));
  v.field("induction_share", induction_share,
          "Key-value heads that are because they attend what followed the same token.",
          between(0, 1));
  v.field("search_tokens", search_tokens, "Random tokens of the text that heads are searched with.",
          at_least(2));
  v.field("search_repeats", search_repeats, "How often that text is read in a row.", at_least(2));
  v.field("sinks", sinks,
          "First tokens of the sequence that all heads keep; model.sinks are among them, outside "
          "the budget.",
          at_least(0));
  v.field("retrieval_budget", retrieval_budget,
          "Share of the budget that retrieval heads may take; those that would exceed it, the "
          "lowest, are read as the others.",
          between(0, 1));
  v.field("compensation", compensation, "One entry stands for what a head dropped.");
}

std::vector<RetrievalHead> retrieval_heads(const HeadScores& scores, int64_t key_value_heads,
                                           const RazorConfig& config) {
  auto layers = scores.echo.size(0);
  auto pooled = [&](const at::Tensor& x) {
    return std::get<0>(x.view({layers, key_value_heads, -1}).max(2)).contiguous();
  };
  auto echo = pooled(scores.echo), induction = pooled(scores.induction);
  auto total = layers * key_value_heads;
  std::vector<RetrievalHead> chosen;
  std::vector<bool> taken(size_t(total), false);
  for (bool by_echo : {true, false}) {
    const auto* score = (by_echo ? echo : induction).data_ptr<float>();
    std::vector<int64_t> ranked(static_cast<size_t>(total));
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(),
                     [&](int64_t x, int64_t y) { return score[x] > score[y]; });
    auto share = by_echo ? config.echo_share : config.induction_share;
    auto wanted = int64_t(std::llround(share * double(total)));
    for (int64_t i = 0; i < wanted; ++i) {
      auto at = ranked[size_t(i)];
      if (taken[size_t(at)]) continue;
      taken[size_t(at)] = true;
      chosen.push_back({at / key_value_heads, at % key_value_heads, echo.data_ptr<float>()[at],
                        induction.data_ptr<float>()[at], by_echo});
    }
  }
  return chosen;
}

void RazorMethod::prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) {
  if (heads_) return;
  auto scores = search_heads(model, shape_, own_, batch.context.device());
  heads_ = retrieval_heads(scores, shape_.key_value_heads, own_);
  for (const auto& head : *heads_)
    log_debug("razor: retrieval head layer ", head.layer, " head ", head.head, " by ",
              head.by_echo ? "echo" : "induction", ": echo ", head.echo, ", induction ",
              head.induction);
}

std::map<std::string, double> RazorMethod::scalars() const {
  std::map<std::string, double> values;
  if (!heads_) return values;
  for (const auto& head : *heads_) {
    auto name = concat("razor/layer_", head.layer, "_head_", head.head);
    values[name + "/echo"] = head.echo;
    values[name + "/induction"] = head.induction;
  }
  return values;
}

at::Tensor RazorMethod::score(const AttentionInput& input, const LayerState& layer,
                              const EvictionMemory& memory) {
  return first_and_last(memory, own_.sinks);
}

namespace {
// What each of the other heads may keep where `retrieving` of `total` heads keep the whole context.
int64_t share_of_others(int64_t entries, int64_t context, int64_t total, int64_t retrieving) {
  return retrieving == total ? context : (entries - retrieving * context) / (total - retrieving);
}
}  // namespace

at::Tensor RazorMethod::capacities(int64_t layer, const EvictionMemory& memory) const {
  TORCH_CHECK(heads_.has_value(), "razor: capacities before prepare");
  auto total = shape_.layers * shape_.key_value_heads;
  auto kept = at::empty({int64_t(memory.context.size()), shape_.key_value_heads}, at::kLong);
  for (int64_t b = 0; b < kept.size(0); ++b) {
    auto context = memory.context[size_t(b)], entries = memory.budget[size_t(b)] * total;
    auto room = int64_t(own_.retrieval_budget * double(entries));
    auto retrieving = std::min(int64_t(heads_->size()), room / std::max<int64_t>(1, context));
    auto each = share_of_others(entries, context, total, retrieving);
    if (each == 0) {  // a budget of an entry a head has no room for a whole context
      retrieving = 0;
      each = entries / total;
    }
    // One of them is what stands for the dropped tokens.
    if (each < context && own_.compensation) --each;
    kept[b].fill_(std::min(each, context));
    for (int64_t i = 0; i < retrieving; ++i)
      if ((*heads_)[size_t(i)].layer == layer) kept[b][(*heads_)[size_t(i)].head] = context;
  }
  return kept;
}

void RazorMethod::after_eviction(const LayerState& layer, const at::Tensor& dropped,
                                 HeadEntries& group) const {
  if (!own_.compensation) return;
  auto type = layer.keys.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto count = dropped.sum(-1, true).to(type);  // [B, h, 1]
  auto context = [&](const at::Tensor& x) {
    return group.own_heads(x).narrow(2, sinks_, dropped.size(2)).to(type);
  };
  auto weights = (dropped.to(type) / count.clamp_min(1)).unsqueeze(2);  // [B, h, 1, N]
  auto mean = [&](const at::Tensor& x) {
    return at::matmul(weights, context(x)).to(x.scalar_type());
  };
  auto valid = count > 0;
  if (!group.valid.defined()) group.valid = at::ones_like(group.order, at::kBool);
  group.bias =
      at::cat({at::zeros(group.order.sizes(), count.options()), count.clamp_min(1).log()}, 2);
  group.keys = at::cat({group.keys, mean(layer.keys)}, 2);
  group.values = at::cat({group.values, mean(layer.values)}, 2);
  // No token's rank: it stands for many.
  group.order = at::cat({group.order, at::full(valid.sizes(), -1, group.order.options())}, 2);
  group.valid = at::cat({group.valid, valid}, 2);
}

}  // namespace dsrsq
