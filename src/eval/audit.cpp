#include "dsrsq/eval/audit.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "dsrsq/core/error.h"

namespace dsrsq {

namespace {

// Of equal passes over equal numbers; a GPU may add in another order.
constexpr double kSame = 1e-5;
// Where shapes differ, and with them the order of sums.
constexpr double kClose = 2e-3;

struct Pass {
  at::Tensor hidden;  // [B, T, D]
  MethodState state;
};

Pass read(LanguageModel& model, const Batch& batch, const PassOptions& options) {
  Pass pass;
  pass.state = model->method().make_state(batch, options);
  pass.hidden = model->read(batch, pass.state);
  return pass;
}

// The largest difference in units of the reference's root mean square.
double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0;
  auto scale = expected.to(at::kDouble).square().mean().sqrt().clamp_min(1e-12);
  return ((actual - expected).to(at::kDouble).abs().max() / scale).item<double>();
}

// Tokens of the (one) question at the front of each tail.
std::vector<int64_t> question_lengths(const Batch& batch) {
  std::vector<int64_t> lengths;
  auto labels = batch.labels.to(at::kCPU), valid = batch.tail_valid.to(at::kCPU);
  for (int64_t b = 0; b < batch.size(); ++b) {
    int64_t t = 0;  // the last token of the question is the first that predicts
    auto own = valid[b].sum().item<int64_t>();
    while (t < own && labels[b][t].item<int64_t>() < 0) ++t;
    lengths.push_back(std::min(own, t + 1));
  }
  return lengths;
}

// The batch as evaluation reads it: without answers.
Batch questions_only(Batch batch) {
  auto lengths = question_lengths(batch);
  auto longest = *std::max_element(lengths.begin(), lengths.end());
  auto own = at::tensor(lengths, at::kLong).to(batch.tail.device()).unsqueeze(1);
  batch.tail = batch.tail.narrow(1, 0, longest);
  batch.tail_valid = at::arange(longest, own.options()).unsqueeze(0) < own;
  batch.labels = at::full({batch.size(), longest}, -100, own.options());
  batch.label_question = at::full({batch.size(), longest}, -1, own.options());
  return batch;
}

class Audit {
 public:
  Audit(LanguageModel& model, const Loader& loader, const AuditOptions& options)
      : model_(model), options_(options) {
    auto samples = std::min(options.samples, loader.sequences());
    for (int64_t i = 0; i < samples; ++i) {
      auto batch = loader.single(i).to(model->device());
      samples_.push_back(options.query_aware ? questions_only(batch) : batch);
    }
    together_ = loader.pass_batch(0).to(model->device());
    if (options.query_aware) together_ = questions_only(together_);
    pass_.budget_share = options.budget == Budget::kNone ? 0 : options.shares.front();
  }

  std::vector<AuditFinding> run() {
    prefix_invariance();
    labels();
    if (!options_.query_aware) decode();
    if (options_.budget != Budget::kNone)
      for (auto share : options_.shares) budget(share);
    isolation();
    return findings_;
  }

 private:
  void add(const std::string& check, bool passed, const std::string& detail) {
    findings_.push_back({check, passed, detail});
  }

  void prefix_invariance() {
    double worst = 0;
    bool seen = false;
    for (const auto& sample : samples_) {
      auto before = read(model_, sample, pass_).hidden;
      auto tokens = sample.tail_valid.sum().item<int64_t>();
      for (auto at : {tokens / 2, tokens - 1}) {
        auto changed = sample;
        changed.tail = sample.tail.clone();
        changed.tail.select(1, at).add_(1).remainder_(model_->backbone()->vocabulary_size());
        auto after = read(model_, changed, pass_).hidden;
        worst =
            std::max(worst, relative_difference(after.narrow(1, 0, at), before.narrow(1, 0, at)));
        seen |= relative_difference(after.select(1, at), before.select(1, at)) > kSame;
      }
    }
    add("prefix invariance", worst <= kSame && seen,
        seen ? concat("a changed token of question or answer moves what stands before it by ",
                      worst, " of its size (allowed: ", kSame, ")")
             : "a changed token changed nothing at its own place: the check sees nothing");
  }

  void labels() {
    double worst = 0;
    for (const auto& sample : samples_) {
      auto question = question_lengths(sample)[0];
      auto changed = sample;
      changed.evidence = sample.evidence.logical_not();
      changed.answer_tokens = sample.answer_tokens.logical_not();
      changed.tail = sample.tail.clone();
      changed.tail.slice(1, question).add_(1).remainder_(model_->backbone()->vocabulary_size());
      for (auto& record : changed.records.at(0)) record.answers.clear();
      auto before = read(model_, sample, pass_).hidden, after = read(model_, changed, pass_).hidden;
      auto shared = std::min({question, before.size(1), after.size(1)});
      worst = std::max(
          worst, relative_difference(after.narrow(1, 0, shared), before.narrow(1, 0, shared)));
    }
    add("labels", worst <= kSame || options_.oracle,
        concat(options_.oracle ? "an oracle by design: " : "",
               "other evidence and another answer move the question by ", worst, " of its size"));
  }

  void decode() {
    double worst = 0;
    int64_t tokens = 0;
    for (const auto& sample : samples_) {
      auto whole = read(model_, sample, pass_).hidden;
      auto pass = read(model_, questions_only(sample), pass_);
      auto question = pass.hidden.size(1), length = sample.tail_valid.sum().item<int64_t>();
      for (auto t = question; t < length; ++t, ++tokens) {
        auto next =
            model_->read_next(sample.tail.select(1, t), sample.tail_valid.select(1, t), pass.state);
        worst = std::max(worst, relative_difference(next.select(1, 0), whole.select(1, t)));
      }
    }
    add("decode", worst <= kClose,
        concat(tokens, " answer tokens, read one by one, differ from those read at once by ", worst,
               " of their size (allowed: ", kClose, ")"));
  }

