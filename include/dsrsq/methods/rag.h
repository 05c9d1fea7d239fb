// Retrieval-augmented generation within the given text: it is cut into passages, a retriever ranks
// them against the question, and the reader reads the best ones that the budget pays for, the best
// one last. The reader's weights and cache are untouched.
//
// Two ways to spend more tokens on a question (Yue et al., arXiv 2410.04343): DRAG, where answered
// questions with their passages stand in front (rag.demonstrations), and IterDRAG, where the model
// asks follow-up questions, each of which brings passages and an intermediate answer, before the
// answer is read off (rag.iterations).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/batch/encoder_input.h"
#include "dsrsq/methods/prompt_tokens.h"
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
  int64_t demonstrations = 0;
  int64_t demonstration_passages = 1;
  std::string demonstration_end = "\n\n";
  int64_t iterations = 0;
  int64_t iteration_passages = 1;
  int64_t iteration_tokens = 24;
  std::string follow_up = "\nFollow up:";
  std::string intermediate_answer = "\nIntermediate answer:";
  std::string final_answer = "\nSo the final answer is:";
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

// Where rag.demonstrations come from: the first sequences of the training split, in the prompt's
// words.
struct RagExamples {
  std::string data;  // a data set (HDF5); empty: there are none
  PromptConfig prompt;
};

class RagMethod : public SelectorMethod, public PromptTokens {
 public:
  // `tokenizer`: the backbone's. `examples` is opened when the first batch is read.
  RagMethod(std::shared_ptr<Method> reader, const RagConfig& config,
            std::shared_ptr<const Tokenizer> tokenizer, RagExamples examples = {});
  std::string method_name() const override { return "rag"; }
  // [demonstrations][passages][follow-ups]: of the passages the best units' tokens until the budget
  // is full, each token once, where the best unit that holds it stands; the last unit is cut. What
  // is no token of the context has index -1, and state.selected_inputs holds its embedding.
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;
  // Of the iterations' prompts and what was written behind them.
  const std::vector<int64_t>& tokens_to_choose() const override { return spent_; }

 protected:
  struct RankedUnit {
    int64_t begin = 0, end = 0;  // tokens
    double score = 0;
  };
  // The units of sequence b, scored against `query`, in any order.
  virtual std::vector<RankedUnit> units(const Batch& batch, int64_t b,
                                        const std::string& query) const;
  at::Tensor score(const Batch& batch, const MethodState& state) const override { return {}; }
  // Ids of sequence b's context, without padding.
  std::vector<int32_t> context_ids(const Batch& batch, int64_t b) const;

  RagConfig rag_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  PassageRanker ranker_;

 private:
  // What the reader will read of one sequence.
  struct Text {
    std::vector<std::vector<int64_t>> parts;  // context tokens, the best unit first
    std::vector<bool> taken;                  // [N]
    int64_t room = 0;                         // tokens that the budget still pays for
    std::vector<int64_t> follow_ups;          // ids
    std::vector<int64_t> reading_order(bool document) const;
  };
  std::vector<RankedUnit> best_first(const Batch& batch, int64_t b, const std::string& query) const;
  static void take(const RankedUnit& unit, Text& text);
  const std::vector<int64_t>& demonstrations();
  // IterDRAG: fills follow_ups and adds passages (rag_iterations.cpp).
  void iterate(const Batch& batch, const LanguageModelView& model, std::vector<Text>& texts);
  std::vector<std::vector<int64_t>> prompts(const Batch& batch, const LanguageModelView& model,
                                            const std::vector<Text>& texts,
                                            const std::vector<int64_t>& open);
  void retrieve(const Batch& batch, const std::vector<int64_t>& open,
                const std::vector<std::vector<int32_t>>& questions, std::vector<Text>& texts) const;
  std::vector<std::vector<int32_t>> write(std::vector<std::vector<int64_t>> prompts,
                                          const std::vector<int64_t>& open,
                                          const LanguageModelView& model, at::Device device);
  std::vector<bool> asks_on(const std::vector<std::vector<int64_t>>& prompts,
                            const std::vector<int64_t>& open, const LanguageModelView& model,
                            at::Device device);
  SelectedTokens assemble(const Batch& batch, const LanguageModelView& model,
                          const std::vector<Text>& texts, MethodState& state);

  RagExamples examples_;
  std::optional<std::vector<int64_t>> demonstrations_;  // ids
  std::vector<int64_t> spent_;                          // [B] of the last batch
};

}  // namespace dsrsq
