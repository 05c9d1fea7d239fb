// A BERT-family sentence encoder (BERT, arXiv 1810.04805; pooled as in Sentence-BERT, arXiv
// 1908.10084) of a Hugging Face folder: word pieces in, one state a piece and one unit vector a
// text out. A DSR can start from one (`dsr.encoder`); passages are ranked by the cosine of `embed`.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

struct SentenceEncoderConfig {
  int64_t vocabulary_size = 0;
  int64_t width = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t mlp_width = 0;
  int64_t positions = 0;    // the longest text, in word pieces
  int64_t token_types = 2;  // segments; texts are of the first
  double norm_epsilon = 1e-12;
  std::string activation = "gelu";  // gelu, gelu_tanh, relu
};

// config.json of a folder whose architecture is BertModel. Throws ConfigError that names the file
// and the key; another architecture is one.
SentenceEncoderConfig read_sentence_encoder_config(const std::string& folder);

class SentenceEncoderImpl : public torch::nn::Module {
 public:
  // Opens the folder: config.json, model.safetensors (fp32, fp16 or bf16; weights become fp32) and
  // its tokenizer, which must have no more ids than the embeddings have rows. Throws ConfigError,
  // DataError (tokenizer), CheckpointError that names a missing tensor, a shape that config.json
  // does not say, or a tensor that belongs to nothing.
  explicit SentenceEncoderImpl(const std::string& folder);

  // States of word pieces [B, T, W] fp32 of ids int64 [B, T] (with [CLS] in front and [SEP]
  // behind), valid [B, T] bool: padding is attended by none and has states of zero; a row may be
  // all padding. T is at most config().positions.
  at::Tensor states(const at::Tensor& ids, const at::Tensor& valid) const;
  // Unit-normalised mean of the valid states [B, W]; zero for a row of padding.
  at::Tensor embed(const at::Tensor& ids, const at::Tensor& valid) const;
  const SentenceEncoderConfig& config() const { return config_; }

 private:
  struct Linear {
    at::Tensor weight, bias;
  };
  struct Layer {
    Linear query, key, value, output, attention_norm, up, down, mlp_norm;
  };
  // A parameter of this shape; remembered with the name of its tensor in the folder.
  at::Tensor weight(const std::string& source, at::IntArrayRef shape);
  Linear linear(const std::string& source, int64_t out, int64_t in);
  Linear norm(const std::string& source);
  void load(const std::string& folder);
  at::Tensor normalise(const at::Tensor& x, const Linear& norm) const;
  at::Tensor run_layer(const at::Tensor& x, const Layer& layer, const at::Tensor& mask) const;
  at::Tensor run(const at::Tensor& ids, const at::Tensor& valid) const;

  SentenceEncoderConfig config_;
  std::vector<std::pair<std::string, at::Tensor>> sources_;
  at::Tensor words_, positions_, token_types_;
  Linear embedding_norm_;
  std::vector<Layer> layers_;
};
TORCH_MODULE(SentenceEncoder);

}  // namespace dsrsq
