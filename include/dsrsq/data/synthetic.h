// Generated recall tasks with a known answer, seeded: what separates memory and retrieval methods
// at small sizes.
//   facts:     " the ATTRIBUTE of NAME is V1 V2 ." among filler, each in its own slot of
//              context_tokens / facts tokens; each name carries two facts, so that the name alone
//              or the attribute alone does not answer; questions " ask ATTRIBUTE of NAME ?", answer
//              "V1 V2". The asked fact has a same-name distractor always and, in validation and
//              test, a same-attribute distractor always
//   key_value: records " KEY : V1 V2 ;" without filler (5 x facts = context_tokens); questions
//              " ask KEY ?"
//   needle:    one fact among filler (facts = 1, question_pairs = 0: there is no partner)
//
// Two facts (task facts, two_fact_share): with that probability and independently, a question is
//   " ask ATTR1 of NAME1 and ATTR2 of NAME2 ?" with NAME1 != NAME2, answer "V1 V2 U1 U2":
// the values of the first fact, then of the second, so at least four tokens are to be decoded.
// Evidence and answer_spans are two spans each, in the order of the question. Its id ends in "-two"
// ("test-17-0-two"; of one fact "test-17-0"), which is how an evaluation tells the kinds apart. The
// share changes no document, and the first fact is the one that the question would ask alone, so
// data sets of two shares compare question by question. The vocabulary gains the word "and", last:
// data sets that share a tokenizer have two_fact_share > 0 in all or in none.
//
// Updates (task facts, updates): so many facts, drawn anew in each document, are stated twice, in
// slots of context_tokens / (facts + updates) tokens, first with another value. The answer, and
// what evidence and answer_spans mark, is the last statement. No updates change no document.
//
// Held out: pair (7 name + attribute) % 4 == 0 is a test pair. Training documents hold no test
// pair, asked or not; the asked fact of a validation or test document is a test pair, and so is the
// second one that it asks wherever another name of the document has a test pair; the other facts
// are any pair. Validation asks test pairs too, over other documents: it measures what the test
// measures. key_value has no pairs; its documents and their values differ. Words are shared, so
// that their embeddings are trained. Every document is drawn from (seed, split, index).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/data/example.h"

namespace dsrsq {

struct SyntheticConfig {
  std::string task = "facts";
  int64_t seed = 0;
  int64_t context_tokens = 512;  // every document has exactly this many tokens
  int64_t facts = 24;            // facts a document; `facts` task: two a name
  int64_t names = 256;
  int64_t attributes = 16;
  int64_t values = 512;
  int64_t filler_words = 200;
  // Pairs of questions a training document; the two of a pair are partners: half the time the facts
  // of one name, half of one attribute (where no other name has it: of one name); 0: one question.
  int64_t question_pairs = 2;
  double two_fact_share = 0;  // probability that a question asks for two facts; only task facts
  int64_t updates = 0;        // facts of a document that are stated twice; only task facts
  int64_t train_documents = 4000;
  int64_t validation_documents = 64;
  int64_t test_documents = 512;  // one question each
  void visit_fields(ConfigVisitor& v);
  void validate() const;  // throws ConfigError
};

// All words of the task (the same for every seed), for build_word_tokenizer.
std::vector<std::string> synthetic_words(const SyntheticConfig& config);

// The words by role, and the attributes, for other generators of the same language.
struct SyntheticWords {
  std::vector<std::string> names, values, filler, attributes;
};
SyntheticWords synthetic_words_by_role(const SyntheticConfig& config);
// Whether no training document holds a fact of this pair.
bool is_test_pair(int64_t name, int64_t attribute);

// The consonant-vowel syllables that the made-up words consist of: given to build_word_tokenizer as
// pieces, a word costs one merge, so the vocabulary stays small.
std::vector<std::string> synthetic_pieces();

// Document `index` of "train", "validation" or "test". Evidence is the fact's text, answer_spans
// the two values; of both facts where two are asked.
DocumentExample synthetic_document(const SyntheticConfig& config, const std::string& split,
                                   int64_t index);

}  // namespace dsrsq
