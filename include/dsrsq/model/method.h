// THE plug-in interface: what a long-context method changes in a transformer. Every default is the
// standard transformer; a method overrides only what its paper changes. Weights live in the method,
// state is passed in, so that one set of weights serves many sequences. Stages, in the order in
// which a sequence meets them:
//
//   make_state -> prepare -> select -> (attend, extra_sublayer, update_cache) a layer ->
//   end_segment -> losses -> after_step
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/cache/kv_cache.h"
#include "dsrsq/ops/attention_shape.h"
#include "dsrsq/ops/rotary.h"
#include "dsrsq/retriever/policy.h"
#include "dsrsq/retriever/selection.h"

namespace dsrsq {

// One term of the loss, not yet averaged (D18): tokens, questions or layers are averaged once, over
// all micro-batches.
struct LossTerm {
  at::Tensor sum;  // fp32 scalar with gradient
  double count = 0;
};
using LossTerms = std::map<std::string, LossTerm>;

// Experiments at evaluation that change how trained weights are read. They are diagnostics, never a
// method.
enum class Probe {
  kNone,
  kDenseRead,      // "same weights, dense": SQA attends every exact key
  kRandomRouting,  // as many clusters, chosen at random
  kLatentsMasked,  // the buffer is not read
};

// What L_retrieval asks for (D7); from loss.* and the curriculum's stage.
struct RetrievalOptions {
  std::string form = "softmax";        // softmax, inclusion, printed
  std::string target = "evidence";     // evidence, attention, evidence_or_attention
  std::string negatives = "sequence";  // sequence, batch
};

// How one pass over a batch runs: set by the trainer (from the curriculum's stage) or the
// evaluator.
struct PassOptions {
  bool training = false;  // codebooks are fed, losses and curriculum apply
  bool collect_stats = false;
  bool calibrating = false;  // keys and values are collected for the projections
  int64_t step = 0;
  Probe probe = Probe::kNone;
  // Curriculum (D16). A part that its config switches off stays off whatever stands here.
  bool sqa = true;
  bool rckv = true;
  int64_t budget = 0;       // 0: the retriever's own
  double budget_share = 0;  // of each context's tokens; used where budget is 0 and this is not
  bool select_per_segment = true;  // false: from the whole context, whatever rckv.source says
  bool force_evidence = false;     // training: evidence tokens are always selected
  double random_rest =
      0;  // training: share of sequences whose other tokens are random instead of the retriever's
  int64_t clusters_per_query = 0;    // 0: sqa.clusters_per_query
  bool keep_context_hidden = false;  // fill MethodState::context_hidden
  bool budget_learns = false;  // reward trains the budget action, so L_compute may: alone it would
                               // only shrink the budget
  bool observe = false;        // fill MethodState::policy_input, and scores also where a method
                               // chooses without them
  bool sample = false;         // training: Gumbel-top-k instead of top-k (D5)
  // Training: what a block's backward pass needs is computed again there instead of kept.
  bool activation_checkpointing = false;
  bool replaying = false;  // this is that second time: whatever is gathered beside the outputs
                           // (statistics, codebook sums) was gathered the first time
  bool read_everything = false;  // the reader reads the whole context (a teacher's dense attention)
  RetrievalOptions retrieval;
};

// Sums over query rows (padding excluded); tensors, so that nothing waits for a device. Empty where
// not collected.
struct AttentionStats {
  at::Tensor rows;             // query rows: heads x tokens x layers
  at::Tensor sparse_rows;      // rows that attend under half of their visible exact keys
  at::Tensor attended_pairs;   // (query, exact key) pairs attended
  at::Tensor visible_pairs;    // pairs that dense attention over the exact keys would attend
  at::Tensor latent_rows;      // rows that could read at least one latent
  at::Tensor latent_pairs;     // (query, latent) pairs that were read
  at::Tensor rebuilt_latents;  // latents whose keys were rebuilt for a read
  at::Tensor latent_mass;      // attention mass on latents, summed over these rows
  void add(at::Tensor& to, const at::Tensor& value) { to = to.defined() ? to + value : value; }
};

// State of a method's own (landmarks of chunks, budgets of layers): derive from it, and set
// MethodState::memory in make_state.
struct MethodMemory {
  virtual ~MethodMemory() = default;
  virtual int64_t bytes() const = 0;  // counted in state_bytes (D24)
};

// Everything a pass keeps of a batch of sequences.
struct MethodState {
  PassOptions options;
  std::vector<int64_t> sample_ids;  // [B], for counter-based noise
  std::vector<LayerState> layers;
  std::vector<at::Tensor>
      conv_tails;  // a layer: [B, w-1, D], the backbone's convolution carried to the next chunk
  at::Tensor context_inputs;  // [B, N, D]: what the reader gathers for selected tokens; undefined:
                              // the embeddings
  at::Tensor scores;          // phi [B, Q, N] of a learned retriever; undefined where there is none
  at::Tensor batch_scores;    // phi [B, Q, B N] against all contexts of the batch, -inf where there
                              // is no token; only where RetrievalOptions::negatives is `batch`
  at::Tensor token_budget;    // [B] int64 tokens that the retriever itself would select
  at::Tensor budget_probability;  // [B, bins] of the budget action, with gradient; undefined where
                                  // the budget is none (dsr.complexity is not learned)
  at::Tensor selection_noise;     // [B, runs] fp64 Gumbel noise that the selection was drawn with;
                                  // undefined: none
  at::Tensor key_bias;            // [B, n] fp32 added to the logits of the selected tokens' keys
                                  // (dsr.reader_gradient); undefined: 0
  // Attention probability by rank of the key in the reader's sequence, summed over layers, heads
  // and the rows that AttentionInput::record_rows gives to a question: [B, Q, ranks] fp32 without
  // gradient. Undefined where nothing was recorded.
  at::Tensor read_mass;
  PolicyInput policy_input;
  SelectedTokens selected;
  at::Tensor selected_inputs;  // [B, n, D]: context_inputs at the selected tokens, where they were
                               // gathered before; undefined: the reader gathers them
  at::Tensor context_hidden;   // [B, n, D] final hidden of the selected tokens, where asked for
  LossTerms losses;            // added by the parts as they run
  AttentionStats stats;
  int64_t peak_bytes = 0;    // the most that state_bytes was while prompts were read (D24)
  at::Tensor next_order;     // [B] int64: rank of the next token of each sequence
  at::Tensor next_position;  // [B] int64
  std::shared_ptr<MethodMemory> memory;  // of the method; null where it needs none
  std::vector<MethodState> branches;     // of other budgets, until they part (shared_prompt.h)
};

struct ReaderInput;
class Method;

// What a method may ask of the language model, so that it never holds it.
struct LanguageModelView {
  // A pass of its own over the backbone, with another method (one that records attention rows, say)
  // and a state of its own; and the output head. For methods that read before they choose, as
  // attention-guided pruning does.
  std::function<at::Tensor(const ReaderInput&, Method&, MethodState&)> forward;
  std::function<at::Tensor(const at::Tensor& hidden)> logits;
  int32_t begin_id = 0;
  std::vector<int64_t> front_ids;  // what stands in front of every context: model.sinks of them
  std::function<at::Tensor(const at::Tensor& ids)> embed;  // ids int64 [...] -> [..., D]
  std::function<at::Tensor()> table_mean;  // [D] fp32, no gradient: embeddings are centred with it
};

// One layer's view of a chunk of tokens. A chunk holds one or more segments side by side
// (`segments`, lengths in slots).
struct AttentionInput {
  at::Tensor q;  // [B, H, T, d] before RoPE
  at::Tensor k;  // [B, H_kv, T, d] before RoPE
  at::Tensor v;  // [B, H_kv, T, d]
  std::optional<ops::RotaryTable>
      rope;              // of `positions`; empty where positions are learned or absent
  at::Tensor hidden;     // [B, T, D] normed input of the attention block
  at::Tensor residual;   // [B, T, D]
  at::Tensor valid;      // [B, T] bool; false: padding
  bool padded = false;   // some of `valid` is false (known on the host)
  at::Tensor positions;  // [B, T] int64
  at::Tensor order;      // [B, T] int64, rank in the reader's sequence
  at::Tensor key_bias;   // [B, T] fp32 added to every logit of these keys, wherever they are read
                         // from (exact or latent); undefined: 0
  at::Tensor
      record_rows;  // [B, T] int64: the question q < Q whose row of MethodState::read_mass the
                    // query's attention is added to, -1: none; undefined: nothing is recorded
  int64_t record_questions = 1;  // Q
  std::vector<int64_t> segments;
  int64_t layer = 0;

