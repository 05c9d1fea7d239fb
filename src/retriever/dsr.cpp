#include "dsrsq/retriever/dsr.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/causal_conv.h"
#include "dsrsq/ops/noise.h"
#include "dsrsq/retriever/selection.h"

namespace dsrsq {

void DsrConfig::visit_fields(ConfigVisitor& v) {
  v.field("enabled", enabled,
          "Select context tokens. Off: the part has no parameters and the reader reads the whole "
          "context.");
  v.field("width", width, "r: width of the retriever's vectors.", at_least(1));
  v.field("budget", budget, "b0: tokens selected when the question's complexity is 0.",
          at_least(1));
  v.field("alpha", alpha, "Budget = b0 (1 + alpha complexity).", at_least(0));
  v.field("complexity", complexity,
          "complexity(q) in [0, 1]. none: 0, every question gets the budget. entropy of the scores "
          "over "
          "log N: free, more tokens where the retriever is unsure. length: of the question over 64 "
          "tokens, for a fixed rule. learned: an action of the policy, for stages with ppo.",
          one_of({"none", "entropy", "length", "learned"}));
  v.field("budget_minimum", budget_minimum,
          "learned: tokens of the smallest bin; the largest has budget (1 + alpha). 0: budget.",
          at_least(0));
  v.field("budget_actions", budget_actions, "learned: bins, evenly spaced.", between(2, 64));
  v.field("temperature", temperature, "Start of the learned temperature of the cosine.",
          between(0.02, 1));
  v.field("input", input,
          "What is scored: token embeddings, or their causal convolution, which the reader then "
          "gathers.",
          one_of({"embedding_conv", "embedding"}, {"layer_1"}));
  v.field(
      "encoder", encoder,
      "Hugging Face folder of a BERT sentence encoder (MiniLM, say): questions are its mean-pooled "
      "embedding, context tokens the mean of its states of the word pieces that they overlap, in "
      "place of dsr.input; the reader then gathers embeddings. With dsr.width of at least its "
      "width "
      "training starts at exactly its cosine. The folder is needed whenever the run is opened. "
      "Empty: none.");
  v.field(
      "encoder_window", encoder_window,
      "Word pieces that the encoder reads at once, at most what it has positions for; contexts are "
      "cut at line breaks and sentence ends.",
      at_least(8));
  v.field(
      "encoder_learns", encoder_learns,
      "The encoder is trained with the retriever, at train.groups.encoder; off: it stands still.");
  v.field("conv_width", conv_width, "Taps of that convolution.", between(1, 64));
  v.field("pool", pool,
          "How a question's embeddings are pooled: mean, or weighted by rarity in the context.",
          one_of({"mean", "rarity"}));
  v.field("start", start,
          "independent: W_q and W_c start apart. equal: they start equal, so that a question's "
          "tokens score their own "
          "occurrences highest before anything is learnt; for real text, where few examples teach "
          "that.",
          one_of({"independent", "equal"}));
  v.field("input_gradient", input_gradient,
          "L_retrieval also trains the embeddings and the convolution. Off: only the projections "
          "and the "
          "temperature, which keeps few documents from being learnt by heart.");
  v.field("span", span,
          "Tokens picked together: runs of this length, by the log-sum-exp of their scores. 1: the "
          "paper.",
          at_least(1));
  v.field(
      "reader_gradient", reader_gradient,
      "Gradient of the reader into the scores. none: they learn from L_retrieval and reward alone. "
      "bias: a token's log inclusion probability is added to its keys' logits, for training "
      "without "
      "evidence or reward; the reader then depends on the scores.",
      one_of({"none", "bias"}));
  v.field("kernel", kernel,
          "Implementation of choosing tokens and of a choice's probability; changes rounding only. "
          "native: the fused operators, which choose without keeping scores where nothing else "
          "asks for them. aten: plain tensor operations, to check native against. auto: native.",
          one_of({"auto", "native", "aten"}));
}

namespace {
at::Tensor unit_rows(const at::Tensor& x) { return x / x.norm(2, -1, true).clamp_min(1e-8); }

// [r, W] that keeps the cosine of vectors of width W: the identity with rows of zeros below where
// r >= W; else the orthonormal rows of a seeded draw, which keep it on average.
at::Tensor cosine_keeping(const at::Tensor& drawn) {
  auto r = drawn.size(0), width = drawn.size(1);
  if (r >= width) return at::eye(r, width);
  return std::get<0>(at::linalg_qr(drawn.t().contiguous())).t().contiguous();
}
}  // namespace

DsrImpl::DsrImpl(const DsrConfig& config, int64_t model_width, int64_t seed) : config_(config) {
  auto normal = [&](const char* name, at::IntArrayRef shape, double deviation) {
    return ops::initial_normal(concat("dsr.", name), shape, deviation, uint64_t(seed));
  };
  if (!config.encoder.empty()) open_encoder();
  auto input_width = has_encoder() ? encoder_->config().width : model_width;
  auto deviation = 1.0 / std::sqrt(double(input_width));
  auto question_start = normal("question_projection", {config.width, input_width}, deviation);
  question_projection_ = register_parameter(
      "question_projection", has_encoder() ? cosine_keeping(question_start) : question_start);
  context_projection_ = register_parameter(
      "context_projection",
      config.start == "equal" || has_encoder()
          ? question_projection_.detach().clone()
          : normal("context_projection", {config.width, input_width}, deviation));
  log_temperature_ = register_parameter("log_temperature",
                                        at::full({1}, std::log(config.temperature), at::kFloat));
  if (config.input == "embedding_conv" && !has_encoder()) {
    auto taps = normal("conv", {model_width, config.conv_width}, 0.18);
    taps.select(1, config.conv_width - 1) += 1;  // identity tap
    conv_ = register_parameter("conv", taps);
  }
  if (config.complexity == "learned") {
    constexpr int64_t kHidden = 32;
    auto features = config.width + 2;
    budget_hidden_ = register_parameter(
        "budget_hidden",
        normal("budget_hidden", {kHidden, features}, 1.0 / std::sqrt(double(features))));
    budget_hidden_bias_ = register_parameter("budget_hidden_bias", at::zeros({kHidden}));
    // At 0 all bins are equally likely.
    budget_output_ =
        register_parameter("budget_output", at::zeros({config.budget_actions, kHidden + 1}));
  }
}

void DsrImpl::open_encoder() {
  encoder_ = register_module("encoder", SentenceEncoder(config_.encoder));
  if (config_.encoder_window > encoder_->config().positions)
    throw ConfigError(concat("dsr.encoder_window: expected at most ", encoder_->config().positions,
                             ", for which ", config_.encoder, " has positions, got ",
                             config_.encoder_window));
  for (auto& parameter : encoder_->parameters())
    parameter.set_requires_grad(config_.encoder_learns);
}

std::vector<int64_t> DsrImpl::budget_bins() const {
  std::vector<int64_t> bins;
  if (!has_budget_action()) return bins;
  auto least = config_.budget_minimum > 0 ? config_.budget_minimum : config_.budget;
  auto most = std::round(double(config_.budget) * (1 + config_.alpha));
  for (int64_t i = 0; i < config_.budget_actions; ++i)
    bins.push_back(int64_t(std::round(double(least) + (most - double(least)) * double(i) /
                                                          double(config_.budget_actions - 1))));
  return bins;
}

at::Tensor DsrImpl::budget_logits(const at::Tensor& questions, const at::Tensor& valid,
                                  const at::Tensor& phi, const at::Tensor& question_tokens) const {
  ops::Fp32Guard fp32(budget_output_.device());
  auto present = valid.to(at::kFloat).unsqueeze(-1);
  auto question = (questions * present).sum(1) / present.sum(1).clamp_min(1);
  // Each of about unit size, so that the head can tell questions apart from its first updates on.
  auto length = (question_tokens.to(at::kFloat) + 1).log2() - 3;
  auto entropy = (question_complexity("entropy", phi, question_tokens) - 0.8) * 5;
  auto direction = question * std::sqrt(double(question.size(1)));
  auto features = at::cat({direction, length.unsqueeze(1), entropy.unsqueeze(1)}, 1);
  auto hidden = at::tanh(at::linear(features, budget_hidden_, budget_hidden_bias_));
  return at::linear(hidden, budget_output_.narrow(1, 0, hidden.size(1)),
                    budget_output_.select(1, hidden.size(1)));
}

at::Tensor DsrImpl::context_inputs(const at::Tensor& embeddings,
                                   const at::Tensor& table_mean) const {
  if (!conv_.defined()) return embeddings;
  return ops::causal_conv(embeddings - table_mean.to(embeddings.scalar_type()),
                          conv_.to(embeddings.scalar_type()), {});
}

DsrImpl::EncodedText DsrImpl::encode_text(const EncoderInput& input) const {
  TORCH_CHECK(input.defined(), "dsr.encoder: the batch holds no word pieces");
  ops::Fp32Guard fp32(context_projection_.device());
  torch::AutoGradMode gradient(config_.encoder_learns && at::GradMode::is_enabled());
  auto size = input.windows.size(0), count = input.questions.size(1);
  auto tokens = input.piece_counts.size(1) - 1;
  auto states = encoder_->states(input.windows.flatten(0, 1), input.windows_valid.flatten(0, 1));
  auto width = states.size(-1);
  states = states.view({size, -1, width});
  auto of_pieces =
      states.gather(1, input.pieces.unsqueeze(-1).expand({size, input.pieces.size(1), width}));
  auto counts = input.piece_counts.flatten();
  auto sums = at::segment_reduce(of_pieces.flatten(0, 1), "sum", counts, {}, {}, 0,
                                 /*unsafe=*/true, /*initial=*/0);
  auto means = sums / counts.clamp_min(1).unsqueeze(-1);
  auto questions =
      encoder_->embed(input.questions.flatten(0, 1), input.questions_valid.flatten(0, 1));
  return {means.view({size, tokens + 1, width}).narrow(1, 0, tokens),
          questions.view({size, count, 1, width})};
}

at::Tensor DsrImpl::encode_context(const at::Tensor& inputs, const at::Tensor& table_mean) const {
  ops::Fp32Guard fp32(context_projection_.device());
  auto centred = conv_.defined() ? inputs : inputs - table_mean.to(inputs.scalar_type());
  auto encoded = at::matmul(centred.to(at::kFloat), context_projection_.t());
  return unit_rows(encoded);
}

at::Tensor DsrImpl::encode_questions(const at::Tensor& embeddings, const at::Tensor& weights,
                                     const at::Tensor& table_mean) const {
  ops::Fp32Guard fp32(context_projection_.device());
  auto weight = weights.unsqueeze(-1);
  auto pooled =
      ((embeddings.to(at::kFloat) - table_mean) * weight).sum(2) / weight.sum(2).clamp_min(1e-6);
  return unit_rows(at::matmul(pooled, question_projection_.t()));
}

at::Tensor question_weights(const std::string& pool, const at::Tensor& questions,
                            const at::Tensor& questions_valid, const at::Tensor& context,
                            const at::Tensor& context_valid) {
  auto present = questions_valid.to(at::kFloat);
  if (pool == "mean") return present;
  auto tokens = context_valid.sum(1).to(at::kFloat).clamp_min(2).view({-1, 1, 1});
  auto flat = questions.reshape({questions.size(0), -1, 1});
  auto found = (flat == context.unsqueeze(1))
                   .logical_and(context_valid.unsqueeze(1))
                   .sum(-1)
                   .reshape(questions.sizes());
  return ((tokens / (found + 1)).log() / tokens.log()).clamp_min(0) * present;
}

double DsrImpl::temperature() const {
  return std::clamp(std::exp(log_temperature_.item<double>()), 0.02, 1.0);
}

at::Tensor DsrImpl::scores(const at::Tensor& questions, const at::Tensor& context,
                           const at::Tensor& valid) const {
  ops::Fp32Guard fp32(context_projection_.device());
  auto temperature = log_temperature_.exp().clamp(0.02, 1.0);
  auto cosine = at::matmul(questions, context.transpose(1, 2));  // [B, Q, N]
  return (cosine / temperature)
      .masked_fill(valid.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity());
}

}  // namespace dsrsq
