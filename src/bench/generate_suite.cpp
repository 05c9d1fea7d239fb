#include "dsrsq/bench/generate_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/bench/case_records.h"
#include "dsrsq/bench/profiled_flops.h"
#include "dsrsq/bench/timing.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/methods/dsrsq_kernel.h"
#include "dsrsq/methods/standard.h"
#include "dsrsq/model/generate.h"
#include "dsrsq/ops/autocast.h"
#include "random_batch.h"

namespace dsrsq::bench {
namespace {

constexpr int64_t kStartTokens = 8192;  // whose keys start the codebook, at most
constexpr int64_t kSpan = 16;           // of DSR's choice

TransformerConfig backbone_config(const GenerateSuiteOptions& o) {
  TransformerConfig model;
  model.layers = o.layers;
  model.width = o.width;
  model.heads = model.key_value_heads = o.heads;
  model.mlp_width = o.mlp_width;
  model.conv_width = 0;  // the published comparisons have none
  return model;
}

int64_t longest_case(const GenerateSuiteOptions& o) {
  int64_t longest = 0;
  for (const auto& size : o.cases) longest = std::max(longest, size.tokens);
  return longest;
}

DsrsqConfig parts_config(const GenerateSuiteOptions& o, const std::string& method) {
  DsrsqConfig config;
  config.dsr.enabled = method == "all";
  config.dsr.budget = o.budget;
  config.dsr.complexity = "none";
  config.dsr.alpha = 0;
  config.dsr.span = kSpan;
  config.sqa.enabled = method == "all" || method == "sqa";
  config.sqa.clusters = o.clusters > 0 ? o.clusters : parse_clusters("auto", longest_case(o));
  config.sqa.clusters_per_query = o.slots;
  config.sqa.window = o.window;
  config.rckv.enabled = method == "all" || method == "rckv";
  config.rckv.source = "selected";
  config.rckv.latent_width = o.latent_width;
  config.rckv.buffer_length = o.buffer;
  config.rckv.window = o.window;
  config.rckv.segment = o.segment;
  return config;
}

std::shared_ptr<Method> make_method(const GenerateSuiteOptions& o, const std::string& name,
                                    const DsrsqConfig& parts, const TransformerConfig& model) {
  if (name != "dense") return std::make_shared<DsrsqMethod>(parts, model, o.seed);
  StandardConfig standard;
  standard.window = std::numeric_limits<int64_t>::max() / 2;  // nothing is cut
  return std::make_shared<StandardMethod>(standard, model);
}

// One way to read, and what it took.
class Contender {
 public:
  Contender(const GenerateSuiteOptions& o, std::string name, const Transformer& backbone,
            at::Device device)
      : name_(std::move(name)),
        backbone_config_(backbone->config()),
        parts_(parts_config(o, name_)),
        vocabulary_(o.vocabulary),
        device_(device),
        model_(backbone, make_method(o, name_, parts_, backbone_config_), 0) {
    model_->to(device);
    model_->eval();
    if (!parts_.sqa.enabled && !parts_.rckv.enabled) return;
    start(
        random_batch(o.vocabulary, 1, std::min(longest_case(o), kStartTokens), o.question, device));
    if (parts_.sqa.enabled)
      log_info(name_, ": ",
               describe_sqa_kernel(parts_, backbone_config_, device,
                                   device.is_cuda() ? at::kBFloat16 : at::kFloat));
  }

  // tokens 1: reading alone.
  Generated run(const Batch& batch, int64_t tokens, const PassOptions& pass = {},
                Decoding decoding = Decoding::kAuto) {
    GenerateOptions settings;
    settings.maximum_tokens = tokens;
    settings.decoding = decoding;
    ops::AutocastGuard autocast(device_, device_.is_cuda());
    return generate(model_, batch, pass, settings);
  }