  at::Tensor rotated(const at::Tensor& x) const { return rope ? ops::rotate(x, *rope) : x; }
};

// What --budget buys of a context.
enum class Budget {
  kNone,    // the method reads what it reads
  kTokens,  // tokens that the reader reads
  kBytes,   // keys and values that stay after the context was read whole
  kReads,   // keys that a query attends; all of them stay
};

// Tokens that the options ask for, int64 [B]; undefined where they leave the budget to the method.
at::Tensor requested_budget(const PassOptions& options, const at::Tensor& context_valid);

class Method : public torch::nn::Module {
 public:
  explicit Method(const AttentionShape& shape) : shape_(shape) {}

  virtual std::string method_name() const = 0;

  virtual MethodState make_state(const Batch& batch, const PassOptions& options) const;
  // Before selection: what is computed once over the whole context.
  virtual void prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) {}
  // Context tokens that the reader reads, in reading order. Default: all of them, as one segment.
  virtual SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                                MethodState& state);
  // The choice that this method's budget and segments make under another score [B, N] (-inf:
  // never): how the selectors (random, BM25, oracle) choose exactly as many tokens from the same
  // segments. Default: options.budget, or all.
  virtual SelectedTokens choose(const at::Tensor& score, const Batch& batch, MethodState& state);
  // false: the layer scores no keys of its own (it attends with another layer's probabilities), so
  // the backbone has no queries and keys there: AttentionInput::q and k are undefined.
  virtual bool scores_keys(int64_t layer) const { return true; }
  // Appends the chunk to the layer's state and attends: -> [B, H, T, d]. Default: dense causal
  // attention. A method that closes segments inside a layer does so for every segment but the
  // chunk's last, which stays open.
  virtual at::Tensor attend(const AttentionInput& input, MethodState& state);
  // Added to the residual after attention (cross-attention to retrieved chunks, ...). Default:
  // undefined, nothing.
  virtual at::Tensor extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                                    MethodState& state) {
    return {};
  }
  // After attention of one layer: shrink its state. Default: keep all.
  virtual void update_cache(const AttentionInput& input, MethodState& state) {}
  // After the last layer of a chunk: what needs all layers at once.
  virtual void end_segment(MethodState& state) {}
  // true: the reader hands over one segment a chunk, through all layers, before the next (a method
  // that compares layers before it evicts needs that); false: whole sequences a layer, which is
  // faster to train.
  virtual bool one_segment_per_chunk() const { return false; }

  // The choice of tokens as a policy that PPO trains (D5, D6); null where reward trains nothing.
  virtual SelectionPolicy* policy() { return nullptr; }

  // Terms beside the task loss; their counts in `batch` must be known before the backward pass
  // (loss_counts).
  virtual LossTerms losses(const Batch& batch, MethodState& state) { return {}; }
  virtual std::map<std::string, double> loss_counts(const Batch& batch,
                                                    const PassOptions& options) const {
    return {};
  }
  // Once after each optimiser step: moving averages, retraction.
  virtual void after_step(int64_t step) {}

  // Statistics over real data when a part is switched on: begin, passes with options.calibrating,
  // finish.
  virtual int64_t calibration_sequences(const PassOptions& before, const PassOptions& now) {
    return 0;
  }
  virtual void begin_calibration() {}
  virtual void finish_calibration() {}

  // Bytes kept for a batch of sequences (D24), and bytes kept once for all sequences beside the
  // weights (codebooks).
  virtual int64_t state_bytes(const MethodState& state) const;
  virtual int64_t shared_bytes() const { return 0; }
  // Analytic FLOP (a multiply-add is 2) of a token that the reader reads, over all layers, beside
  // the standard transformer's and without what AttentionStats counts; negative where the method
  // computes less.
  virtual double token_flops() const { return 0; }
  // true: collect_stats costs next to nothing (no explicit masks), so that an evaluation counts in
  // the pass that it times.
  virtual bool counts_without_masks() const { return false; }
  // Names for logs: temperature, tail energy, balance, ...
  virtual std::map<std::string, double> scalars() const { return {}; }
  const AttentionShape& shape() const { return shape_; }

 protected:
  AttentionShape shape_;
};

// The standard transformer's attention over a layer's exact entries; also what methods fall back to
// for a part that is off.
at::Tensor dense_attend(const AttentionInput& input, LayerState& layer, AttentionStats* stats);
// The statistics of dense attention where nothing was evicted, without masks: a row attends what
// stands at or before it.
void count_dense(const AttentionInput& input, AttentionStats& stats);

}  // namespace dsrsq
