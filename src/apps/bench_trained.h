// `dsrsq-bench --suite trained`: opens the model and reads the text.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/bench/trained_suite.h"

namespace dsrsq {

// `model`: a run's folder, one of its checkpoints or a Hugging Face folder. Throws ConfigError,
// CheckpointError, DataError.
std::vector<ResultRecord> run_trained_suite_on(const std::string& model, const std::string& text,
                                               const std::string& device,
                                               const bench::TrainedSuiteOptions& options);

}  // namespace dsrsq
