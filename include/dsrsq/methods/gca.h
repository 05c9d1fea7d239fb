// Grouped cross-attention with chunk retrieval (GCA, arXiv 2410.01651): self-attention sees a
// window; what left it is read chunk by chunk. Each chunk of tokens is encoded once, from the
// hidden states between the lower and the upper layers, into keys, values and a landmark. When a
// chunk ends, its last hidden state retrieves earlier chunks by their landmarks; in the upper
// layers every token of the NEXT chunk attends each of them on its own, and the results are summed
// by the softmax of their scores, through which the language-model loss trains the retrieval.
//
// Causality: chunk c is encoded when it is complete and retrieves chunks j < c alone; tokens of
// chunk c + 1 read them. So nothing that a token reads stands behind it.
//
// What differs from the authors' code, and why:
//   - No landmark token is inserted, so that every method reads the same tokens: a chunk's query is
//     the hidden state at its last token, its key the encoder's output at a learned vector that
//     stands behind the chunk's tokens.
//   - Chunks end in front of the token that predicts an answer, as theirs end behind a prompt (they
//     pad it to whole chunks): what was asked retrieves before the answer begins.
//   - A decoded token's query is normalised as in training (theirs is not).
//
// State: the window's keys and values in every layer, and one set of keys and values of all
// tokens, which the upper layers share.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"

namespace dsrsq {

struct GcaConfig {
  int64_t chunk = 64;
  int64_t chunks_per_query = 8;
  int64_t window = 512;
  int64_t lower_layers = -1;
  int64_t groups = 1;
  int64_t encoder_layers = 2;
  int64_t null_slots = 1;
  bool sample = true;
  std::string output_start = "zero";
  void visit_fields(ConfigVisitor& v);
  GcaConfig resolved(const TransformerConfig& model) const;  // lower_layers as it is
  void validate(const TransformerConfig& model,
                const ConfigLocations& locations) const;  // throws ConfigError
};

// Where the tokens of one call of the reader stand among chunks; B sequences of T tokens behind
// the O tokens of the longest open chunk. C: the most chunks that close in the call. Row r of a
// sequence: its tokens of this call behind the r-th chunk that closed in it.
struct ChunkLayout {
  int64_t closed = 0;                // C
  at::Tensor members;                // [B, C, S] int64 into O + T; 0 where not valid
  at::Tensor member_valid;           // [B, C, S] bool
  at::Tensor last;                   // [B, C] int64 into T: the token that closed the chunk
  at::Tensor tokens;                 // [B, R, Q] int64 into T, by row; 0 where there is none
  at::Tensor place;                  // [B, T] int64 into R x Q; 0 for padding
  at::Tensor last_row;               // [B] int64: chunks that closed in the sequence
  at::Tensor still_open;             // [B, O'] int64 into O + T
  std::vector<int64_t> open_tokens;  // [B] of them
};
// `valid` [B, T] bool on the CPU; `open` [B]: tokens of each open chunk before the call;
// `starts` [B]: ascending columns in front of which a chunk ends, however short it is.
ChunkLayout lay_out_chunks(const at::Tensor& valid, const std::vector<int64_t>& open,
                           const std::vector<std::vector<int64_t>>& starts, int64_t chunk);

struct ChosenChunks {
  at::Tensor index;   // [B, R, K] int64; 0 where fewer than K were candidates
  at::Tensor weight;  // [B, R, K] fp32, sums to 1 over the chosen ones; 0 where there is none
};
// The `count` best candidates of score + noise (undefined: none) of each row, weighted by the
// softmax of the score alone: score [B, R, C] fp32, -inf: no candidate. Gradient through weight.
ChosenChunks choose_chunks(const at::Tensor& score, const at::Tensor& noise, int64_t count);

// sum_k weight_k Attention(q, keys_k, values_k), each with a softmax of its own over the chunk's
// tokens and `null_slots` slots of logit 0 and value 0: q [B, R, H, Q, d], keys and values [B, R,
// K, H_kv, S, d], valid [B, R, K, S] bool, weight [B, R, K] -> [B, R, H, Q, d].
at::Tensor grouped_cross_attention(const at::Tensor& q, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& valid,
                                   const at::Tensor& weight, int64_t null_slots);

// The weights that GCA adds to a transformer.
class GcaLayersImpl : public torch::nn::Module {
 public:
  GcaLayersImpl(const GcaConfig& config, const TransformerConfig& model, int64_t seed);

