#include "dsrsq/model/config.h"

#include "dsrsq/core/error.h"

namespace dsrsq {

void TransformerConfig::visit_architecture(ConfigVisitor& v) {
  v.field("layers", layers, "Transformer blocks.", at_least(1));
  v.field("width", width, "D: width of the residual stream.", at_least(1));
  v.field("heads", heads, "H: query heads; divides width unless head_width is given.", at_least(1));
  v.field("key_value_heads", key_value_heads, "H_kv: key-value heads; divides heads.", at_least(1));
  v.field("head_width", own_head_width, "d: width of a head; 0: width / heads.", at_least(0));
  v.field("mlp_width", mlp_width, "Inner width of the MLP.", at_least(1));
  v.field("mlp", mlp, "Kind of MLP; gelu_tanh: GELU by the approximation of GPT-2.",
          one_of({"swiglu", "gelu", "gelu_tanh"}));
  v.field("norm", norm, "Kind of normalisation.", one_of({"rmsnorm", "layernorm"}));
  v.field("norm_epsilon", norm_epsilon, "Added to the variance.", more_than(0));
  v.field("query_key_norm", query_key_norm,
          "RMSNorm of every head's query and key before RoPE, as Qwen3.");
  v.field("biases", biases,
          "Linear maps with a bias. qkv: queries, keys, values, as Qwen2; attention: and the "
          "output; all: and the MLP, as GPT-2.",
          one_of({"none", "qkv", "attention", "all"}));
  v.field("position_embedding", position_embedding, "How positions enter.",
          one_of({"rope", "learned", "none"}));
  v.field("rope_base", rope_base, "Base of RoPE's frequencies.", more_than(1));
  v.group("rope_scaling", rope_scaling, "RoPE beyond the length of pretraining.");
  v.field("learned_positions", learned_positions, "Table size of learned positions.", at_least(1));
  v.field("tie_embeddings", tie_embeddings, "Share the input and output embeddings.");
  v.field("vocabulary_size", vocabulary_size,
          "Rows of the embedding; 0: as many as the tokenizer has ids.", at_least(0));
}

void TransformerConfig::visit_fields(ConfigVisitor& v) {
  v.field(
      "init", init,
      "random, or a Hugging Face folder (config.json, safetensors), from which the architecture is "
      "taken too.");
  visit_architecture(v);
  v.field("positions", positions,
          "packed: selected tokens are numbered in a row; for models trained from scratch. "
          "original: they "
          "keep their places in the document; for RoPE-pretrained ones.",
          one_of({"packed", "original"}));
  v.field("conv_width", conv_width,
          "Taps of the causal depthwise convolution on the normed input of attention; 0: none.",
          between(0, 64));
  v.field("sinks", sinks,
          "Begin tokens in front of every sequence, never evicted, outside the budget.",
          between(0, 64));
  v.field("initial_deviation", initial_deviation, "Standard deviation of initial weights.",
          more_than(0));
}

void TransformerConfig::validate(const ConfigLocations& locations) const {
  auto where = [&](const char* key) { return concat(locations.of(key), ": ", key, ": "); };
  if (own_head_width == 0 && width % heads != 0)
    throw ConfigError(concat(where("model.heads"), "expected a divisor of model.width = ", width,
                             ", got ", heads));
  if (heads % key_value_heads != 0)
    throw ConfigError(concat(where("model.key_value_heads"), "expected a divisor of model.heads = ",
                             heads, ", got ", key_value_heads));
  if (position_embedding == "rope" && head_width() % 2 != 0)
    throw ConfigError(concat(where("model.width"), "RoPE needs an even head width, got ", width,
                             " / ", heads, " = ", head_width()));
  if (rope_scaling.kind == "llama3" &&
      rope_scaling.high_frequency_factor <= rope_scaling.low_frequency_factor)
    throw ConfigError(
        concat(where("model.rope_scaling.high_frequency_factor"),
               "expected more than low_frequency_factor = ", rope_scaling.low_frequency_factor,
               ", got ", rope_scaling.high_frequency_factor));
  if (position_embedding == "learned" && positions == "original")
    throw ConfigError(concat(
        where("model.positions"),
        "expected packed with learned positions (the table ends at model.learned_positions = ",
        learned_positions, "), got original"));
}

}  // namespace dsrsq
