// Retrieval-augmented generation within the given text: it is cut into passages, a retriever ranks
// them against the question, and the reader reads the best ones that the budget pays for, the best
// one last. The reader's weights, prompt and cache are untouched.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/batch/encoder_input.h"
#include "dsrsq/methods/selectors.h"
#include "dsrsq/retriever/sentence_encoder.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct RagConfig {
  int64_t passage_words = 100;
  double stride = 0.5;
  int64_t passages = 0;
  std::string retriever = "bm25";
  std::string encoder;
  double bm25_k1 = 0.9;
  double bm25_b = 0.4;
  std::string order = "best_last";
  int64_t unit_tokens = 4000;
  void visit_fields(ConfigVisitor& v);
  void validate(const ConfigLocations& locations) const;  // throws ConfigError
};

// A piece of a context: its tokens [begin, end) and its text.
struct TextUnit {
  int64_t begin = 0, end = 0;
  std::string text;
};

// Passages of `words` words (runs without white space), each `stride` of them behind the one
// before; the last one ends with the text. `spans`: the range of `text` that each token stands for
// (Tokenizer::decode_with_spans). A token belongs to the word in which its last byte lies, white
// space to the word before it.
std::vector<TextUnit> cut_passages(const std::string& text,
                                   const std::vector<Tokenizer::Span>& spans, int64_t words,
                                   double stride);

// Ranks texts against a question: BM25, or the cosine of a sentence encoder.
class PassageRanker {
 public:
  // Opens rag.encoder where rag.retriever is dense.
  explicit PassageRanker(const RagConfig& config);
  // Higher is better.
  std::vector<double> scores(const std::vector<std::string>& passages, const std::string& question,
                             at::Device device) const;

 private:
  RagConfig config_;
  std::unique_ptr<EncoderCollator> collator_;
  SentenceEncoder encoder_{nullptr};
};

class RagMethod : public SelectorMethod {
 public:
  // `tokenizer`: the backbone's.
  RagMethod(std::shared_ptr<Method> reader, const RagConfig& config,
            std::shared_ptr<const Tokenizer> tokenizer);
  std::string method_name() const override { return "rag"; }
  // The best units' tokens until the budget is full, each token once, where the best unit that
  // holds it stands; the last unit is cut.
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;

 protected:
  struct RankedUnit {
    int64_t begin = 0, end = 0;  // tokens
    double score = 0;
  };
  // The units of sequence b, in any order.
  virtual std::vector<RankedUnit> units(const Batch& batch, int64_t b) const;
  at::Tensor score(const Batch& batch, const MethodState& state) const override { return {}; }
  // Ids of sequence b's context, without padding.
  std::vector<int32_t> context_ids(const Batch& batch, int64_t b) const;

  RagConfig rag_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  PassageRanker ranker_;
};

}  // namespace dsrsq
