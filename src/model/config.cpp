#include "dsrsq/model/config.h"

#include "dsrsq/core/error.h"

namespace dsrsq {

void TransformerConfig::visit_fields(ConfigVisitor& v) {
  v.field("init", init, "random, or a folder of pretrained weights.",
          one_of({"random"}, {"pretrained"}));
  v.field("layers", layers, "Transformer blocks.", at_least(1));
  v.field("width", width, "D: width of the residual stream.", at_least(1));
  v.field("heads", heads, "H: query heads; divides width.", at_least(1));
  v.field("key_value_heads", key_value_heads, "H_kv: key-value heads; divides heads.", at_least(1));
  v.field("mlp_width", mlp_width, "Inner width of the MLP.", at_least(1));
  v.field("mlp", mlp, "Kind of MLP.", one_of({"swiglu", "gelu"}));
  v.field("norm", norm, "Kind of normalisation.", one_of({"rmsnorm", "layernorm"}));
  v.field("position_embedding", position_embedding, "How positions enter.",
          one_of({"rope", "learned", "none"}));
  v.field("rope_base", rope_base, "Base of RoPE's frequencies.", more_than(1));
  v.field("learned_positions", learned_positions, "Table size of learned positions.", at_least(1));
  v.field("positions", positions,
          "packed: selected tokens are numbered in a row; for models trained from scratch. "
          "original: they "
          "keep their places in the document; for RoPE-pretrained ones.",
          one_of({"packed", "original"}));
  v.field("conv_width", conv_width,
          "Taps of the causal depthwise convolution on the normed input of attention; 0: none.",
          between(0, 64));
  v.field("tie_embeddings", tie_embeddings, "Share the input and output embeddings.");
  v.field("sinks", sinks,
          "Begin tokens in front of every sequence, never evicted, outside the budget.",
          between(0, 64));
  v.field("initial_deviation", initial_deviation, "Standard deviation of initial weights.",
          more_than(0));
}

void TransformerConfig::validate(const ConfigLocations& locations) const {
  auto where = [&](const char* key) { return concat(locations.of(key), ": ", key, ": "); };
  if (width % heads != 0)
    throw ConfigError(concat(where("model.heads"), "expected a divisor of model.width = ", width,
                             ", got ", heads));
  if (heads % key_value_heads != 0)
    throw ConfigError(concat(where("model.key_value_heads"), "expected a divisor of model.heads = ",
                             heads, ", got ", key_value_heads));
  if (position_embedding == "rope" && head_width() % 2 != 0)
    throw ConfigError(concat(where("model.width"), "RoPE needs an even head width, got ", width,
                             " / ", heads, " = ", head_width()));
  if (position_embedding == "learned" && positions == "original")
    throw ConfigError(concat(
        where("model.positions"),
        "expected packed with learned positions (the table ends at model.learned_positions = ",
        learned_positions, "), got original"));
}

}  // namespace dsrsq
