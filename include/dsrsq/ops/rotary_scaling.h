// How a model pretrained on short text was stretched to longer one (`rope_scaling` of Hugging Face
// configs). linear: arXiv 2306.15595; llama3: Llama 3.1, arXiv 2407.21783; yarn: arXiv 2309.00071.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/core/config.h"

namespace dsrsq::ops {

struct RotaryScaling {
  std::string kind = "none";
  double factor = 1;                  // target / original length
  int64_t original_positions = 8192;  // llama3, yarn
  double low_frequency_factor = 1;    // llama3
  double high_frequency_factor = 4;   // llama3
  double beta_fast = 32;              // yarn
  double beta_slow = 1;               // yarn
  double attention_factor = 0;        // yarn; 0: 0.1 ln(factor) + 1
  void visit_fields(ConfigVisitor& v);
};

}  // namespace dsrsq::ops
