#include "dsrsq/bench/trained_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "dsrsq/attention/sqa.h"
#include "dsrsq/bench/case_records.h"
#include "dsrsq/bench/moba.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/cluster_assign.h"
#include "dsrsq/ops/cluster_attention.h"
#include "dsrsq/ops/cluster_route.h"

namespace dsrsq::bench {
namespace {

constexpr int64_t kLossRows = 1024;  // logits held at a time

// One layer's vectors, in the type that attention computes in.
struct LayerVectors {
  int64_t layer = 0;
  at::Tensor q, k, v;           // rotated
  at::Tensor plain_q, plain_k;  // before RoPE
};

// Which keys a query sees beside its window and the sinks.
struct Selection {
  std::string method;
  int64_t slots = 0;
  std::function<KeyChoice(const LayerVectors&)> choose;
};

struct DenseAttention {
  at::Tensor out, lse;  // lse [B, H, N] fp32
};
DenseAttention attend_densely(const LayerVectors& x) {
  const int64_t group = x.q.size(1) / x.k.size(1);
  const at::Tensor k = x.k.repeat_interleave(group, 1), v = x.v.repeat_interleave(group, 1);
  if (x.q.is_cuda()) {
    auto flash = at::_scaled_dot_product_flash_attention(x.q, k, v, 0.0, /*is_causal=*/true);
    return {std::get<0>(flash), std::get<1>(flash)};
  }
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(x.q, k, v, 0.0, true);
  return {out, lse};
}

// Sums over layers, heads and queries of a selection.
struct Quality {
  double recall = 0, density = 0;
  int64_t layers = 0;
};

// A reader whose layers attend densely, or by one selection; on the way it measures others.
class SelectionReader : public Method {
 public:
  SelectionReader(const AttentionShape& shape, int64_t clusters, int64_t window, int64_t sinks)
      : Method(shape), clusters_(clusters), window_(window), sinks_(sinks) {}

  std::string method_name() const override { return "selection_reader"; }

  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    LayerVectors x;
    x.layer = input.layer;
    const auto type = input.q.is_cuda() ? at::kBFloat16 : at::kFloat;
    const auto cast = [&](const at::Tensor& y) { return y.to(type).contiguous(); };
    x.q = cast(input.rotated(input.q));
    x.k = cast(input.rotated(input.k));
    x.v = cast(input.v);
    x.plain_q = cast(input.q);
    x.plain_k = cast(input.k);
    if (visit) visit(x);
    if (attends) return attend_chosen(x, attends->choose(x)).out;
    const DenseAttention dense = attend_densely(x);
    for (size_t i = 0; i < measured.size(); ++i) measure(x, dense.lse, measured[i], qualities[i]);
    return dense.out;
  }

  const Selection* attends = nullptr;  // null: densely
  std::vector<Selection> measured;     // in dense passes
  std::vector<Quality> qualities;      // of each
  std::function<void(const LayerVectors&)> visit;

 private:
  ops::ClusterAttention attend_chosen(const LayerVectors& x, const KeyChoice& choice) const {
    return ops::cluster_attention(
        x.q, x.k, x.v, choice.assignment, choice.routes, std::nullopt,
        {clusters_, window_, sinks_, 1 / std::sqrt(double(shape_.head_width))});
  }
  void measure(const LayerVectors& x, const at::Tensor& dense_lse, const Selection& s,
               Quality& quality) const {
    const KeyChoice choice = s.choose(x);
    const at::Tensor lse = attend_chosen(x, choice).lse;
    quality.recall += (lse.to(at::kFloat) - dense_lse).exp().mean().item<double>();
    quality.density +=
        cluster_load(choice.assignment, choice.routes, clusters_, window_, sinks_).density;
    ++quality.layers;
  }

