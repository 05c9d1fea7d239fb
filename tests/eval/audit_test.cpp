#include "dsrsq/eval/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/methods/snapkv.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class AuditTest : public ::testing::Test {
 protected:
  AuditTest() : config_(testing::tiny_config(facts_)) {
    config_.method = "standard";
    config_.model.initial_deviation = 0.3;
    config_.eviction.window = 4;
    config_.razor.search_tokens = 20;
    config_.gca.chunk = 8;
    config_.gca.chunks_per_query = 2;
    config_.gca.window = 16;
    config_.gca.output_start = "normal";
  }
  // The names of the checks that fail.
  std::vector<std::string> failures(std::shared_ptr<Method> method, const AuditOptions& options) {
    auto own = make_model(config_, facts_.tokenizer());
    if (!method) method = own->shared_method();
    LanguageModel model(own->backbone(), std::move(method), facts_.tokenizer().begin_id());
    LoaderOptions loading;
    loading.split = "test";
    loading.shuffle = false;
    loading.batch_size = 3;
    Loader loader(facts_.store_path(), facts_.tokenizer(), config_.prompt, loading);
    std::vector<std::string> failed;
    for (const auto& finding : audit_method(model, loader, options)) {
      if (!finding.passed) failed.push_back(finding.check);
      EXPECT_FALSE(finding.detail.empty());
    }
    return failed;
  }

  testing::TinyFacts facts_;
  RunConfig config_;
};

TEST_F(AuditTest, EveryRegisteredMethodPasses) {
  auto reader = make_model(config_, facts_.tokenizer())->shared_method();
  for (const auto& entry : method_table()) {
    auto run = config_;
    run.dsrsq.sqa.enabled = false;  // an untrained codebook is empty
    AuditOptions options;
    options.budget = entry.budget;
    options.oracle = entry.oracle;
    EXPECT_THAT(failures(entry.make(run, reader), options), IsEmpty()) << entry.name;
    if (entry.budget != Budget::kBytes) continue;
    options.query_aware = run.eviction.query_aware = true;
    EXPECT_THAT(failures(entry.make(run, reader), options), IsEmpty())
        << entry.name << ", query-aware";
  }
}

// The mean over all of a chunk's tokens, those behind a token among them.
struct SeesTheFuture : Method {
  using Method::Method;
  std::string method_name() const override { return "sees_the_future"; }
  at::Tensor extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                            MethodState&) override {
    return residual.mean(1, true).expand_as(residual) * 0.01;
  }
};

TEST_F(AuditTest, APlantedLeakFails) {
  auto failed = failures(std::make_shared<SeesTheFuture>(config_.model.attention_shape()), {});
  EXPECT_THAT(failed, ::testing::Contains("prefix invariance"));
  EXPECT_THAT(failed, ::testing::Contains("decode"));
}

TEST_F(AuditTest, AMethodThatSeesLabelsFailsUnlessItIsAnOracle) {
  auto reader = make_model(config_, facts_.tokenizer())->shared_method();
  AuditOptions options;
  options.budget = Budget::kTokens;
  auto oracle = [&] { return find_method("oracle_evidence").make(config_, reader); };
  EXPECT_THAT(failures(oracle(), options), ElementsAre("labels"));
  options.oracle = true;
  EXPECT_THAT(failures(oracle(), options), IsEmpty());
}

struct KeepsMore : SnapKvMethod {
  using SnapKvMethod::SnapKvMethod;
  at::Tensor capacities(int64_t layer, const EvictionMemory& memory) const override {
    auto longest = at::tensor(memory.context, at::kLong).unsqueeze(1);
    return at::minimum(SnapKvMethod::capacities(layer, memory) + 8, longest);
  }
};
// Within its budget by its layers, but for what it hides elsewhere.
struct HidesEntries : SnapKvMethod {
  using SnapKvMethod::SnapKvMethod;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    if (input.segments.size() > 1) hidden_.push_back(input.k);
    return SnapKvMethod::attend(input, state);
  }
  int64_t state_bytes(const MethodState& state) const override {
    int64_t total = SnapKvMethod::state_bytes(state);
    for (const auto& k : hidden_) total += int64_t(k.nbytes());
    return total;
  }
  std::vector<at::Tensor> hidden_;
};

TEST_F(AuditTest, APlantedOverrunFails) {
  AuditOptions options;
  options.budget = Budget::kBytes;
  EXPECT_THAT(failures(std::make_shared<KeepsMore>(config_.eviction, config_.model), options),
              ElementsAre("budget 5%", "budget 12%", "budget 50%"));
  EXPECT_THAT(failures(std::make_shared<HidesEntries>(config_.eviction, config_.model), options),
              ::testing::Contains("budget 50%"));
}

// Adds the residual that it saw first to all that come later.
struct RemembersSamples : Method {
  using Method::Method;
  std::string method_name() const override { return "remembers_samples"; }
  at::Tensor extra_sublayer(const AttentionInput&, const at::Tensor& residual,
                            MethodState&) override {
    auto before = seen_;
    seen_ = residual.narrow(1, 0, 1).narrow(0, 0, 1).clone();
    return before.defined() ? before.expand_as(residual) * 0.01 : at::Tensor();
  }
  at::Tensor seen_;
};

TEST_F(AuditTest, AStateThatIsNotResetFails) {
  auto failed = failures(std::make_shared<RemembersSamples>(config_.model.attention_shape()), {});
  EXPECT_THAT(failed, ::testing::Contains("sample isolation, after another"));
}

TEST_F(AuditTest, TheReportSaysWhatFailed) {
  auto report = audit_report("m", {{"labels", true, "nothing"}, {"budget 5%", false, "twice"}});
  EXPECT_EQ(report,
            "audit of m: 1 FAILED\n  passed  labels: nothing\n  FAILED  budget 5%: twice\n");
}

}  // namespace
}  // namespace dsrsq
