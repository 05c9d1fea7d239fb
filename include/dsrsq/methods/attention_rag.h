// AttentionRAG (arXiv 2503.10720): the model itself prunes the text. For each chunk it begins the
// answer ("The person who signed it is"), and the token that it would say next, the anchor, attends
// what the answer rests on; sentences that hold the most attended tokens stay.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/methods/prompt_tokens.h"
#include "dsrsq/methods/selectors.h"
#include "dsrsq/model/shared_prompt.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct AttentionRagConfig {
  int64_t chunk = 300;
  int64_t tokens = 12;
  std::string instruction = "\nIf the text does not say, answer none.";
  void visit_fields(ConfigVisitor& v);
};

// The beginning of an answer to the question, ending where the answer's first word would stand. By
// rules over English question words (who, when, where, how many, what, which), as no other model
// writes it here; empty for yes-no questions and what no rule knows.
std::string answer_prefix(const std::string& question);

// The sentence of each token: a sentence ends behind . ! or ? where white space follows, and at
// line breaks. Spans as of Tokenizer::decode_with_spans; a token belongs where its last byte lies.
std::vector<int64_t> sentences(const std::string& text, const std::vector<Tokenizer::Span>& spans);

// What reads a chunk: [front][chunk][instruction][question][prefix], one anchor token decoded, its
// attention over the chunk summed over layers and heads. A chunk whose anchor is "none" or no word
// is dropped, unless all are. A sentence is worth its most attended token. With a budget the best
// sentences stay until it is full, the last one cut; without one, those that hold one of the
// `tokens` most attended tokens of their chunk. They are read in document order.
class AttentionRagMethod : public SelectorMethod, public SharedPrompt, public PromptTokens {
 public:
  // `prompt`: how an answer stands behind a question; `tokenizer`: the backbone's.
  AttentionRagMethod(std::shared_ptr<Method> reader, const AttentionRagConfig& config,
                     const PromptConfig& prompt, std::shared_ptr<const Tokenizer> tokenizer);
  std::string method_name() const override { return "attention_rag"; }
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;

  // What reading the chunks gives serves all budgets.
  Parting parting() const override { return Parting::kSelection; }

  // Of the chunks and their anchors.
  const std::vector<int64_t>& tokens_to_choose() const override { return spent_; }

  struct Text {
    std::vector<int32_t> context, question;
    std::string prefix;  // answer_prefix
  };
  // What reading the chunks of one context gave: [N] fp64 attention of each token, and which chunks
  // have an anchor.
  struct Reading {
    std::vector<double> attention;
    std::vector<bool> answers;  // by chunk
  };

 protected:
  // Chunks of all texts side by side.
  std::vector<Reading> read_chunks(const std::vector<Text>& texts, const LanguageModelView& model,
                                   at::Device device);
  at::Tensor score(const Batch& batch, const MethodState& state) const override { return {}; }

 private:
  SelectedTokens choose_sentences(const Batch& batch, const std::vector<Text>& texts,
                                  const std::vector<Reading>& readings, MethodState& state) const;
  std::vector<double> token_scores(const std::vector<int32_t>& context, const Reading& reading,
                                   bool budgeted) const;
  AttentionRagConfig own_;
  std::string opening_;  // of an answer: what stands before its text
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<int64_t> spent_;  // [B] of the last batch
};

}  // namespace dsrsq
