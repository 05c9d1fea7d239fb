// The curriculum (D16): loss weights that ramp up, and stages.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/model/method.h"

namespace dsrsq {

struct LossWeights {
  double task = 1.0;
  double retrieval = 0.5;
  double compression = 0.3;
  double compute = 0.2;
  void visit_fields(ConfigVisitor& v);
};

struct LossConfig {
  LossWeights weight;
  std::string ramp = "linear";
  int64_t ramp_steps = 1000;
  std::string task_tokens = "answer";
  std::string retrieval_form = "softmax";
  std::string retrieval_target = "evidence";
  std::string retrieval_negatives = "sequence";
  double compute_tokens = 1.0;    // beta_1
  double compute_clusters = 1.0;  // beta_2
  void visit_fields(ConfigVisitor& v);
};

// lambda_i at a step: the weight times the ramp for all but the task term (Eq. L_total,
// section 3.5); compute also times beta_1.
std::map<std::string, double> loss_weights(const LossConfig& config, int64_t step);

// One stage of training. What a stage does not say is as the model's config has it.
struct StageConfig {
  std::string name = "joint";
  int64_t steps = 1000;
  std::string data;  // a data set of its own (length curriculum); empty: data.train
  bool sqa = true;
  bool rckv = true;
  int64_t budget = 0;
  std::string selection = "config";
  bool force_evidence = false;
  double random_rest = 0;
  int64_t clusters_per_query = 0;
  bool sample = false;
  bool ppo = false;
  double buffer_from = 1.0;
  double buffer_to = 1.0;
  std::string retrieval_form;  // these three: empty is loss.*
  std::string retrieval_target;
  std::string retrieval_negatives;
  std::vector<std::string> frozen;
  void visit_fields(ConfigVisitor& v);
};

// Where a step falls.
struct StagePosition {
  size_t index = 0;
  int64_t first_step = 0;  // of the stage
};
StagePosition stage_at(const std::vector<StageConfig>& stages, int64_t step);
int64_t total_steps(const std::vector<StageConfig>& stages);

// The pass of a training step of the stage that began at `first_step`. Whether the buffer replaces
// true keys in this step is a coin of (seed, step).
PassOptions stage_options(const StageConfig& stage, int64_t first_step, int64_t step,
                          const LossConfig& loss, int64_t seed);

}  // namespace dsrsq