  int64_t clusters_, window_, sinks_;
};

// [1, N] ids: the model's front, then the text.
at::Tensor sequence(const LanguageModel& model, const std::vector<int32_t>& text, int64_t index,
                    int64_t tokens) {
  auto ids = model->front_ids();
  const int64_t rest = tokens - int64_t(ids.size());
  const auto begin = text.begin() + index * rest;
  ids.insert(ids.end(), begin, begin + rest);
  return at::tensor(ids, at::kLong).unsqueeze(0).to(model->device());
}

// -> mean cross-entropy of the tokens behind the first of the text.
double read_sequence(LanguageModel& model, const at::Tensor& ids, SelectionReader& reader) {
  const at::NoGradGuard no_grad;
  const ops::AutocastGuard autocast(ids.device(), ids.is_cuda());
  const int64_t tokens = ids.size(1), front = int64_t(model->front_ids().size());
  ReaderInput input;
  input.inputs = model->backbone()->embed(ids);
  input.valid = at::ones(ids.sizes(), ids.options().dtype(at::kBool));
  input.positions = input.order = at::arange(tokens, ids.options()).unsqueeze(0);
  input.segments = {tokens};
  MethodState state;
  state.sample_ids = {0};
  state.layers.resize(size_t(reader.shape().layers));
  const at::Tensor hidden = model->backbone()->forward(input, reader, state)[0];
  double sum = 0;
  for (int64_t first = front; first < tokens - 1; first += kLossRows) {
    const int64_t end = std::min(first + kLossRows, tokens - 1);
    const at::Tensor logits = model->backbone()->logits(hidden.slice(0, first, end));
    sum +=
        at::cross_entropy_loss(logits, ids[0].slice(0, first + 1, end + 1), {}, at::Reduction::Sum)
            .item<double>();
  }
  return sum / double(tokens - 1 - front);
}

// Reads the first sequences densely, for their keys, then feeds them to the codebook as training
// does: a step a sequence.
Sqa fed_codebook(const TrainedSuiteOptions& o, LanguageModel& model,
                 const std::vector<int32_t>& text, SelectionReader& reader) {
  SqaConfig config;
  config.clusters = o.clusters;
  config.clusters_per_query = o.slots.back();
  Sqa sqa(config, reader.shape(), o.seed);
  sqa->to(model->device());
  std::vector<std::vector<at::Tensor>> keys(size_t(reader.shape().layers));  // of each layer
  reader.visit = [&](const LayerVectors& x) { keys[size_t(x.layer)].push_back(x.plain_k); };
  for (int64_t i = 0; i < o.sequences; ++i)
    read_sequence(model, sequence(model, text, i, o.tokens), reader);
  reader.visit = nullptr;
  const at::Tensor valid =
      at::ones({1, o.tokens}, at::TensorOptions(model->device()).dtype(at::kBool));
  for (size_t layer = 0; layer < keys.size(); ++layer)
    sqa->start_from(int64_t(layer), keys[layer][0], valid, 0);
  for (int64_t step = 0; step < o.codebook_rounds * o.sequences; ++step) {
    for (size_t layer = 0; layer < keys.size(); ++layer)
      sqa->assign(int64_t(layer), keys[layer][size_t(step % o.sequences)], valid, true);
    sqa->after_step(step);
  }
  return sqa;
}

std::vector<Selection> make_selections(const TrainedSuiteOptions& o, const Sqa& sqa) {
  std::vector<Selection> all;
  const auto nothing = [](const LayerVectors& x) {
    const auto ints = x.q.options().dtype(at::kInt);
    return KeyChoice{at::zeros(x.k.sizes().slice(0, 3), ints),
                     at::full({x.q.size(0), x.q.size(1), x.q.size(2), 1}, -1, ints)};
  };
  all.push_back({"window", 0, nothing});
  for (const int64_t slots : o.slots) {
    all.push_back({"cluster_attention", slots, [=](const LayerVectors& x) {
                     const auto found = ops::cluster_assign(x.plain_k, sqa->directions(x.layer),
                                                            sqa->bias(x.layer));
                     const at::Tensor means = sqa->means(x.layer).unsqueeze(0);
                     return KeyChoice{found.assignment.to(at::kInt),
                                      ops::cluster_route(x.plain_q, means, slots)};
                   }});
    all.push_back({"blocks", slots, [=](const LayerVectors& x) {
                     return choose_blocks(x.q, x.k, o.clusters, slots);
                   }});
  }
  return all;
}

CaseRecords make_records(const TrainedSuiteOptions& o, const AttentionShape& shape, int64_t sinks) {
  return {concat("trained, n ", o.tokens, ", m ", o.clusters),
          {{"heads", double(shape.query_heads)},
           {"kv_heads", double(shape.key_value_heads)},
           {"width", double(shape.head_width)},
           {"layers", double(shape.layers)},
           {"tokens", double(o.tokens)},
           {"sequences", double(o.sequences)},
           {"clusters", double(o.clusters)},
           {"window", double(o.window)},
           {"sinks", double(sinks)}}};
}

void check(const TrainedSuiteOptions& o, const std::vector<int32_t>& text, int64_t front) {
  for (const int64_t slots : o.slots)
    if (slots < 1 || slots > o.clusters)
      throw ConfigError(concat("--slots: expected 1 to --clusters ", o.clusters, ", got ", slots,
                               "; change one of them"));
  const int64_t needed = 2 * o.sequences * (o.tokens - front);
  if (o.tokens <= front + 1 || int64_t(text.size()) < needed)
    throw ConfigError(concat("--text: expected at least ", needed, " tokens for --sequences ",
                             o.sequences, " of --tokens ", o.tokens, " twice, got ", text.size(),
                             "; give a longer text or fewer tokens"));
}

// Times the layer's attention on vectors of the first sequence read.
void time_layer(const TrainedSuiteOptions& o, const LayerVectors& x, const Sqa& sqa, int64_t sinks,
                std::vector<ResultRecord>& all) {
  const AttentionData data{x.q,
                           x.k,
                           x.v,
                           at::randn_like(x.q),
                           x.plain_q,
                           x.plain_k,
                           sqa->directions(x.layer),
                           sqa->means(x.layer),
                           sqa->bias(x.layer)};
  AttentionSuiteOptions timed;
  timed.heads = x.q.size(1);
  timed.kv_heads = x.k.size(1);
  timed.width = x.q.size(3);
  timed.window = o.window;
  timed.sinks = sinks;
  timed.timing = o.timing;
  for (const int64_t slots : o.slots) {
    timed.slots = slots;
    const auto records = measure_attention(timed, {o.tokens, o.clusters, ""},
                                           concat("trained, layer ", x.layer), data);
    all.insert(all.end(), records.begin(), records.end());
  }
}

}  // namespace

