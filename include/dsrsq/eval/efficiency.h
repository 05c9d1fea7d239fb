// What a method costs: analytic FLOPs, memory, process peaks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dsrsq/model/config.h"

namespace dsrsq {

// Work of one sequence, as counted by the evaluator from what was really selected and attended.
struct SequenceWork {
  double context_tokens = 0;  // N, scored by a retriever
  double reader_tokens =
      0;  // sinks, selected, question and answer tokens that went through the blocks
  double attended_pairs = 0;  // (query, exact key) pairs of one head, summed over layers
  double latent_pairs = 0;    // (query, latent) pairs of one head, summed over layers
  // (query, centroid) and (key, centroid) pairs of one query head, summed over layers; keys are
  // assigned once a key-value head, so with grouped heads a (key, centroid) pair counts H_kv / H.
  double routed_pairs = 0;
  double predicted_tokens = 0;  // tokens whose logits were computed
  double rebuilt_latents = 0;   // latents whose keys were rebuilt, once a read (a segment or a
                                // decoded token), summed over layers
};

struct FlopSettings {
  int64_t retriever_width = 0;  // r; 0: no retriever
  int64_t retriever_conv_width = 0;
  // A sentence encoder read in place of the embeddings (dsr.encoder); width 0: none. A context
  // token counts as one word piece that attends a whole window.
  int64_t encoder_width = 0, encoder_layers = 0, encoder_mlp_width = 0, encoder_window = 0;
  int64_t latent_width = 0;  // c; 0: no buffer
  int64_t clusters = 0;      // m; 0: no routing
  int64_t vocabulary_size = 0;
};

// Floating-point operations (a multiply-add is 2) of one forward pass over such a sequence:
// projections, MLP, convolution, attention (2 d for logits and 2 d for values a pair), output head,
// retriever, routing, compression. Element-wise work (norms, softmax, activations, rotation) is
// left out. Where latents are read, every reader token is counted as compressed once and its mixed
// latents as expanded once a layer (the last exact window is not: an upper bound); a pair with a
// latent costs 2 d for the logit and 2 c for the value, which stays absorbed.
double forward_flops(const TransformerConfig& model, const FlopSettings& settings,
                     const SequenceWork& work);

// Peak memory of a piece of work in bytes above what was held when it began: the CUDA allocator's
// peak on a GPU; on a CPU the process's resident peak (VmHWM, reset through /proc/self/clear_refs;
// where that is not allowed, -1).
class PeakMemory {
 public:
  explicit PeakMemory(at::Device device);
  double bytes() const;
  // What runs from pause to resume is not counted; it must hold nothing afterwards.
  void pause() { before_ = bytes(); }
  void resume();

 private:
  bool restart();  // the peak is what is held now
  at::Device device_;
  double start_ = 0;
  double before_ = 0;  // the peak up to the last pause
  bool usable_ = true;
};

}  // namespace dsrsq
