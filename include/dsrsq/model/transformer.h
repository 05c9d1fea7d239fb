// The backbone and the reader's pass: embedding, blocks, output head. Given a Method, it calls the
// stages of model/method.h and knows nothing else of it.
#pragma once

#include <torch/nn/module.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"

namespace dsrsq {

// A chunk of the reader's sequences.
struct ReaderInput {
  at::Tensor inputs;  // [B, T, D]
  at::Tensor valid;   // [B, T] bool; padding may stand anywhere, the result of a sequence does not
                      // depend on it
  bool padded = false;
  at::Tensor positions;    // [B, T] int64
  at::Tensor order;        // [B, T] int64
  at::Tensor key_bias;     // [B, T] fp32; undefined: 0 (AttentionInput::key_bias)
  at::Tensor record_rows;  // [B, T] int64; undefined: none (AttentionInput::record_rows)
  int64_t record_questions = 1;
  std::vector<int64_t> segments;  // lengths; their sum is T
};

class TransformerImpl : public torch::nn::Module {
 public:
  // `method`: where it scores no keys in a layer, that layer gets no query and key projections;
  // null: every layer has them.
  TransformerImpl(const TransformerConfig& config, int64_t vocabulary_size, int64_t seed,
                  const Method* method = nullptr);

  at::Tensor embed(const at::Tensor& ids) const;  // int64 [...] -> [..., D]
  at::Tensor table_mean() const;                  // [D] fp32 without gradient
  // Reads one chunk after what `state` holds; -> final normed hidden [B, T, D]. Throws ConfigError
  // where the method needs queries and keys of a layer that has none.
  at::Tensor forward(const ReaderInput& input, Method& method, MethodState& state);
  at::Tensor logits(const at::Tensor& hidden) const;  // [..., D] -> [..., V]
  // hidden [n, D], targets [n] int64 -> the sum of the cross-entropies of their logits, of which
  // only some are held at once (ops/linear_cross_entropy.h).
  at::Tensor cross_entropy(const at::Tensor& hidden, const at::Tensor& targets) const;

  const TransformerConfig& config() const { return config_; }
  int64_t vocabulary_size() const { return vocabulary_size_; }
  // Names of parameters that the configuration has and this backbone, by its method, has not.
  const std::set<std::string>& left_out() const { return left_out_; }
  // Throws ConfigError as forward does.
  void require_scores(const Method& method) const;

 private:
  struct Block {
    at::Tensor attention_norm, attention_norm_bias, query, key, value, output, conv;
    at::Tensor query_bias, key_bias, value_bias, output_bias, query_norm, key_norm;
    at::Tensor mlp_norm, mlp_norm_bias, gate, up, up_bias, down, down_bias;
  };
  at::Tensor normalise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const;
  at::Tensor convolve(const at::Tensor& x, const Block& block, int64_t layer,
                      const ReaderInput& input, MethodState& state) const;
  at::Tensor mlp(const at::Tensor& x, const Block& block) const;
  at::Tensor read_chunk(const ReaderInput& input, Method& method, MethodState& state);
  at::Tensor read_block(const ReaderInput& input, AttentionInput attention, const at::Tensor& x,
                        Method& method, MethodState& state) const;
  at::Tensor read_block_checkpointed(const ReaderInput& input, const AttentionInput& attention,
                                     const at::Tensor& x, Method& method, MethodState& state) const;
  Block make_block(int64_t layer, bool scores);
  at::Tensor weight(const std::string& name, at::IntArrayRef shape, double deviation);

  TransformerConfig config_;
  int64_t vocabulary_size_;
  int64_t seed_;
  at::Tensor embedding_;       // [V, D]
  at::Tensor output_;          // [V, D]; the same tensor where tied
  at::Tensor position_table_;  // [P, D] for learned positions
  at::Tensor final_norm_, final_norm_bias_;
  std::vector<Block> blocks_;
  std::set<std::string> left_out_;
};
TORCH_MODULE(Transformer);

// The whole model: backbone and method.
class LanguageModelImpl : public torch::nn::Module {
 public:
  // Every sequence begins with model.sinks tokens: `begin_id`, as many as `prefix` leaves room for,
  // then `prefix` (an instruction, say). All of them are attended by every token, never evicted.
  LanguageModelImpl(Transformer backbone, std::shared_ptr<Method> method, int32_t begin_id,
                    const std::vector<int32_t>& prefix = {});

  // [sinks][selected context][tail] of a batch, read after prepare and select. Returns hidden of
  // the tail [B, T, D].
  at::Tensor read(const Batch& batch, MethodState& state);
  // As read, with the token choice already made (state.selected, state.context_inputs).
  at::Tensor read_selected(const Batch& batch, MethodState& state);
  // Prepare and select only.
  void choose_tokens(const Batch& batch, MethodState& state);
  // One more token a sequence: ids [B], valid [B] -> hidden [B, 1, D]. `padded`: whether one of
  // `valid` may be false; where it is not given, the device is asked.
  at::Tensor read_next(const at::Tensor& ids, const at::Tensor& valid, MethodState& state,
                       std::optional<bool> padded = std::nullopt);

  Transformer& backbone() { return backbone_; }
  Method& method() { return *method_; }
  const std::shared_ptr<Method>& shared_method() const { return method_; }
  at::Device device() const;
  int32_t begin_id() const { return begin_id_; }
  const std::vector<int32_t>& prefix() const { return prefix_; }
  std::vector<int64_t> front_ids() const;  // LanguageModelView::front_ids

 private:
  LanguageModelView view();
  Transformer backbone_;
  std::shared_ptr<Method> method_;
  int32_t begin_id_;
  std::vector<int32_t> prefix_;
};
TORCH_MODULE(LanguageModel);

}  // namespace dsrsq
