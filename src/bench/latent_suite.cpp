#include "dsrsq/bench/latent_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "dsrsq/attention/dense.h"
#include "dsrsq/bench/case_records.h"
#include "dsrsq/bench/graph.h"
#include "dsrsq/cache/rckv.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/latent_attention.h"
#include "dsrsq/ops/latent_project.h"
#include "dsrsq/ops/rotary.h"
#include "dsrsq/ops/rotary_frequencies.h"

namespace dsrsq::bench {
namespace {

constexpr double kRopeBase = 10000;
constexpr int64_t kProfiledRuns = 20;

at::TensorOptions fp32_on(at::Device device) { return at::TensorOptions(device).dtype(at::kFloat); }
at::ScalarType operand_type(at::Device device) {
  return device.is_cuda() ? at::kBFloat16 : at::kFloat;
}

void add_time(CaseRecords& records, const std::string& method, const std::string& metric,
              const Timing& time, double per) {
  auto& record = records.add(method, metric, time.median / per, "s");
  record.p10 = time.p10 / per;
  record.p90 = time.p90 / per;
}

void add_speedup(CaseRecords& records, const std::string& method, const std::string& metric,
                 double ratio, const std::string& baseline) {
  records.add(method, metric + "_speedup", ratio, "x").baseline = baseline;
  log_info(metric, ": ", method, " ", ratio, " x ", baseline);
}

// ---- entering the buffer

std::vector<ResultRecord> measure_projection(const LatentSuiteOptions& o, int64_t tokens,
                                             at::Device device) {
  torch::manual_seed(o.seed);
  const auto type = operand_type(device);
  const auto random = [&](at::IntArrayRef sizes, double scale) {
    return (at::randn(sizes, fp32_on(device)) * scale).to(type);
  };
  const int64_t joint = o.kv_heads * o.width, model = o.heads * o.width, c = o.latent_width;
  CaseRecords records(concat("projection, n ", tokens), {{"tokens", double(tokens)},
                                                         {"model_width", double(model)},
                                                         {"kv_heads", double(o.kv_heads)},
                                                         {"width", double(o.width)},
                                                         {"latent_width", double(c)}});
  const at::Tensor x = random({1, tokens, model}, 1), copied = at::empty_like(x);
  const at::Tensor merged = random({2 * c, model}, 1 / std::sqrt(double(model)));
  // As a block's projections leave them: a token's heads side by side.
  const at::Tensor k = random({1, tokens, joint}, 1), v = random({1, tokens, joint}, 1);
  const auto by_head = [&](const at::Tensor& y) {
    return y.view({1, tokens, o.kv_heads, o.width}).transpose(1, 2);
  };
  const at::Tensor p = at::randn({2 * c, joint}, fp32_on(device)) / std::sqrt(double(joint));
  const at::Tensor p_k = p.narrow(0, 0, c).to(type).t(), p_v = p.narrow(0, c, c).to(type).t();
  at::Tensor keys = at::empty({1, tokens, c}, x.options()), values = at::empty_like(keys);
  at::Tensor both = at::empty({tokens, 2 * c}, x.options());
  const at::Tensor scattered = at::randperm(tokens, fp32_on(device).dtype(at::kLong)).unsqueeze(0);
  const at::Tensor in_order = at::arange(tokens, scattered.options()).unsqueeze(0);
  const auto into = [&](const at::Tensor& slots) {
    ops::latent_project_into({x, std::nullopt, merged, std::nullopt}, slots, keys, values);
  };
  at::NoGradGuard no_grad;
  const std::vector<Contestant> contestants = {
      {"copy", [&] { copied.copy_(x); }},
      {"latent_project", [&] { into(scattered); }},
      {"latent_project_contiguous", [&] { into(in_order); }},
      {"latent_project_by_head",
       [&] {
         ops::latent_project_into({by_head(k), by_head(v), p, std::nullopt}, scattered, keys,
                                  values);
       }},
      {"aten_merged", [&] { at::mm_out(both, x[0], merged.t()); }},
      {"aten", [&] {
         at::Tensor of_keys = keys[0], of_values = values[0];
         at::mm_out(of_keys, k[0], p_k);
         at::mm_out(of_values, v[0], p_v);
       }}};
  const auto times = time_interleaved(contestants, device, o.timing);
  const double copy_bytes = 2. * double(x.nbytes());
  const double own_bytes = double(x.nbytes() + keys.nbytes() + values.nbytes());
  const double bandwidth = copy_bytes / times[0].median;
  for (size_t i = 0; i < contestants.size(); ++i)
    add_time(records, contestants[i].name, "project", times[i], 1);
  records.add("copy", "bandwidth", bandwidth, "bytes/s");
  for (const size_t i : {size_t{1}, size_t{2}, size_t{4}}) {
    const auto& name = contestants[i].name;
    records.add(name, "bandwidth", own_bytes / times[i].median, "bytes/s");
    records.add(name, "bandwidth_share", own_bytes / times[i].median / bandwidth, "share")
        .baseline = "copy";
    log_info("project, n ", tokens, ": ", name, " ", times[i].median * 1e6, " us, ",
             own_bytes / times[i].median / bandwidth, " of the bandwidth of a copy");
  }
  for (const size_t i : {size_t{1}, size_t{2}, size_t{3}, size_t{4}})
    add_speedup(records, contestants[i].name, "project", times.back().median / times[i].median,
                "aten");
  return records.all;
}

// ---- reading it

// All layers' buffers and what reads them. Weights are a model's (Rckv), queries and latents
// random.
class LatentLayers {
 public:
  LatentLayers(const LatentSuiteOptions& o, int64_t length, int64_t tokens,
               at::ScalarType query_type, at::Device device)
      : o_(o), rotary_(ops::rotary_frequencies(o.width, kRopeBase)) {
    torch::manual_seed(o.seed);
    RckvConfig config;
    config.latent_width = o.latent_width;
    config.position = "age_bias";
    rckv_ = Rckv(config, AttentionShape{o.layers, o.heads, o.kv_heads, o.width}, o.seed);
    rckv_->to(device);
    const auto longs = fp32_on(device).dtype(at::kLong);
    const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes, fp32_on(device)); };
    for (int64_t layer = 0; layer < o.layers; ++layer) {
      q_.push_back(random({o.batch, o.heads, tokens, o.width}).to(query_type));
      latents_.push_back(
          {random({o.batch, length, o.latent_width}), random({o.batch, length, o.latent_width})});
    }
    // A token of every 128 was kept.
    key_order_ = (at::arange(length, longs) * 128).expand({o.batch, length}).contiguous();
    query_order_ = at::arange(length * 128, length * 128 + tokens, longs)
                       .expand({o.batch, tokens})
                       .contiguous();
    valid_ = at::ones({o.batch, length}, longs.dtype(at::kBool));
    table_ = ops::rotary_table(key_order_, o.width, kRopeBase);
  }

