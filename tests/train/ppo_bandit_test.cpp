// PPO on bandits whose best subset is known: nothing of a reader, all of the policy.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <deque>
#include <numeric>

#include "dsrsq/ops/noise.h"
#include "dsrsq/retriever/dsr_policy.h"
#include "dsrsq/train/ppo.h"

namespace dsrsq {
namespace {

constexpr int64_t kWidth = 64;

// One question over N tokens. The relevant ones carry a little of the question's vector, by which
// the untrained retriever finds some of them, and more of a vector that they share, which is to be
// learnt.
struct Bandit {
  Bandit(int64_t tokens, int64_t relevant_tokens, int64_t seed) {
    constexpr double kLikeness = 0.3, kShared = 0.7;
    auto draw = [&](const char* name, at::IntArrayRef shape) {
      return ops::initial_normal(name, shape, 1.0, uint64_t(seed));
    };
    auto question = draw("bandit.question", {1, 1, 1, kWidth});
    auto context = draw("bandit.context", {1, tokens, kWidth});
    auto order = draw("bandit.order", {tokens}).argsort();
    relevant = order.narrow(0, 0, relevant_tokens);
    context.index_put_({at::zeros({relevant_tokens}, at::kLong), relevant},
                       context.index({torch::indexing::Slice(), relevant}).squeeze(0) +
                           kLikeness * question.view({1, kWidth}) +
                           kShared * draw("bandit.shared", {1, kWidth}));
    input.context = context;
    input.context_valid = at::ones({1, tokens}, at::kBool);
    input.questions = question;
    input.question_weights = at::ones({1, 1, 1});
    input.questions_valid = at::ones({1, 1, 1}, at::kBool);
    input.table_mean = at::zeros({kWidth});
    input.sample_ids = {seed};
  }
  PolicyInput input;
  at::Tensor relevant;
};

// The score is the share of relevant tokens that were picked.
class ShareOfRelevant : public RolloutScorer {
 public:
  explicit ShareOfRelevant(const Bandit& bandit)
      : relevant_(at::zeros({bandit.input.context.size(1)}, at::kDouble)) {
    relevant_.index_fill_(0, bandit.relevant, 1.0 / double(bandit.relevant.numel()));
  }
  at::Tensor score(const Rollouts& rollouts) override {
    return (worth(rollouts) * rollouts.selected.mask).sum(1);
  }
  at::Tensor score_without(const Rollouts& rollouts) override {
    auto of_slot = worth(rollouts) * rollouts.selected.mask;
    auto in_group = at::zeros({of_slot.size(0), rollouts.groups}, at::kDouble)
                        .scatter_add_(1, rollouts.group_of_slot.clamp_min(0), of_slot);
    return score(rollouts).unsqueeze(1) - in_group;
  }

 private:
  at::Tensor worth(const Rollouts& rollouts) const {
    return relevant_.index_select(0, rollouts.selected.index.reshape({-1}))
        .view(rollouts.selected.index.sizes());
  }
  at::Tensor relevant_;
};

struct Outcome {
  double first_recall = 0;  // of the untrained retriever's draws
  int64_t updates = 0;      // rollout batches until the mean recall of ten in a row reaches .95
};

Outcome train(const Bandit& bandit, int64_t budget, const std::string& credit, int64_t most,
              int64_t seed) {
  DsrConfig config;
  config.width = 64;
  config.budget = budget;
  config.complexity = "none";
  config.input = "embedding";
  config.start = "equal";
  config.temperature = 0.1;
  at::set_num_threads(1);  // small tensors: more threads only wait for each other
  Dsr dsr(config, kWidth, seed);
  DsrPolicy policy(dsr, 1 << 20, seed);
  PpoConfig ppo_config;
  ppo_config.credit = credit;
  std::vector<NamedParameter> parameters;
  for (const auto& item : dsr->named_parameters()) {
    NamedParameter parameter;
    parameter.name = item.key();
    parameter.tensor = item.value();
    parameters.push_back(std::move(parameter));
  }
  Ppo ppo(ppo_config, policy, parameters, seed, at::kCPU);
  ShareOfRelevant scorer(bandit);
  constexpr size_t kRecent = 10;
  std::deque<double> recent;
  Outcome outcome;
  for (int64_t step = 0; step < most; ++step) {
    auto recall = ppo.step(bandit.input, scorer, step).at("ppo/task_score");
    if (step == 0) outcome.first_recall = recall;
    recent.push_back(recall);
    if (recent.size() > kRecent) recent.pop_front();
    outcome.updates = step + 1;
    auto mean = std::accumulate(recent.begin(), recent.end(), 0.0) / double(recent.size());
    if (recent.size() == kRecent && mean >= 0.95) return outcome;
  }
  outcome.updates = most + 1;  // not reached
  return outcome;
}

class PpoBandit : public ::testing::TestWithParam<int64_t> {};

TEST_P(PpoBandit, FindsTheBestSubset) {
  Bandit bandit(512, 8, GetParam());
  auto outcome = train(bandit, 32, "shared", 250, GetParam());
  EXPECT_LT(outcome.first_recall, 0.45);
  EXPECT_LE(outcome.updates, 250);
  RecordProperty("updates", int(outcome.updates));
}

// One advantage for 512 picks says little of any of them; what each adds says which ones matter.
TEST_P(PpoBandit, LeaveOneOutCreditLearnsALargeBudgetFaster) {
  Bandit bandit(4096, 16, GetParam());
  auto left_out = train(bandit, 512, "span_loo", 100, GetParam());
  auto shared = train(bandit, 512, "shared", 2 * left_out.updates, GetParam());
  EXPECT_LT(left_out.first_recall, 0.7);
  EXPECT_LE(left_out.updates, 100);
  EXPECT_GE(shared.updates, 2 * left_out.updates);
  RecordProperty("updates", int(left_out.updates));
}

INSTANTIATE_TEST_SUITE_P(Seeds, PpoBandit, ::testing::Values(0, 1, 2));

}  // namespace
}  // namespace dsrsq
