// What a reader that stands still makes of a selection: the task score of PPO (D6). The draws share
// everything before the choice; only the selected tokens and the question are read again.
#pragma once

#include "dsrsq/model/transformer.h"
#include "dsrsq/text/tokenizer.h"
#include "dsrsq/train/ppo.h"

namespace dsrsq {

class ReaderReward : public RolloutScorer {
 public:
  // `state`: of `batch`, prepared (context_inputs are used, selected is not). One question a
  // sequence, with its answer and labels. All referenced objects must outlive the reward.
  ReaderReward(LanguageModel& model, const Tokenizer& tokenizer, const Batch& batch,
               const MethodState& state, const PpoConfig& config);

  at::Tensor score(const Rollouts& rollouts) override;
  at::Tensor score_without(const Rollouts& rollouts) override;

  // Sequences that were read so far, for the comparison at equal cost.
  int64_t reader_calls() const { return calls_; }
  // Of what was scored first, the draws: "ppo/evidence_recall" and "ppo/answer_recall" (shares of
  // the marked tokens that were selected; absent where none are marked), "ppo/without_gain" (share
  // of questions whose score was a likelihood because the whole context did not help).
  std::map<std::string, double> metrics() const;

 private:
  struct Answers {
    at::Tensor loss;  // [rows] fp64 mean cross-entropy of the answer's tokens
    at::Tensor f1;    // [rows] fp64; undefined where it is not paid
  };
  Answers answers_of(const Batch& batch, const at::Tensor& hidden) const;
  // Reads sequence `row[i]` of the batch with selection i.
  Answers read(const SelectedTokens& selected, const std::vector<int64_t>& row);
  at::Tensor task_score(const Answers& answers, const std::vector<int64_t>& row);
  void measure_references();

  LanguageModel& model_;
  const Tokenizer& tokenizer_;
  const Batch& batch_;
  const MethodState& state_;
  const PpoConfig& config_;
  at::Tensor none_, full_;  // [B] fp64: cross-entropy without and with the whole context
  int64_t calls_ = 0;
  double evidence_recall_ = -1, answer_recall_ = -1;
  double without_gain_ = 0;
};

}  // namespace dsrsq
