#include "dsrsq/ops/rotary_scaling.h"

namespace dsrsq::ops {

void RotaryScaling::visit_fields(ConfigVisitor& v) {
  v.field("kind", kind,
          "none; linear: all positions divided by factor; llama3: low frequencies divided; yarn: a "
          "ramp over frequencies, with sharper attention. As the pretrained model has it.",
          one_of({"none", "linear", "llama3", "yarn"}));
  v.field("factor", factor, "Target length over original length.", at_least(1));
  v.field("original_positions", original_positions, "llama3, yarn: length of pretraining.",
          at_least(1));
  v.field("low_frequency_factor", low_frequency_factor,
          "llama3: wavelengths over original_positions / this are divided by factor.",
          more_than(0));
  v.field("high_frequency_factor", high_frequency_factor,
          "llama3: wavelengths under original_positions / this stay.", more_than(0));
  v.field("beta_fast", beta_fast, "yarn: frequencies of more turns stay.", more_than(0));
  v.field("beta_slow", beta_slow, "yarn: frequencies of fewer turns are divided by factor.",
          more_than(0));
  v.field("attention_factor", attention_factor,
          "yarn: multiplies queries and keys; 0: 0.1 ln(factor) + 1.", at_least(0));
}

}  // namespace dsrsq::ops
