// From stored records to tensors. A sequence is a document and one or more of its questions:
//   the retriever sees `context` and `questions`; the reader reads [sinks][selected context][tail],
//   and the tail is question, answer, question, answer ... - so the retriever never sees an answer.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/batch/encoder_input.h"
#include "dsrsq/batch/text_passages.h"
#include "dsrsq/core/config.h"
#include "dsrsq/data/store.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct PromptConfig {
  std::string prefix;
  std::string question = "\nQuestion: {question}\nAnswer:";
  std::string answer = " {answer}";
  bool end_answer = true;
  void visit_fields(ConfigVisitor& v);
  void validate(
      const ConfigLocations& locations) const;  // throws ConfigError where a placeholder is missing
};

// The pattern with `value` in the placeholder's place, as tokens. Tokens that the pattern itself
// names ("<|im_end|>") become their ids; in the value they stay text: data must not steer the
// model.
std::vector<int32_t> encode_template(const Tokenizer& tokenizer, const std::string& pattern,
                                     const std::string& placeholder = "",
                                     const std::string& value = "");

struct Batch {
  at::Tensor context;          // [B, N] int64, 0 where padded
  at::Tensor context_valid;    // [B, N] bool
  at::Tensor passage;          // [B, N] int64, of each token, from 0 (text_passages.h); -1: padding
  at::Tensor questions;        // [B, Q, T] int64: what the retriever reads
  at::Tensor questions_valid;  // [B, Q, T] bool
  at::Tensor evidence;         // [B, Q, N] bool: tokens that support the answer of each question
  at::Tensor answer_tokens;    // [B, Q, N] bool: tokens where the answer stands
  at::Tensor tail;             // [B, T] int64, padded at the end
  at::Tensor tail_valid;       // [B, T] bool
  at::Tensor labels;  // [B, T] int64: the token that the tail's position t is to predict, or -100
  at::Tensor
      label_question;    // [B, T] int64: the question that a labelled position answers, else -1
  EncoderInput encoder;  // of a sentence encoder; not defined where the run has none
  std::vector<int64_t>
      sample_ids;  // [B] index of the first record: names the sequence's noise (D21)
  std::vector<std::vector<StoredRecord>> records;  // [B][questions]

  int64_t size() const { return context.size(0); }
  int64_t label_tokens() const;
  int64_t questions_with_evidence() const;
  Batch to(at::Device device) const;
  // The sequences at `index`, in that order; one may stand several times.
  Batch rows(const std::vector<int64_t>& index) const;
};

// `with_answers`: training, the tail holds the answers and labels; else the tail ends where the
// (one) answer begins. A question with several answers trains on the first. Unanswerable questions
// train on the end token alone. maximum_context: longer documents are cut there (0: never); the
// caller logs how many.
class Collator {
 public:
  // `encoder` fills Batch::encoder; null where the run has no sentence encoder.
  Collator(const Store& store, const Tokenizer& tokenizer, const PromptConfig& prompt,
           int64_t maximum_context, std::shared_ptr<const EncoderCollator> encoder = nullptr);
  // One vector of record indices a sequence, all of one document.
  Batch collate(const std::vector<std::vector<int64_t>>& sequences, bool with_answers) const;

 private:
  const Store& store_;
  const Tokenizer& tokenizer_;
  PromptConfig prompt_;
  int64_t maximum_context_;
  TextPassages passages_;
  std::shared_ptr<const EncoderCollator> encoder_;
};

// A batch of questions about texts that no store holds; without answers. The sample id is the
// place in the list.
struct TextQuestion {
  std::string context, question;
};
Batch collate_text(const Tokenizer& tokenizer, const PromptConfig& prompt,
                   const std::vector<TextQuestion>& sequences,
                   const EncoderCollator* encoder = nullptr);

}  // namespace dsrsq