  int64_t context_tokens(const Batch& sample) const {
    return sample.context_valid.sum().item<int64_t>();
  }

  // What may be held: keys, values and bookkeeping of `entries` in every layer and head, the
  // convolution's tails, and a page of odds and ends.
  int64_t allowed_bytes(int64_t entries) const {
    const auto& shape = model_->method().shape();
    const auto& config = model_->backbone()->config();
    auto element = int64_t(model_->backbone()->parameters().front().element_size());
    constexpr int64_t kBookkeeping = 12;  // order, validity and bias of an entry of a head
    auto odds_and_ends = 64 * shape.layers + 256;
    auto entry = 2 * shape.head_width * element + kBookkeeping;
    auto tails =
        shape.layers * std::max<int64_t>(0, config.conv_width - 1) * config.width * element;
    return entries * shape.layers * shape.key_value_heads * entry + tails + odds_and_ends;
  }

  void budget(double share) {
    bool passed = true;
    double used = 0;  // of what is allowed, at most
    for (const auto& sample : samples_) {
      auto options = pass_;
      options.budget_share = share;
      auto pass = read(model_, questions_only(sample), options);
      auto context = context_tokens(sample);
      auto kept = std::max<int64_t>(1, int64_t(std::floor(share * double(context) + 1e-9)));
      auto around = model_->backbone()->config().sinks + question_lengths(sample)[0];
      double held = 0, allowed = 0;
      if (options_.budget == Budget::kBytes) {
        held = double(model_->method().state_bytes(pass.state));
        allowed = double(allowed_bytes(kept + around));
      } else if (options_.budget == Budget::kTokens) {
        held = double(pass.state.selected.mask.sum().item<int64_t>());
        // Selectors round their share to the nearest token.
        allowed = std::max(1.0, std::round(share * double(context)));
      } else {
        held = attended_by_next(pass.state, sample);
        allowed = double(kept + around + 1);
      }
      passed &= held <= allowed;
      used = std::max(used, held / allowed);
    }
    const char* what = options_.budget == Budget::kBytes    ? "bytes held"
                       : options_.budget == Budget::kTokens ? "tokens read"
                                                            : "keys attended by a decoded token";
    add(concat("budget ", share * 100, "%"), passed,
        concat(what, " are ", used, " of what this share allows"));
  }

  // Keys that a query of the next token attends, mean over layers and heads.
  double attended_by_next(MethodState& state, const Batch& sample) {
    state.options.collect_stats = true;
    state.stats = {};
    auto ids = sample.tail.select(1, 0);
    model_->read_next(ids, at::ones_like(ids, at::kBool), state);
    const auto& shape = model_->method().shape();
    return state.stats.attended_pairs.item().toDouble() / double(shape.layers * shape.query_heads);
  }

  void isolation() {
    const auto& last = samples_.back();
    auto alone = read(model_, last, pass_).hidden;
    for (const auto& sample : samples_) read(model_, sample, pass_);
    auto after = relative_difference(read(model_, last, pass_).hidden, alone);
    add("sample isolation, after another", after <= kSame,
        concat("differs from the sample alone by ", after, " of its size (allowed: ", kSame, ")"));
    auto all = read(model_, together_, pass_).hidden;
    double worst = 0;
    for (int64_t b = 0; b < together_.size(); ++b) {
      auto own = samples_of_batch(b);
      if (!own) continue;
      auto single = read(model_, *own, pass_).hidden;
      auto tokens = std::min(single.size(1), all.size(1));
      worst = std::max(worst, relative_difference(all.narrow(0, b, 1).narrow(1, 0, tokens),
                                                  single.narrow(1, 0, tokens)));
    }
    add("sample isolation, beside another", worst <= kBatched,
        concat("differs from the sample alone by ", worst, " of its size (allowed: ", kBatched,
               ")"));
  }

  // The single sample that is row b of the batch, where the audit has read it.
  std::optional<Batch> samples_of_batch(int64_t b) const {
    for (const auto& sample : samples_)
      if (sample.sample_ids[0] == together_.sample_ids[size_t(b)]) return sample;
    return std::nullopt;
  }

  // Other shapes round otherwise, and a choice on the edge may then go the other way.
  static constexpr double kBatched = 0.05;

  LanguageModel& model_;
  AuditOptions options_;
  PassOptions pass_;
  std::vector<Batch> samples_;
  Batch together_;
  std::vector<AuditFinding> findings_;
};

}  // namespace

std::vector<AuditFinding> audit_method(LanguageModel& model, const Loader& loader,
                                       const AuditOptions& options) {
  at::NoGradGuard no_grad;
  return Audit(model, loader, options).run();
}

std::string audit_report(const std::string& method, const std::vector<AuditFinding>& findings) {
  auto failed = std::count_if(findings.begin(), findings.end(),
                              [](const AuditFinding& finding) { return !finding.passed; });
  auto report = concat("audit of ", method, ": ",
                       failed == 0 ? std::string("passed") : concat(failed, " FAILED"), "\n");
  for (const auto& finding : findings)
    report += concat("  ", finding.passed ? "passed  " : "FAILED  ", finding.check, ": ",
                     finding.detail, "\n");
  return report;
}

}  // namespace dsrsq