  FlopSettings flop_settings() const {
    FlopSettings settings;
    settings.vocabulary_size = vocabulary_;
    if (name_ == "dense") return settings;
    if (parts_.dsr.enabled) {
      settings.retriever_width = parts_.dsr.width;
      settings.retriever_conv_width = parts_.dsr.conv_width;
    }
    if (parts_.rckv.enabled) settings.latent_width = parts_.rckv.latent_width;
    if (parts_.sqa.enabled) settings.clusters = parts_.sqa.cluster_count();
    return settings;
  }
  SequenceWork expected_prefill(const Batch& batch) const {
    return expected_work(backbone_config_, parts_, batch.context.size(1), batch.tail.size(1))
        .prefill;
  }
  const std::string& name() const { return name_; }
  const TransformerConfig& model_config() const { return backbone_config_; }
  const DsrsqConfig& parts() const { return parts_; }
  Method& method() { return model_->method(); }

 private:
  // Codebooks and projections from real keys and values, as training sets them.
  void start(const Batch& batch) {
    at::NoGradGuard no_grad;
    PassOptions now, before;
    before.sqa = before.rckv = false;
    model_->method().calibration_sequences(before, now);
    model_->method().begin_calibration();
    now.calibrating = true;
    now.sqa = now.rckv = false;
    auto state = model_->method().make_state(batch, now);
    model_->read(batch, state);
    model_->method().finish_calibration();
  }