std::vector<ResultRecord> run_trained_suite(const TrainedSuiteOptions& o, LanguageModel& model,
                                            const std::vector<int32_t>& text) {
  const int64_t sinks = int64_t(model->front_ids().size());
  check(o, text, sinks);
  const at::NoGradGuard no_grad;
  torch::manual_seed(o.seed);
  model->eval();
  SelectionReader reader(model->method().shape(), o.clusters, o.window, sinks);
  const Sqa sqa = fed_codebook(o, model, text, reader);
  log_info("codebook of ", o.clusters, " clusters fed with ", o.sequences, " sequences of ",
           o.tokens, " tokens, ", o.codebook_rounds, " times");
  const auto selections = make_selections(o, sqa);

  LayerVectors timed;
  const int64_t layer = o.timed_layer < 0 ? reader.shape().layers / 2 : o.timed_layer;
  reader.visit = [&](const LayerVectors& x) {
    if (x.layer == layer && !timed.q.defined()) timed = x;
  };
  const auto mean_loss = [&] {
    double sum = 0;
    for (int64_t i = 0; i < o.sequences; ++i)
      sum += read_sequence(model, sequence(model, text, o.sequences + i, o.tokens), reader);
    return sum / double(o.sequences);
  };
  reader.measured = selections;
  reader.qualities.resize(selections.size());
  const double dense = mean_loss();
  auto records = make_records(o, reader.shape(), sinks);
  const auto add = [&](const std::string& method, int64_t slots, const std::string& metric,
                       double value, const std::string& unit) {
    records.add(method, metric, value, unit, {{"slots", double(slots)}});
  };
  add("dense", 0, "loss", dense, "nats");
  for (size_t i = 0; i < selections.size(); ++i) {
    const Selection& s = selections[i];
    const Quality& quality = reader.qualities[i];
    reader.attends = &s;
    const double loss = mean_loss();
    add(s.method, s.slots, "loss", loss, "nats");
    add(s.method, s.slots, "loss_gap", loss - dense, "nats");
    add(s.method, s.slots, "mass_recall", quality.recall / double(quality.layers), "share");
    add(s.method, s.slots, "density", quality.density / double(quality.layers), "share");
    log_info(s.method, ", k ", s.slots, ": loss gap ", loss - dense, " nats of ", dense,
             ", mass recall ", quality.recall / double(quality.layers), ", density ",
             quality.density / double(quality.layers));
  }
  time_layer(o, timed, sqa, sinks, records.all);
  return records.all;
}

}  // namespace dsrsq::bench
