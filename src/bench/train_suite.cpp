#include "dsrsq/bench/train_suite.h"

#include <torch/torch.h>

#include <memory>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/bench/case_records.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/dsrsq_kernel.h"
#include "dsrsq/train/hybrid_step.h"
#include "random_batch.h"

namespace dsrsq::bench {
namespace {

constexpr int64_t kProfiledSteps = 3;
constexpr int64_t kSteps = 1000000;     // of the schedule; more than are run
constexpr int64_t kStartTokens = 8192;  // whose keys start the codebook, at most

RunConfig make_config(const TrainSuiteOptions& o, const TrainCase& size, bool sqa,
                      at::Device device) {
  RunConfig config;
  auto& model = config.model;
  model.layers = o.layers;
  model.width = o.width;
  model.heads = model.key_value_heads = o.heads;
  model.mlp_width = o.mlp_width;
  model.conv_width = 0;  // the published comparisons have none
  config.dsrsq.dsr.enabled = config.dsrsq.rckv.enabled = false;
  config.dsrsq.sqa.enabled = sqa;
  config.dsrsq.sqa.clusters = size.clusters;
  config.dsrsq.sqa.clusters_per_query = o.slots;
  config.dsrsq.sqa.window = o.window;
  config.loss.task_tokens = "all";
  config.train.precision = device.is_cuda() ? "bf16" : "fp32";
  config.stages.resize(1);
  config.stages[0].steps = kSteps;
  return config;
}

// One model that trains.
class Trained {
 public:
  Trained(const TrainSuiteOptions& o, const TrainCase& size, bool sqa, at::Device device)
      : config_(make_config(o, size, sqa, device)),
        model_(Transformer(config_.model, o.vocabulary, o.seed),
               std::make_shared<DsrsqMethod>(config_.dsrsq, config_.model, o.seed), 0) {
    model_->to(device);
    auto context = size.tokens - config_.model.sinks - 1;
    if (sqa) {
      start_codebook(random_batch(o.vocabulary, 1, std::min(context, kStartTokens), 1, device));
      log_info(describe_sqa_kernel(config_.dsrsq, config_.model, device,
                                   device.is_cuda() ? at::kBFloat16 : at::kFloat));
    }
    // All of it is read, all of the context predicted.
    batch_ = random_batch(o.vocabulary, size.batch, context, 1, device);
    pass_.training = true;
    pass_.keep_context_hidden = true;
    pass_.activation_checkpointing = o.activation_checkpointing;
    step_ = std::make_unique<HybridStep>(config_, model_);
  }

  void step() {
    pass_.step = done_;
    loss_ = step_->run({batch_}, pass_, done_, false).at("train/language");
    ++done_;
  }
  double loss() const { return loss_; }

 private:
  void start_codebook(const Batch& batch) {
    at::NoGradGuard no_grad;
    PassOptions now, before;
    before.sqa = false;
    model_->method().calibration_sequences(before, now);
    model_->method().begin_calibration();
    now.calibrating = true;
    now.sqa = false;
    auto state = model_->method().make_state(batch, now);
    model_->read(batch, state);
    model_->method().finish_calibration();
  }

