// Text without end at constant memory (D17, D19). Tokens are read segment by segment; of each layer
// an exact window and a buffer of L latent pairs are carried on, detached, and nothing else grows.
// A question is answered from a copy of the state, so asking changes nothing of what is remembered.
//
// It is the reading that training does of a context that is read whole (a stage with selection:
// all): sinks, segments of rckv.segment, the question. A whole context given at once and the same
// tokens fed bit by bit give the same hidden states.
//
// With a history on disk (rckv.store: disk) the retriever searches every token that has left the
// exact window, and the best ones are read again in front of the question; the latents of tokens
// that were brought back are masked, so that each token is attended once (D13).
//
// Positions: tokens are numbered from the sinks on. No token ever stands at `position_range` or
// behind: before one would, everything but the sinks is moved towards them, exact keys by rotating
// them anew, latents where they are rotated as they are read; what would come to stand before the
// sinks' end stays there, as the oldest. So distances up to the range are true, larger ones read as
// the range. Learned positions cannot be moved: only new tokens are numbered by the rule.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dsrsq/data/history_store.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/model/generate.h"
#include "dsrsq/retriever/dsr.h"

namespace dsrsq {

struct TextStreamOptions {
  int64_t streams = 1;  // B, independent of each other
  // Tokens that positions span; 0: as many as are held (sinks, buffer, window and a segment),
  // of learned positions at most their table.
  int64_t position_range = 0;
  int64_t budget = 0;                    // tokens brought back for a question; 0: dsr.budget
  std::vector<int64_t> sample_ids = {};  // [B], of the reservoirs' noise; empty: 0, 1, ...
  // One a stream, of layout(model); empty: no history.
  std::vector<std::shared_ptr<HistoryStore>> histories = {};
};

// What a question took of the history, beside what was generated.
struct StreamReply {
  Generated generated;
  std::vector<std::vector<int64_t>> brought_back;  // [B] places in the stream, ascending
  int64_t scanned_tokens = 0, scanned_bytes = 0;
  double scan_seconds = 0;  // of the search alone; also in generated.select_seconds
};

// How the memory stands, over layers and streams.
struct StreamHealth {
  int64_t tokens = 0;    // read or waiting, of all documents
  int64_t segments = 0;  // read
  int64_t state_bytes = 0;
  int64_t latents = 0, latents_of = 0;    // held; tokens of the present documents that have left
                                          // the window, a layer
  double age_median = 0, age_oldest = 0;  // of latents, in tokens
  double key_norm = 0, value_norm = 0;    // largest, of latents
  double window_key_norm = 0;             // largest, of exact keys
  double priority_median = 0;             // of the reservoir: log w + noise + decay x rank
  double latent_mass = -1;  // share of attention on latents in the last segment that was observed;
                            // -1: none was
  bool finite = true;       // every number that is held
};

class TextStream {
 public:
  // Throws ConfigError where the model cannot read a stream: another method than dsrsq,
  // rckv.enabled: false, sqa.centroids: kmeans (which needs the whole text), a sentence encoder;
  // with histories also dsr.enabled: false and dsr.pool: rarity.
  TextStream(LanguageModel model, const TextStreamOptions& options = {});

  // What a history of this model's stream must be made with. Throws ConfigError as the constructor.
  static HistoryLayout history_layout(LanguageModel& model);

  // Takes tokens of each stream [B][any number]; reads every segment that is full. At most
  // segment - 1 tokens of a stream wait for more.
  void feed(const std::vector<std::vector<int32_t>>& tokens);
  void feed(const std::vector<int32_t>& tokens);  // where there is one stream
  // The document ends: what waits goes into the history, the memory of the stream is as in the
  // beginning. The history stays and is searched on.
  void end_document(int64_t stream = 0);

  // Answers a question a stream, [B] token lists as PromptConfig::question gives them; an empty one
  // asks nothing (nothing is generated). The stream itself does not change.
  StreamReply answer(const std::vector<std::vector<int32_t>>& questions,
                     const GenerateOptions& generate);

  // Truncated back-propagation: reads ids [B, T <= segment] with valid [B, T] (padding at the end)
  // as one segment, with gradient, and detaches what is carried on. Not to be mixed with tokens
  // that wait. -> final hidden [B, T, D] and the parts' loss terms.
  struct TrainedSegment {
    at::Tensor hidden;
    LossTerms losses;
  };
  TrainedSegment train_segment(const at::Tensor& ids, const at::Tensor& valid, int64_t step);
  // After an optimiser step and Method::after_step: latents become P_new P_old^T z (D11).
  void follow_projections();

  // The next segment that is read also fills StreamHealth::latent_mass; it costs masks.
  void observe_next_segment() { observe_ = true; }
  StreamHealth health() const;
  int64_t bytes() const;  // of all that is carried on, all streams (D24)
  int64_t tokens(int64_t stream = 0) const { return fed_[size_t(stream)]; }  // fed so far
  int64_t streams() const { return int64_t(fed_.size()); }
  const std::vector<std::shared_ptr<HistoryStore>>& histories() const { return options_.histories; }

  // All that is carried on, by name; what restore() takes. The history is not part of it: restore
  // drops what it holds beyond the state and warns where it holds less.
  std::map<std::string, at::Tensor> tensors() const;
  // Throws CheckpointError, naming `where`, for tensors of another model or number of streams.
  void restore(const std::map<std::string, at::Tensor>& tensors, const std::string& where);

 private:
  struct Segment {
    at::Tensor ids;    // [B, T]
    at::Tensor valid;  // [B, T] bool, padding at the end
    bool padded = false;
  };
  struct Found;
  void read_sinks();
  Segment waiting(bool full_only) const;
  at::Tensor context_inputs(const Segment& segment, at::Tensor& tail) const;
  at::Tensor read(const at::Tensor& inputs, const Segment& segment, bool closes,
                  MethodState& state) const;
  void read_segment(const Segment& segment);
  void append_history(const Segment& segment, const at::Tensor& inputs);
  void make_room(MethodState& state, const at::Tensor& tokens) const;
  void reset(int64_t stream);
  Found search(const std::vector<std::vector<int32_t>>& questions, StreamReply& reply) const;
  at::Tensor gather_inputs(const Found& found) const;
  void mask_latents(const Found& found, MethodState& state) const;

  LanguageModel model_;
  std::shared_ptr<TransformerImpl> backbone_;  // of the model
  std::shared_ptr<DsrsqMethod> method_;
  Dsr dsr_{nullptr};  // empty: dsr.enabled: false
  Rckv rckv_{nullptr};
  TextStreamOptions options_;
  int64_t segment_, sinks_, range_;
  at::Tensor table_mean_;
  MethodState state_, start_;  // start_: behind the sinks
  at::Tensor input_tail_;  // [B, w-1, D] what the retriever's convolution carries on; undefined:
                           // it has none
  std::vector<std::vector<int32_t>> waiting_;             // [B]
  std::vector<int64_t> fed_, document_, document_begin_;  // [B]; places in the stream
  int64_t segments_ = 0;
  bool observe_ = false;
  double latent_mass_ = -1;
  std::vector<at::Tensor> projections_;  // of keys and values, a layer each, as latents were made
};

}  // namespace dsrsq
