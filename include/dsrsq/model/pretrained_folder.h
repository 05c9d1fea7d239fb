// A Hugging Face model folder: config.json and model.safetensors, or its shards under
// model.safetensors.index.json. Torch-free, memory-mapped.
//
// Families: LlamaForCausalLM (Llama, SmolLM2), MistralForCausalLM, Qwen2ForCausalLM,
// Qwen3ForCausalLM, GPT2LMHeadModel. What the backbone cannot do is an error that names it, never
// left out.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dsrsq/core/safetensors.h"
#include "dsrsq/model/config.h"

namespace dsrsq {

// Sizes and checksums of a folder's weights, in the form of core/manifest.h.
inline constexpr const char* kFolderManifest = "dsrsq_manifest.json";

// One parameter of the backbone and where it stands in the folder's tensors.
struct WeightMapping {
  std::string name;         // of TransformerImpl: "block_0_query"
  std::string source;       // "model.layers.0.self_attn.q_proj.weight"
  bool transposed = false;  // GPT-2's Conv1D holds [in, out]
  int64_t part = 0;         // where `parts` parameters stand one after the other in the source's
  int64_t parts = 1;        // output dimension (GPT-2's c_attn): which of them this is
};

class PretrainedFolder {
 public:
  // Opens the folder. Throws ConfigError where it holds no config.json or its model is of another
  // family or uses something unknown; CheckpointError on a missing shard or a damaged file.
  explicit PretrainedFolder(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const std::string& architecture() const { return architecture_; }
  // The architecture's fields (all but init, positions, conv_width, sinks, initial_deviation, which
  // are the run's).
  const TransformerConfig& config() const { return config_; }
  int64_t vocabulary_size() const { return config_.vocabulary_size; }
  std::string tokenizer() const { return folder_ + "/tokenizer.json"; }

  // Every parameter of the backbone but the convolution's taps.
  std::vector<WeightMapping> weights() const;
  // Throws CheckpointError that names tensor and folder where it is absent or of another shape.
  const TensorView& tensor(const std::string& source) const;
  // Throws CheckpointError that names a tensor which no parameter takes.
  void require_all_used() const;
  // Throws CheckpointError that names a file of weights which is not what dsrsq_manifest.json says.
  // Folders that others made have none, and only the layout of their files can be checked.
  void verify_checksums() const;

 private:
  void open_tensors();

  std::string folder_, architecture_;
  TransformerConfig config_;
  std::vector<std::string> shards_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;  // of the shards
  std::map<std::string, const TensorView*> tensors_;
  std::string prefix_;  // GPT-2 files are with and without "transformer."
};

// The mapping of a backbone of this architecture.
std::vector<WeightMapping> pretrained_weights(const std::string& architecture,
                                              const TransformerConfig& config,
                                              const std::string& prefix = "");
// The Hugging Face architecture that such a backbone is. Throws ConfigError that names what no
// family has.
std::string architecture_of(const TransformerConfig& config);
// Its config.json.
// Fills the architecture of `config` from the folder. Throws ConfigError where a key was set in the
// run's config to another value: `locations` knows which were.
void take_architecture(TransformerConfig& config, const PretrainedFolder& folder,
                       const ConfigLocations& locations);
std::string pretrained_config_json(const TransformerConfig& config, int64_t vocabulary_size,
                                   int64_t begin_id, int64_t end_id);

// The tensors of a checkpoint's model.safetensors as a Hugging Face folder: config.json and
// model.safetensors, which `transformers` loads; what is DSRSQ's own (its method's tensors, the
// convolution's taps) goes to dsrsq.safetensors. fp32. Both files' checksums go to
// dsrsq_manifest.json. Returns the names of the latter tensors.
// `folder` must exist. Throws ConfigError (architecture_of), CheckpointError.
std::vector<std::string> write_pretrained(const std::string& folder,
                                          const TransformerConfig& config,
                                          const SafetensorsFile& checkpoint, int64_t begin_id,
                                          int64_t end_id);

}  // namespace dsrsq
