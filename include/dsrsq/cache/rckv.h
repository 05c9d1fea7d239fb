// Rotating Compressive Key-Value cache (RCKV, paper section 3.4; D11 to D14): what leaves the exact
// window is projected jointly over a layer's key-value heads to c numbers for the key and c for the
// value, and kept in a weighted reservoir of constant size L. A token is compressed once and never
// again.
//
//   K_c = P_k K,  K^R = P_k^T K_c       P has orthonormal rows: its pseudo-inverse is its transpose
//   priority = log w + Gumbel + decay t  Efraimidis-Spirakis 2006: the L largest of the stream stay
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "dsrsq/cache/kv_cache.h"
#include "dsrsq/core/config.h"
#include "dsrsq/ops/attention_shape.h"
#include "dsrsq/ops/latent_project.h"

namespace dsrsq {

struct RckvConfig {
  bool enabled = true;
  int64_t latent_width = 64;     // c
  int64_t buffer_length = 1024;  // L
  int64_t window = 128;          // exact tokens before the current segment
  int64_t segment = 512;         // S, context tokens
  std::string source = "stream";
  std::string position = "rope_reconstruct";
  std::string weight = "attention_rate";
  std::string noise = "gumbel";
  double decay = 0.0;
  double prior_mass = 0.01;
  double prior_exposure = 1.0;
  std::string back_propagation = "full";
  std::string store = "none";
  int64_t calibration_sequences = 32;
  std::string kernel = "auto";
  void visit_fields(ConfigVisitor& v);
};

// Exact entries that leave the window, E of them.
struct LeavingEntries {
  at::Tensor keys;       // [B, H_kv, E, d] before RoPE
  at::Tensor values;     // [B, H_kv, E, d]
  at::Tensor positions;  // [B, E] int64
  at::Tensor order;      // [B, E] int64
  at::Tensor valid;      // [B, E] bool
  at::Tensor mass;       // [B, E] fp32; only rckv.weight: attention_rate needs it
  at::Tensor exposure;   // [B, E] fp32; the same
  at::Tensor bias;       // [B, E] fp32 added to the entries' logits; undefined: 0
};

class RckvImpl : public torch::nn::Module {
 public:
  RckvImpl(const RckvConfig& config, const AttentionShape& shape, int64_t seed);

  // x [B, H_kv, T, d] (keys before RoPE, or values) -> latents [B, T, c].
  at::Tensor compress_keys(int64_t layer, const at::Tensor& x) const;
  at::Tensor compress_values(int64_t layer, const at::Tensor& x) const;
  // latents [B, L, c] -> [B, H_kv, L, d].
  at::Tensor rebuild_keys(int64_t layer, const at::Tensor& latents) const;
  at::Tensor rebuild_values(int64_t layer, const at::Tensor& latents) const;
  // What attention accumulated in latent space [B, H, T, c] -> [B, H, T, d] (the absorbed read of
  // values).
  at::Tensor expand_values(int64_t layer, const at::Tensor& mixed, int64_t query_heads) const;

  // The absorbed read of keys (position: age_bias): q [B, H, T, d] before RoPE -> q P_k^T of each
  // head [B, H, T, c] fp32, whose product with a key's latent is q . (the rebuilt key), unrotated.
  at::Tensor absorb_queries(int64_t layer, const at::Tensor& q) const;
  // The learned bias by query head and age of the latent; query_order [B, T], key_order [B, L] ->
  // [B, H, T, L] fp32. Ages share a bucket from each power of two to the next.
  at::Tensor age_bias(int64_t layer, const at::Tensor& query_order,
                      const at::Tensor& key_order) const;
  // What ops::latent_attention reads a layer's latents by: P_k and P_v [c, H_kv d] and, where
  // positions are a bias of age, its table [H, buckets]; fp32.
  at::Tensor key_projection(int64_t layer) const { return key_projection_[size_t(layer)]; }
  at::Tensor value_projection(int64_t layer) const { return value_projection_[size_t(layer)]; }
  at::Tensor age_table(int64_t layer) const { return age_bias_[size_t(layer)]; }

  // weight: gate. log sigmoid(w . [z_k, z_v] + b) of latents [B, L, c] -> [B, L] fp32: log w of the
  // reservoir, and the bias of a latent's logits, which is where the gate's gradient comes from.
  at::Tensor log_gate(int64_t layer, const at::Tensor& key_latents,
                      const at::Tensor& value_latents) const;

  // Offers entries that left the exact window to the reservoir; keeps the L of highest priority,
  // oldest first. Gradients flow through the kept latents and biases, never through priorities.
  void insert(int64_t layer, LatentBuffer& buffer, const LeavingEntries& leaving,
              const std::vector<int64_t>& sample_ids, uint64_t step) const;

  // Relative squared reconstruction error of keys and values, averaged over the two: (1 - ||P x||^2
  // / ||x||^2), without forming K^R (rows are orthonormal). No gradient reaches x (D14). Scalar
  // fp32.
  at::Tensor compression_error(int64_t layer, const at::Tensor& keys, const at::Tensor& values,
                               const at::Tensor& valid) const;

  // Principal components: collect keys and values, then set P of every layer to the leading
  // eigenvectors (D11).
  void begin_calibration();
  void collect(int64_t layer, const at::Tensor& keys, const at::Tensor& values,
               const at::Tensor& valid);
  void finish_calibration();
  bool calibrating() const { return calibrating_; }
  // The floor of compression_error: share of energy outside the top c components of what was last
  // collected.
  const std::vector<double>& tail_energy() const { return tail_energy_; }

  // Back to orthonormal rows after an optimiser step: QR with a positive diagonal, so that nothing
  // flips sign.
  void after_step();

  const RckvConfig& config() const { return config_; }

 private:
  ops::Latents latents_of(int64_t layer, const LeavingEntries& leaving) const;  // rckv.kernel's
  at::Tensor log_weight(int64_t layer, const LeavingEntries& leaving,
                        const LatentBuffer& offered) const;
  at::Tensor priority(int64_t layer, const LeavingEntries& leaving, const LatentBuffer& offered,
                      const std::vector<int64_t>& sample_ids, uint64_t step) const;

  RckvConfig config_;
  AttentionShape shape_;
  int64_t seed_;
  bool calibrating_ = false;
  std::vector<at::Tensor> key_projection_;  // a layer: [c, H_kv d] fp32
  std::vector<at::Tensor> value_projection_;
  std::vector<at::Tensor> age_bias_;                   // a layer: [H, buckets] fp32, or none
  std::vector<at::Tensor> gate_weight_, gate_bias_;    // a layer: [2c] and [1] fp32, or none
  std::vector<at::Tensor> key_moment_, value_moment_;  // [H_kv d, H_kv d] fp64, while calibrating
  std::vector<double> tail_energy_;
};
TORCH_MODULE(Rckv);

}  // namespace dsrsq