  RunConfig config_;
  LanguageModel model_;
  Batch batch_;
  PassOptions pass_;
  std::unique_ptr<HybridStep> step_;
  int64_t done_ = 0;
  double loss_ = 0;
};

std::vector<ResultRecord> run_case(const TrainSuiteOptions& o, const TrainCase& size,
                                   at::Device device) {
  torch::manual_seed(o.seed);
  const std::vector<std::string> names = {"dense", "sqa"};
  std::vector<std::unique_ptr<Trained>> models;
  std::vector<Contestant> contestants;
  for (const auto& name : names) {
    models.push_back(std::make_unique<Trained>(o, size, name == "sqa", device));
    contestants.push_back({name, [model = models.back().get()] { model->step(); }});
  }
  CaseRecords records(train_case_name(size),
                      {{"batch", double(size.batch)},
                       {"tokens", double(size.tokens)},
                       {"layers", double(o.layers)},
                       {"width", double(o.width)},
                       {"heads", double(o.heads)},
                       {"mlp_width", double(o.mlp_width)},
                       {"vocabulary", double(o.vocabulary)},
                       {"activation_checkpointing", double(o.activation_checkpointing)}});
  const auto add = [&](const std::string& method, const std::string& metric, double value,
                       const std::string& unit) -> ResultRecord& {
    if (method == "dense") return records.add(method, metric, value, unit);
    return records.add(method, metric, value, unit,
                       {{"clusters", double(size.clusters)},
                        {"slots", double(o.slots)},
                        {"window", double(o.window)}});
  };
  const auto timings = time_interleaved(contestants, device, o.timing);
  const double tokens = double(size.batch * size.tokens);
  for (size_t i = 0; i < names.size(); ++i) {
    auto& step = add(names[i], "step", timings[i].median, "s");
    step.p10 = timings[i].p10;
    step.p90 = timings[i].p90;
    add(names[i], "tokens_per_second", tokens / timings[i].median, "tokens/s");
    add(names[i], "loss", models[i]->loss(), "nats");
    log_info(train_case_name(size), ", ", names[i], ": ", timings[i].median * 1e3, " ms a step, ",
             int64_t(tokens / timings[i].median), " tokens/s, loss ", models[i]->loss());
  }
  add("sqa", "step_speedup", timings[0].median / timings[1].median, "x").baseline = "dense";
  for (size_t i = 0; i < names.size(); ++i) {
    const PeakBytes peak = peak_bytes(contestants[i].run, device);
    if (peak.allocated < 0) continue;
    add(names[i], "peak_allocated", peak.allocated, "bytes");
    add(names[i], "peak_reserved", peak.reserved, "bytes");
  }
  if (!o.kernels) return records.all;
  for (size_t i = 0; i < names.size(); ++i)
    for (const auto& time : kernel_times(contestants[i].run, device, kProfiledSteps))
      add(names[i], "kernel/" + time.name, time.seconds, "s").shape["calls"] = time.calls;
  return records.all;
}

}  // namespace

TrainCase parse_train_case(const std::string& text) {
  TrainCase size;
  int read = 0;
  if (std::sscanf(text.c_str(), "%ldx%ld:%n", &size.batch, &size.tokens, &read) == 2 && read > 0)
    size.clusters = parse_clusters(text.substr(size_t(read)), size.tokens);
  else
    size.clusters = 0;
  if (size.batch > 0 && size.tokens > 0 && size.clusters > 0) return size;
  throw ConfigError(
      concat("--train-cases: expected BATCHxTOKENS:CLUSTERS, as 4x8192:128 or "
             "4x8192:auto, got ",
             quote(text), "; change it"));
}

std::string train_case_name(const TrainCase& size) {
  return concat("batch ", size.batch, ", n ", size.tokens);
}

std::vector<ResultRecord> run_train_suite(const TrainSuiteOptions& o, c10::Device device) {
  for (const auto& size : o.cases) {
    if (size.clusters < o.slots)
      throw ConfigError(concat("--train-cases: expected at least --slots ", o.slots,
                               " clusters, got ", size.clusters, "; change one of them"));
    auto least = TransformerConfig{}.sinks + 3;
    if (size.tokens < least)
      throw ConfigError(concat("--train-cases: expected at least ", least,
                               " tokens, sinks among them, got ", size.tokens, "; change it"));
  }
  std::vector<ResultRecord> records;
  for (const auto& size : o.cases) {
    const auto found = run_case(o, size, device);
    records.insert(records.end(), found.begin(), found.end());
  }
  return records;
}

std::vector<ResultRecord> step_speedups(const std::vector<ResultRecord>& own,
                                        const std::vector<ResultRecord>& other) {
  std::vector<ResultRecord> ratios;
  for (const auto& mine : own)
    for (const auto& theirs : other) {
      if (mine.metric != "step" || theirs.metric != "step" || mine.case_name != theirs.case_name)
        continue;
      auto ratio = mine;
      ratio.metric = "step_speedup";
      ratio.value = theirs.value / mine.value;
      ratio.unit = "x";
      ratio.baseline = theirs.method;
      ratio.p10.reset();
      ratio.p90.reset();
      log_info(ratio.case_name, ": ", ratio.method, " ", ratio.value, " x ", ratio.baseline);
      ratios.push_back(ratio);
    }
  return ratios;
}

}  // namespace dsrsq::bench