  std::function<void()> native(bool rotated, at::ScalarType type, bool backward = false) const {
    return each_layer(
        backward,
        [=, this](size_t layer, const at::Tensor& q, const Pair& z) {
          const auto index = int64_t(layer);
          ops::LatentAttentionInputs in{q,
                                        z.first.to(type),
                                        z.second.to(type),
                                        rckv_->key_projection(index),
                                        rckv_->value_projection(index),
                                        valid_,
                                        {},
                                        {},
                                        {},
                                        {},
                                        {}};
          ops::LatentAttentionOptions options{scale()};
          if (rotated) {
            in.positions = key_order_;
            options.frequencies = rotary_.radians;
          } else {
            in.age_bias = rckv_->age_table(index);
            in.query_order = query_order_;
            in.key_order = key_order_;
          }
          return ops::latent_attention(in, options).out;
        },
        type);
  }

  // As the model reads with rckv.kernel: aten, except that the rotary table is made beforehand.
  std::function<void()> composed(bool rotated, bool backward = false) const {
    return each_layer(
        backward,
        [=, this](size_t layer, const at::Tensor& q, const Pair& z) {
          const auto index = int64_t(layer);
          const auto mask = valid_.unsqueeze(1).unsqueeze(2);
          const auto type = q.scalar_type();
          const at::Tensor values = z.second.unsqueeze(1).to(type);
          PartialAttention part;
          if (rotated) {
            const at::Tensor keys = ops::rotate(rckv_->rebuild_keys(index, z.first), table_);
            part = masked_attention(q, keys.to(type), values, mask);
          } else {
            const at::Tensor absorbed = rckv_->absorb_queries(index, q) *
                                        std::sqrt(double(o_.latent_width) / double(o_.width));
            part = masked_attention(absorbed.to(type), z.first.unsqueeze(1).to(type), values, mask,
                                    rckv_->age_bias(index, query_order_, key_order_));
          }
          return rckv_->expand_values(index, part.out.to(at::kFloat), q.size(1)).to(type);
        },
        at::kFloat);
  }