  struct Chunks {
    at::Tensor landmarks;     // [B, C, D]
    at::Tensor keys, values;  // [B, C, H_kv, S, d]
  };
  // A transformer that sees both ways inside each chunk: hidden [B, C, S, D], valid [B, C, S] bool.
  Chunks encode(const at::Tensor& hidden, const at::Tensor& valid) const;
  // [B, C, D] hidden at the last tokens of chunks -> what is compared with landmarks.
  at::Tensor landmark_query(int64_t group, const at::Tensor& hidden) const;
  at::Tensor queries(int64_t upper, const at::Tensor& residual) const;  // [B, T, D] -> [B, T, H d]
  at::Tensor output(int64_t upper, const at::Tensor& attended) const;   // [B, T, H d] -> [B, T, D]
  double token_flops() const;

 private:
  struct EncoderLayer {
    at::Tensor attention_norm, query, key, value, output, mlp_norm, gate, up, down;
  };
  struct UpperLayer {
    at::Tensor norm, query, output;
  };
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;
  at::Tensor encoder_layer(const EncoderLayer& layer, const at::Tensor& x, const at::Tensor& mask,
                           const ops::RotaryTable& rope) const;

  GcaConfig config_;
  TransformerConfig model_;
  at::Tensor encoder_norm_, encoder_final_norm_, landmark_, key_, value_;
  std::vector<EncoderLayer> encoder_;
  std::vector<at::Tensor> group_norms_;
  std::vector<UpperLayer> upper_;
};
TORCH_MODULE(GcaLayers);

// What GCA holds of a batch beside the window's entries.
struct GcaMemory : MethodMemory {
  at::Tensor landmarks;    // [B, C, D]
  at::Tensor keys;         // [B, C, H_kv, S, d]
  at::Tensor values;       // [B, C, H_kv, S, d]
  at::Tensor token_valid;  // [B, C, S] bool; none of a column: the sequence closed no chunk there
  at::Tensor open_hidden;  // [B, O, D] lower hidden states of the open chunks' tokens
  std::vector<ChosenChunks> chosen;  // a group: [B, 1, K], by the last chunk that closed
  std::vector<int64_t> open_tokens;  // [B]
  // Of the prompt alone: columns of its tail in front of which a chunk ends, and the tail's tokens.
  std::vector<std::vector<int64_t>> answer_starts;
  int64_t tail_tokens = 0;
  // Of the call under way.
  ChunkLayout layout;
  at::Tensor hidden;                // [B, O + T, D] lower hidden states
  std::vector<ChosenChunks> table;  // a group: [B, R, K] by row
  int64_t bytes() const override;
};

class GcaMethod : public Method {
 public:
  GcaMethod(const GcaConfig& config, const TransformerConfig& model, int64_t seed);
  std::string method_name() const override { return "gca"; }
  MethodState make_state(const Batch& batch, const PassOptions& options) const override;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  at::Tensor extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                            MethodState& state) override;
  void update_cache(const AttentionInput& input, MethodState& state) override;
  void end_segment(MethodState& state) override;
  bool counts_without_masks() const override { return true; }
  double token_flops() const override { return layers_->token_flops(); }

 private:
  void close_chunks(const AttentionInput& input, GcaMemory& memory) const;
  void retrieve(int64_t group, const at::Tensor& residual, const MethodState& state,
                GcaMemory& memory) const;
  at::Tensor noise(int64_t group, const MethodState& state, const GcaMemory& memory,
                   at::Device device) const;
  at::Tensor read_chunks(int64_t upper, const AttentionInput& input, const at::Tensor& residual,
                         const GcaMemory& memory) const;
  void count_window(const AttentionInput& input, AttentionStats& stats) const;

  GcaConfig config_;
  TransformerConfig model_;
  int64_t seed_;
  GcaLayers layers_{nullptr};
};

}  // namespace dsrsq
