// Dynamic Sparse Retriever (DSR, paper section 3.2; D3): scores every context token against the
// question.
//
//   y      = conv(Embed(context) - mean of the table)      input `embedding_conv`; the reader
//   gathers y, not Embed E_c(i) = W_c y_i,   E_q = W_q pool(Embed(question) - mean) phi_i  =
//   cos(E_q, E_c(i)) / temperature                temperature is learned, within [0.02, 1]
//
// With `dsr.encoder` a sentence encoder is read in their place, and the reader gathers embeddings:
//
//   y_i = mean of the states of the word pieces that token i overlaps,   E_q = W_q embed(question)
//
// The convolution is what lets a token be found by its neighbours: the value after "of NAME is"
// carries the name.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "dsrsq/batch/encoder_input.h"
#include "dsrsq/core/config.h"
#include "dsrsq/retriever/sentence_encoder.h"

namespace dsrsq {

struct DsrConfig {
  bool enabled = true;
  int64_t width = 128;   // r
  int64_t budget = 512;  // b0, tokens
  double alpha = 0.5;
  std::string complexity = "entropy";
  int64_t budget_minimum = 0;  // b_min of the learned budget, tokens; 0: budget
  int64_t budget_actions = 5;  // bins of the learned budget
  double temperature = 0.07;   // at the start
  std::string input = "embedding_conv";
  std::string encoder;
  int64_t encoder_window = 256;
  bool encoder_learns = false;
  int64_t conv_width = 8;
  std::string pool = "mean";
  std::string start = "independent";
  bool input_gradient = true;
  int64_t span = 1;
  std::string reader_gradient = "none";
  std::string kernel = "auto";
  void visit_fields(ConfigVisitor& v);
};

class DsrImpl : public torch::nn::Module {
 public:
  DsrImpl(const DsrConfig& config, int64_t model_width, int64_t seed);

  // Embeddings of the context [B, N, D] and the mean of the table [D] -> what the retriever scores
  // and the reader reads [B, N, D]: y for `embedding_conv`, the embeddings themselves for
  // `embedding`.
  at::Tensor context_inputs(const at::Tensor& embeddings, const at::Tensor& table_mean) const;
  // What is scored in place of embeddings where there is a sentence encoder: of the context [B, N,
  // W] fp32 (zero where no piece stands behind a token) and of each question [B, Q, 1, W]. The mean
  // to centre them with is zero.
  struct EncodedText {
    at::Tensor context, questions;
  };
  EncodedText encode_text(const EncoderInput& input) const;
  bool has_encoder() const { return !encoder_.is_empty(); }
  const SentenceEncoder& encoder() const { return encoder_; }

  // Unit-normalised E_c [B, N, r] fp32: what an index of the document would store.
  at::Tensor encode_context(const at::Tensor& inputs, const at::Tensor& table_mean) const;
  // Unit-normalised E_q [B, Q, r] fp32 of Q questions a sequence: embeddings [B, Q, T, D], pooled
  // by weights [B, Q, T] (0: padding).
  at::Tensor encode_questions(const at::Tensor& embeddings, const at::Tensor& weights,
                              const at::Tensor& table_mean) const;
  // phi [B, Q, N] fp32; tokens that are not valid [B, N] get -inf.
  at::Tensor scores(const at::Tensor& questions, const at::Tensor& context,
                    const at::Tensor& valid) const;

  // The learned budget (D4): `budget_actions` bins from b_min to b0 (1 + alpha), evenly spaced.
  bool has_budget_action() const { return budget_output_.defined(); }
  std::vector<int64_t> budget_bins() const;  // tokens of each; empty where it is not learned
  // Logits of the bins [B, bins] fp32 from E_q [B, Q, r] of the valid questions [B, Q], phi [B, N]
  // and question tokens [B]: a question shows by its words and length how much it asks for, the
  // scores by their entropy how sure they are.
  at::Tensor budget_logits(const at::Tensor& questions, const at::Tensor& valid,
                           const at::Tensor& phi, const at::Tensor& question_tokens) const;

  double temperature() const;
  const DsrConfig& config() const { return config_; }

 private:
  void open_encoder();

  DsrConfig config_;
  SentenceEncoder encoder_{nullptr};
  at::Tensor question_projection_;  // W_q [r, D], with an encoder [r, W]
  at::Tensor context_projection_;   // W_c likewise
  at::Tensor log_temperature_;      // [1]
  at::Tensor conv_;                 // [D, w]; undefined for `embedding`
  at::Tensor budget_hidden_;        // [32, r + 2]; these three only where complexity is learned
  at::Tensor budget_hidden_bias_;   // [32]
  at::Tensor budget_output_;        // [bins, 32 + 1], the last column a bias
};
TORCH_MODULE(Dsr);

// What a question's tokens weigh in its pooled embedding, fp32 [B, Q, T]. mean: 1. rarity: log(N /
// (1 + occurrences in the context)) / log N, so that "the" does not stand for a question; padding
// weighs 0.
at::Tensor question_weights(const std::string& pool, const at::Tensor& questions,
                            const at::Tensor& questions_valid, const at::Tensor& context,
                            const at::Tensor& context_valid);

}  // namespace dsrsq