 private:
  using Pair = std::pair<at::Tensor, at::Tensor>;
  double scale() const { return 1 / std::sqrt(double(o_.width)); }

  template <typename Read>
  std::function<void()> each_layer(bool backward, const Read& read, at::ScalarType type) const {
    std::vector<Pair> held;  // of the type that they are read in
    for (const auto& [k, v] : latents_) held.emplace_back(k.to(type), v.to(type));
    return [=, this] {
      for (size_t layer = 0; layer < q_.size(); ++layer) {
        if (!backward) {
          at::NoGradGuard no_grad;
          read(layer, q_[layer], held[layer]);
          continue;
        }
        at::AutoGradMode with_grad(true);
        const at::Tensor q = q_[layer].detach().requires_grad_(true);
        const Pair z{held[layer].first.detach().requires_grad_(true),
                     held[layer].second.detach().requires_grad_(true)};
        const auto index = int64_t(layer);
        const at::Tensor out = read(layer, q, z);
        torch::autograd::grad(
            {out},
            {q, z.first, z.second, rckv_->key_projection(index), rckv_->value_projection(index)},
            {at::ones_like(out)});
      }
    };
  }

  LatentSuiteOptions o_;
  ops::RotaryFrequencies rotary_;
  Rckv rckv_{nullptr};
  std::vector<at::Tensor> q_;
  std::vector<Pair> latents_;
  at::Tensor key_order_, query_order_, valid_;
  ops::RotaryTable table_;
};

// One token's attention over all of the history, by each of torch's ways.
std::vector<Contestant> dense_decoding(const LatentSuiteOptions& o, at::Device device) {
  if (o.history == 0) return {};
  const auto type = operand_type(device);
  struct Layer {
    at::Tensor q, k, v;
  };
  std::vector<Layer> layers;
  for (int64_t layer = 0; layer < o.layers; ++layer) {
    const auto random = [&](int64_t heads, int64_t tokens) {
      return at::randn({o.batch, heads, tokens, o.width}, fp32_on(device)).to(type);
    };
    layers.push_back(
        {random(o.heads, 1), random(o.kv_heads, o.history), random(o.kv_heads, o.history)});
  }
  const auto each = [&](const auto& read) {
    return recorded(
        [=] {
          at::NoGradGuard no_grad;
          for (const auto& layer : layers) read(layer);
        },
        device, 1);
  };
  const auto heads = o.heads;
  std::vector<Contestant> ways = {
      {"dense_products", each([](const Layer& l) { read_entries(l.q, l.k, l.v, {}); })}};
  if (device.is_cuda() && o.kv_heads == o.heads) {
    ways.push_back({"dense_flash", each([](const Layer& l) {
                      at::_scaled_dot_product_flash_attention(l.q, l.k, l.v);
                    })});
  } else {
    ways.push_back({"dense_sdpa", each([heads](const Layer& l) {
                      at::scaled_dot_product_attention(l.q, expand_heads(l.k, heads),
                                                       expand_heads(l.v, heads));
                    })});
  }
  return ways;
}

std::string position_name(bool rotated) { return rotated ? "rotated" : "absorbed"; }

