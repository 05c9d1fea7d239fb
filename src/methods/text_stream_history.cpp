// The history on disk (D19): what is appended, how it is searched, how tokens come back.
#include "text_stream_history.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/causal_conv.h"
#include "dsrsq/retriever/subset.h"

namespace dsrsq {

namespace {

std::string tensor_digest(const at::Tensor& tensor) {
  auto host = tensor.detach().to(at::kCPU).contiguous();
  return sha256_hex(
      std::string(static_cast<const char*>(host.const_data_ptr()), size_t(host.nbytes())));
}

// The best runs of what has been seen: score, and slot of the first token, block x S + place in it.
struct Best {
  at::Tensor score = at::empty({0}, at::kFloat);
  at::Tensor slot = at::empty({0}, at::kLong);

  void add(const at::Tensor& more_scores, const at::Tensor& more_slots, int64_t budget) {
    auto scores = at::cat({score, more_scores}), slots = at::cat({slot, more_slots});
    auto [value, index] = scores.topk(std::min(budget, scores.size(0)));
    score = value;
    slot = slots.index_select(0, index);
  }
};

// Of a block the tokens that may be brought back: those from place `exact` on are exact keys.
int64_t usable(const HistoryBlock& block, int64_t exact) {
  return std::min(block.tokens, exact - block.first);
}

struct HistoryQuery {
  at::Tensor question;  // [r] unit vector, on the CPU
  int64_t exact;
  int64_t span, budget;
  double temperature;
};

// Slots of the best tokens, ascending: whole runs by the log-sum-exp of their scores, best first,
// the last one cut at the budget. Block by block, so that memory depends on the budget alone.
std::vector<int64_t> best_slots(const HistoryStore& history, const HistoryQuery& query,
                                int64_t& scanned_tokens) {
  constexpr int64_t kChunk = int64_t{1} << 14;  // scores held at once
  const auto length = history.layout().block_tokens, width = history.layout().width;
  const auto span = query.span;
  Best best;
  std::vector<at::Tensor> scores;  // of `gathered` tokens from slot `begin` on
  int64_t begin = 0, gathered = 0;
  auto flush = [&] {
    if (gathered == 0) return;
    auto score = at::cat(scores);
    if (span > 1) score = run_scores((score / query.temperature).unsqueeze(0), span).squeeze(0);
    best.add(score, at::arange(begin, begin + gathered, span, at::kLong), query.budget);
    scores.clear();
    gathered = 0;
  };
  for (int64_t i = 0; i < history.blocks(); ++i) {
    auto block = history.block(i);
    auto count = usable(block, query.exact);
    if (count <= 0) break;
    if (gathered == 0) begin = i * length;
    auto vectors = at::from_blob(const_cast<float*>(block.vectors), {count, width});
    scores.push_back(at::mv(vectors, query.question));
    gathered += count;
    scanned_tokens += count;
    // No run reaches from a block into the next.
    if (gathered >= kChunk || count % span != 0 || count < length) flush();
  }
  flush();
  std::vector<int64_t> slots;
  auto left = query.budget;
  for (int64_t r = 0; r < best.slot.size(0) && left > 0; ++r) {
    auto first = best.slot.data_ptr<int64_t>()[r];
    auto rest = usable(history.block(first / length), query.exact) - first % length;
    auto taken = std::min({span, rest, left});
    for (int64_t t = 0; t < taken; ++t) slots.push_back(first + t);
    left -= taken;
  }
  std::sort(slots.begin(), slots.end());
  return slots;
}

// Ids of the token (last of `window`) and of those before it, as far as they are of its document
// and no gap that damage left lies between.
void fill_window(const HistoryStore& history, int64_t slot, int64_t reach, int64_t* window) {
  auto number = slot / history.layout().block_tokens, inside = slot % history.layout().block_tokens;
  auto block = history.block(number);
  const auto document = block.document;
  for (int64_t place = reach - 1; place >= 0; --place) {
    window[place] = block.ids[inside];
    if (inside > 0) {
      --inside;
      continue;
    }
    if (number == 0) return;
    auto first = block.first;
    block = history.block(--number);
    if (block.document != document || block.first + block.tokens != first) return;
    inside = block.tokens - 1;
  }
}

}  // namespace

HistoryLayout TextStream::history_layout(LanguageModel& model) {
  auto method = std::dynamic_pointer_cast<DsrsqMethod>(model->shared_method());
  if (!method || !method->config().dsr.enabled)
    throw ConfigError(
        "rckv.store: disk: expected dsr.enabled: true, which searches it, got a model without a "
        "retriever; give another run, or rckv.store: none");
  const auto& dsr = method->config().dsr;
  if (dsr.pool != "mean")
    throw ConfigError(concat("rckv.store: disk: expected dsr.pool: mean, got ", dsr.pool,
                             ", which counts a question's words in the whole text"));
  // Everything that E_c is made of: the embeddings, and the retriever's W_c and convolution.
  std::string digests =
      "embedding " + tensor_digest(model->backbone()->named_parameters(false)["embedding"]);
  auto part = method->named_children()["dsr"]->named_parameters(false);
  for (const char* name : {"context_projection", "conv"})
    if (part.contains(name)) digests += concat("\n", name, " ", tensor_digest(part[name]));
  return {dsr.width, method->config().rckv.segment, sha256_hex(digests)};
}

void TextStream::append_history(const Segment& segment, const at::Tensor& inputs) {
  if (options_.histories.empty()) return;
  auto vectors = dsr_->encode_context(inputs, table_mean_).to(at::kCPU).contiguous();
  auto counts = segment.valid.sum(1).to(at::kCPU);
  for (size_t b = 0; b < options_.histories.size(); ++b) {
    auto count = counts.data_ptr<int64_t>()[b];
    if (count == 0) continue;
    // What is appended is the last of what was fed, but for what waits behind it: nothing.
    const auto& ids = waiting_[b];
    options_.histories[b]->append(fed_[b] - int64_t(ids.size()), document_[b], ids.data(),
                                  vectors[int64_t(b)].data_ptr<float>(), count);
  }
}

// The best tokens by cosine, as DsrImpl::scores orders them, of all that have left the exact
// window.
TextStream::Found TextStream::search(const std::vector<std::vector<int32_t>>& questions,
                                     StreamReply& reply) const {
  const auto& config = method_->config();
  Timer timer;
  std::vector<std::vector<int64_t>> slots(questions.size());
  int64_t most = 0;
  for (size_t b = 0; b < questions.size(); ++b) {
    if (questions[b].empty()) continue;
    auto ids = at::tensor(std::vector<int64_t>(questions[b].begin(), questions[b].end()), at::kLong)
                   .to(model_->device())
                   .view({1, 1, -1});
    auto weights = at::ones(ids.sizes(), table_mean_.options());
    auto question = dsr_->encode_questions(backbone_->embed(ids), weights, table_mean_);
    auto read = fed_[b] - int64_t(waiting_[b].size());
    HistoryQuery query{question.view({-1}).to(at::kCPU),
                       std::max(document_begin_[b], read - config.rckv.window), config.dsr.span,
                       options_.budget > 0 ? options_.budget : config.dsr.budget,
                       dsr_->temperature()};
    slots[b] = best_slots(*options_.histories[b], query, reply.scanned_tokens);
    most = std::max(most, int64_t(slots[b].size()));
  }
  reply.scanned_bytes = reply.scanned_tokens * config.dsr.width * int64_t(sizeof(float));
  reply.scan_seconds = timer.seconds();

  reply.brought_back.resize(questions.size());
  Found found;
  if (most == 0) return found;
  auto reach = input_tail_.defined() ? dsr_->config().conv_width : 1;
  found.windows = at::full({streams(), most, reach}, -1, at::kLong);
  found.valid = at::zeros({streams(), most}, at::kBool);
  found.order = at::zeros({streams(), most}, at::kLong);
  for (size_t b = 0; b < slots.size(); ++b) {
    const auto& history = *options_.histories[b];
    for (size_t n = 0; n < slots[b].size(); ++n) {
      auto slot = slots[b][n], length = history.layout().block_tokens;
      auto place = history.block(slot / length).first + slot % length;
      auto row = int64_t(b) * most + int64_t(n);
      fill_window(history, slot, reach, found.windows.data_ptr<int64_t>() + row * reach);
      found.valid.data_ptr<bool>()[row] = true;
      found.order.data_ptr<int64_t>()[row] = place - document_begin_[b] + sinks_;
      reply.brought_back[b].push_back(place);
    }
  }
  for (auto* tensor : {&found.windows, &found.valid, &found.order})
    *tensor = tensor->to(model_->device());
  return found;
}

// As the reader would have gathered them when they went by: the convolution of their neighbours.
at::Tensor TextStream::gather_inputs(const Found& found) const {
  auto present = found.windows >= 0;
  auto embedded = backbone_->embed(found.windows.clamp_min(0));  // [B, n, w, D]
  if (!input_tail_.defined()) return embedded.squeeze(2);
  auto centred = (embedded - table_mean_.to(embedded.scalar_type())) * present.unsqueeze(-1);
  auto taps = dsr_->named_parameters(false)["conv"].to(embedded.scalar_type());
  auto inputs = ops::causal_conv(centred.flatten(0, 1), taps, {});
  return inputs.select(1, -1).view({found.windows.size(0), found.slots(), -1});
}

void TextStream::mask_latents(const Found& found, MethodState& state) const {
  if (found.slots() == 0) return;
  auto order = found.order.masked_fill(found.valid.logical_not(), -1).unsqueeze(1);  // [B, 1, n]
  order = order.masked_fill(order < sinks_, -1);  // of an earlier document
  for (auto& layer : state.layers) {
    auto& latents = layer.latents;
    if (latents.empty()) continue;
    auto again = (latents.order.unsqueeze(-1) == order).any(-1);
    latents.valid = latents.valid.logical_and(again.logical_not());
  }
}

}  // namespace dsrsq