  std::string name_;
  TransformerConfig backbone_config_;
  DsrsqConfig parts_;
  int64_t vocabulary_;
  at::Device device_;
  LanguageModel model_;
};

struct Measured {
  std::vector<double> prefill, token, further, eager;  // seconds, a round
  double peak_bytes = 0, state_bytes = 0;
};

// What a log says beside the mean token.
std::string token_details(const Measured& found) {
  std::string text;
  auto add = [&](const char* name, const std::vector<double>& seconds) {
    if (!seconds.empty()) text += concat(", ", name, " ", quantile(seconds, .5) * 1e3, " ms");
  };
  add("a further one", found.further);
  add("eager", found.eager);
  return text;
}

// A round of one method; false where the device has no room for it.
bool run_round(Contender& contender, const Batch& batch, const GenerateSuiteOptions& o,
               at::Device device, Measured* measured) {
  try {
    PeakMemory peak(device);
    auto generated = contender.run(batch, o.answer);
    if (measured == nullptr) return true;
    measured->prefill.push_back(generated.select_seconds + generated.prefill_seconds);
    auto steps = double(generated.decoded_tokens) / double(batch.size());
    measured->token.push_back(generated.decode_seconds / std::max(1.0, steps));
    if (generated.recorded && steps > 2)
      measured->further.push_back((generated.decode_seconds - generated.record_seconds) /
                                  (steps - 2));
    measured->peak_bytes = std::max(measured->peak_bytes, peak.bytes());
    measured->state_bytes = double(generated.state_bytes) / double(batch.size());
    if (!o.eager_too) return true;
    generated = contender.run(batch, o.answer, {}, Decoding::kEager);
    measured->eager.push_back(generated.decode_seconds / std::max(1.0, steps));
    return true;
  } catch (const c10::OutOfMemoryError& error) {
    log_warning(contender.name(), ": no room on the device: ", error.what_without_backtrace());
    return false;
  }
}

// All methods in turns; those without room have no rounds.
std::vector<Measured> measure(const std::vector<std::unique_ptr<Contender>>& contenders,
                              const Batch& batch, const GenerateSuiteOptions& o,
                              at::Device device) {
  std::vector<bool> fits;
  Timer timer;
  for (const auto& contender : contenders)
    fits.push_back(run_round(*contender, batch, o, device, nullptr));
  auto wanted = int64_t(o.seconds / std::max(timer.seconds(), 1e-9));
  auto rounds = std::clamp(wanted, o.minimum_rounds, o.maximum_rounds);
  std::vector<Measured> measured(contenders.size());
  for (int64_t round = 0; round < rounds; ++round)
    for (size_t i = 0; i < contenders.size(); ++i)
      if (fits[i]) fits[i] = run_round(*contenders[i], batch, o, device, &measured[i]);
  return measured;
}

// FLOPs of a prefill by the pairs that were really attended, of one sequence.
double counted_flops(Contender& contender, const Batch& batch) {
  PassOptions pass;
  pass.collect_stats = true;
  const auto stats = contender.run(batch, 1, pass).state.stats;
  auto value = [](const at::Tensor& x) { return x.defined() ? x.item().toDouble() : 0.0; };
  auto heads = double(contender.model_config().heads);
  auto work = contender.expected_prefill(batch);
  work.attended_pairs = value(stats.attended_pairs) / heads;
  work.latent_pairs = value(stats.latent_pairs) / heads;
  work.rebuilt_latents = value(stats.rebuilt_latents);
  return forward_flops(contender.model_config(), contender.flop_settings(), work);
}

void add_flops(Contender& contender, const Batch& batch, const GenerateSuiteOptions& o,
               CaseRecords& records) {
  const auto& model = contender.model_config();
  const auto flops = contender.flop_settings();
  auto work = expected_work(model, contender.parts(), batch.context.size(1), batch.tail.size(1));
  auto add = [&](const std::string& metric, double value) {
    records.add(contender.name(), metric, value, "FLOP");
  };
  auto whole = forward_flops(model, flops, work.prefill);
  add("prefill_flops", whole);
  add("token_flops", forward_flops(model, flops, work.token));
  work.prefill.attended_pairs = work.prefill.latent_pairs = 0;
  add("prefill_flops_attention", whole - forward_flops(model, flops, work.prefill));
  if (batch.size() > 1 || batch.context.size(1) > o.counted_tokens) return;
  add("prefill_flops_counted", counted_flops(contender, batch));
  add("prefill_flops_profiler", profiled_matmul_flops([&] { contender.run(batch, 1); }));
}

std::vector<ResultRecord> run_case(const std::vector<std::unique_ptr<Contender>>& contenders,
                                   const GenerateSuiteOptions& o, const GenerateCase& size,
                                   at::Device device) {
  torch::manual_seed(o.seed);
  const auto batch = random_batch(o.vocabulary, size.batch, size.tokens, o.question, device);
  const auto measured = measure(contenders, batch, o, device);
  CaseRecords records(concat("batch ", size.batch, ", n ", size.tokens),
                      {{"batch", double(size.batch)},
                       {"tokens", double(size.tokens)},
                       {"question", double(o.question)},
                       {"answer", double(o.answer)},
                       {"layers", double(o.layers)},
                       {"width", double(o.width)},
                       {"heads", double(o.heads)},
                       {"mlp_width", double(o.mlp_width)},
                       {"vocabulary", double(o.vocabulary)},
                       {"clusters", double(contenders[0]->parts().sqa.clusters)},
                       {"slots", double(o.slots)},
                       {"window", double(o.window)},
                       {"latent_width", double(o.latent_width)},
                       {"buffer", double(o.buffer)},
                       {"segment", double(o.segment)},
                       {"budget", double(o.budget)}});
  const Measured* dense = nullptr;
  for (size_t i = 0; i < contenders.size(); ++i)
    if (contenders[i]->name() == "dense" && !measured[i].prefill.empty()) dense = &measured[i];
  for (size_t i = 0; i < contenders.size(); ++i) {
    const auto& found = measured[i];
    if (found.prefill.empty()) continue;
    const auto& name = contenders[i]->name();
    auto add_seconds = [&](const std::string& metric, const std::vector<double>& seconds,
                           const std::string& speed, double tokens) {
      auto& record = records.add(name, metric, quantile(seconds, .5), "s");
      record.p10 = quantile(seconds, .1);
      record.p90 = quantile(seconds, .9);
      records.add(name, speed, tokens / quantile(seconds, .5), "tokens/s");
    };
    auto batches = double(size.batch);
    add_seconds("prefill", found.prefill, "prefill_tokens_per_second",
                batches * double(size.tokens + o.question));
    add_seconds("token_latency", found.token, "decode_tokens_per_second", batches);
    if (!found.further.empty())
      add_seconds("further_token_latency", found.further, "further_tokens_per_second", batches);
    if (!found.eager.empty())
      add_seconds("token_latency_eager", found.eager, "eager_tokens_per_second", batches);
    if (found.peak_bytes >= 0) records.add(name, "peak_memory", found.peak_bytes, "bytes");
    records.add(name, "bytes_held", found.state_bytes, "bytes");
    records.add(name, "bytes_shared", double(contenders[i]->method().shared_bytes()), "bytes");
    add_flops(*contenders[i], batch, o, records);
    log_info("batch ", size.batch, ", n ", size.tokens, ", ", name, ": prefill ",
             quantile(found.prefill, .5) * 1e3, " ms, a token ", quantile(found.token, .5) * 1e3,
             " ms", token_details(found), ", ", found.state_bytes * 1e-6, " MB held a sequence");
    if (dense == nullptr || name == "dense") continue;
    auto speedup = [&](const std::string& metric, std::vector<double> Measured::*seconds) {
      auto ratio = quantile(dense->*seconds, .5) / quantile(found.*seconds, .5);
      records.add(name, metric, ratio, "x").baseline = "dense";
    };
    speedup("prefill_speedup", &Measured::prefill);
    speedup("decode_speedup", &Measured::token);
  }
  return records.all;
}

void check(const GenerateSuiteOptions& o) {
  if (o.cases.empty()) throw ConfigError("--generate-cases: expected BATCHxTOKENS,..., got none");
  if (o.answer < 2)
    throw ConfigError(
        concat("--answer: expected at least 2 tokens, the second is the first that "
               "is decoded; got ",
               o.answer));
  for (const auto& method : o.methods)
    if (std::set<std::string>{"dense", "sqa", "rckv", "all"}.count(method) == 0)
      throw ConfigError(
          concat("--generate-methods: expected dense, sqa, rckv or all, got ", quote(method)));
  auto parts = parts_config(o, "all");
  if (parts.sqa.clusters < o.slots)
    throw ConfigError(
        concat("--slots: expected at most the ", parts.sqa.clusters, " clusters, got ", o.slots));
  if (o.latent_width >= o.width)
    throw ConfigError(concat("--generate-latent-width: expected less than the model's width ",
                             o.width, ", got ", o.latent_width));
}

}  // namespace

GenerateCase parse_generate_case(const std::string& text) {
  GenerateCase size;
  int read = 0;
  if (std::sscanf(text.c_str(), "%ldx%ld%n", &size.batch, &size.tokens, &read) == 2 &&
      size_t(read) == text.size() && size.batch > 0 && size.tokens > 0)
    return size;
  throw ConfigError(concat("--generate-cases: expected BATCHxTOKENS, as 4x16384, got ", quote(text),
                           "; change it"));
}

GenerateWork expected_work(const TransformerConfig& model, const DsrsqConfig& config,
                           int64_t context, int64_t question) {
  const auto& sqa = config.sqa;
  const auto& rckv = config.rckv;
  auto read = config.dsr.enabled ? std::min(config.dsr.budget, context) : context;
  auto layers = double(model.layers);
  auto clusters = sqa.enabled ? double(sqa.cluster_count()) : 0;
  SequenceWork work;
  // What left the exact keys before the segment that begins at rank `begin`.
  auto gone = [&](int64_t begin) {
    return rckv.enabled ? std::max<int64_t>(0, begin - model.sinks - rckv.window) : 0;
  };
  auto add_query = [&](int64_t rank, int64_t begin) {
    auto exact = double(rank + 1 - gone(begin));
    auto certain = std::min(exact, double(model.sinks + sqa.window));
    auto routed = (exact - certain) * double(sqa.clusters_per_query) / std::max(1.0, clusters);
    work.attended_pairs += layers * (sqa.enabled ? certain + routed : exact);
    work.latent_pairs += layers * double(std::min(rckv.buffer_length, gone(begin)));
  };
  auto add_segment = [&](int64_t begin, int64_t end) {
    for (auto rank = begin; rank < end; ++rank) add_query(rank, begin);
    work.rebuilt_latents += layers * double(std::min(rckv.buffer_length, gone(begin)));
  };
  auto finish = [&](int64_t tokens) {
    work.reader_tokens = double(tokens);
    work.predicted_tokens = 1;
    work.routed_pairs = double(tokens) * layers * clusters *
                        (1 + double(model.key_value_heads) / double(model.heads));
    return std::exchange(work, {});
  };
  auto tail = model.sinks + read;
  for (int64_t begin = 0, end = 0; begin < tail; begin = end) {
    end = std::min(tail, begin + rckv.segment + (begin == 0 ? model.sinks : 0));
    add_segment(begin, end);
  }
  add_segment(tail, tail + question);
  if (config.dsr.enabled) work.context_tokens = double(context);
  GenerateWork result;
  result.prefill = finish(tail + question);
  // The token behind the question stands in its segment.
  add_query(tail + question, tail);
  work.rebuilt_latents = layers * double(std::min(rckv.buffer_length, gone(tail)));
  result.token = finish(1);
  return result;
}

std::vector<ResultRecord> run_generate_suite(
    const GenerateSuiteOptions& o, c10::Device device,
    const std::function<void(const std::vector<ResultRecord>&)>& save) {
  check(o);
  torch::manual_seed(o.seed);
  // All methods read with the same weights.
  const Transformer backbone(backbone_config(o), o.vocabulary, o.seed);
  std::vector<std::unique_ptr<Contender>> contenders;
  for (const auto& name : o.methods)
    contenders.push_back(std::make_unique<Contender>(o, name, backbone, device));
  std::vector<ResultRecord> records;
  for (const auto& size : o.cases) {
    const auto found = run_case(contenders, o, size, device);
    records.insert(records.end(), found.begin(), found.end());
    if (save) save(records);
  }
  const auto lengths = break_even(records);
  records.insert(records.end(), lengths.begin(), lengths.end());
  return records;
}

std::vector<ResultRecord> break_even(const std::vector<ResultRecord>& records) {
  std::vector<ResultRecord> found;
  for (const auto& [speedup, metric] :
       {std::pair<std::string, std::string>{"prefill_speedup", "break_even_prefill"},
        {"decode_speedup", "break_even_decode"}}) {
    std::map<std::pair<double, std::string>, std::map<double, double>> curves;  // batch, method
    std::map<std::string, double> shape;
    for (const auto& record : records) {
      if (record.metric != speedup) continue;
      curves[{record.shape.at("batch"), record.method}][record.shape.at("tokens")] = record.value;
      shape = record.shape;
    }
    for (const auto& [key, curve] : curves) {
      auto length = std::numeric_limits<double>::quiet_NaN();
      for (auto point = curve.rbegin(); point != curve.rend() && point->second > 1; ++point)
        length = point->first;
      ResultRecord record;
      record.case_name = concat("batch ", key.first);
      record.method = key.second;
      record.shape = shape;
      record.shape["batch"] = key.first;
      record.shape["tokens"] = curve.rbegin()->first;  // the longest that was measured
      record.metric = metric;
      record.value = length;
      record.unit = "tokens";
      record.baseline = "dense";
      log_info("batch ", key.first, ", ", key.second, ": ", metric, " ",
               std::isfinite(length) ? concat(int64_t(length), " tokens") : "none in the range");
      found.push_back(std::move(record));
    }
  }
  return found;
}

}  // namespace dsrsq::bench