std::vector<ResultRecord> measure_reading(const LatentSuiteOptions& o, int64_t length,
                                          at::Device device) {
  CaseRecords records(concat("buffer of ", length), {{"batch", double(o.batch)},
                                                     {"layers", double(o.layers)},
                                                     {"heads", double(o.heads)},
                                                     {"kv_heads", double(o.kv_heads)},
                                                     {"width", double(o.width)},
                                                     {"latent_width", double(o.latent_width)},
                                                     {"length", double(length)},
                                                     {"segment", double(o.segment)},
                                                     {"history", double(o.history)}});
  const auto type = operand_type(device);
  const double layers = double(o.layers);
  // Times of contestants named METHOD, METRIC.
  struct Entry {
    std::string method, metric;
    std::function<void()> run;
  };
  const auto compare = [&](const std::vector<Entry>& entries) {
    std::vector<Contestant> contestants;
    for (const auto& entry : entries) contestants.push_back({entry.method, entry.run});
    const auto times = time_interleaved(contestants, device, o.timing);
    const Timing* fastest = nullptr;
    std::string fastest_name;
    for (size_t i = 0; i < entries.size(); ++i) {
      add_time(records, entries[i].method, entries[i].metric, times[i], layers);
      if (entries[i].metric != "decode") continue;
      if (fastest != nullptr && fastest->median <= times[i].median) continue;
      fastest = &times[i];
      fastest_name = entries[i].method;
    }
    for (size_t i = 0; i < entries.size(); ++i) {
      if (!entries[i].method.starts_with("latent_attention")) continue;
      log_info(entries[i].method, ", ", entries[i].metric, ", L ", length, ": ",
               times[i].median / layers * 1e6, " us a layer");
      for (size_t j = 0; j < entries.size(); ++j)
        if (entries[j].method == "aten" && entries[j].metric == entries[i].metric)
          add_speedup(records, entries[i].method, entries[i].metric,
                      times[j].median / times[i].median, "aten");
      if (fastest != nullptr)
        add_speedup(records, entries[i].method, entries[i].metric,
                    fastest->median / times[i].median, fastest_name);
    }
  };
  const LatentLayers token(o, length, 1, type, device);
  std::vector<Entry> entries;
  for (const bool rotated : {false, true}) {
    const auto metric = "decode_" + position_name(rotated);
    entries.push_back(
        {"latent_attention", metric, recorded(token.native(rotated, type), device, 1)});
    if (type != at::kFloat)
      entries.push_back({"latent_attention_fp32_latents", metric,
                         recorded(token.native(rotated, at::kFloat), device, 1)});
    entries.push_back({"aten", metric, recorded(token.composed(rotated), device, 1)});
  }
  for (const auto& way : dense_decoding(o, device))
    entries.push_back({way.name, "decode", way.run});
  compare(entries);
  for (const auto query_type : {type, at::kFloat}) {
    const bool other = query_type != type;
    const LatentLayers segment(o, length, o.segment, query_type, device);
    const std::string suffix = other ? "_fp32" : "";
    for (const bool rotated : {false, true})
      for (const bool backward : {false, true}) {
        const auto metric =
            concat("segment_", position_name(rotated), backward ? "_backward" : "", suffix);
        auto native = segment.native(rotated, query_type, backward);
        auto composed = segment.composed(rotated, backward);
        if (!backward) {  // gradients wait for the host
          native = recorded(native, device, 1);
          composed = recorded(composed, device, 1);
        }
        compare({{"latent_attention", metric, native}, {"aten", metric, composed}});
      }
    if (type == at::kFloat) break;  // on CUDA also in fp32
  }
  if (o.kernels) {
    for (const bool rotated : {false, true})
      for (const auto& time : kernel_times(token.native(rotated, type), device, kProfiledRuns))
        records.add("latent_attention", concat("kernel/", position_name(rotated), "/", time.name),
                    time.seconds / layers, "s");
  }
  return records.all;
}

}  // namespace

std::vector<ResultRecord> run_latent_suite(const LatentSuiteOptions& o, at::Device device) {
  if (o.kv_heads < 1 || o.heads % o.kv_heads != 0)
    throw ConfigError(concat("--kv-heads: expected a divisor of --heads ", o.heads, ", got ",
                             o.kv_heads, "; change one of them"));
  if (device.is_cuda() &&
      (o.width != 64 || (o.latent_width != 32 && o.latent_width != 64 && o.latent_width != 128)))
    throw ConfigError(
        concat("--suite latent: expected --width 64 and --latent-width 32, 64 or 128 "
               "on ",
               device.str(), ", got ", o.width, " and ", o.latent_width, "; change them"));
  std::vector<ResultRecord> records;
  const auto add = [&](const std::vector<ResultRecord>& found) {
    records.insert(records.end(), found.begin(), found.end());
  };
  for (const int64_t tokens : o.tokens) add(measure_projection(o, tokens, device));
  for (const int64_t length : o.lengths) add(measure_reading(o, length, device));
  return records;
}

}  // namespace dsrsq::bench
