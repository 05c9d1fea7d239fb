// Contexts of N passages, as in lost-in-the-middle (Liu et al. 2023): the passage of a question at
// a chosen place among N - 1 passages of other questions of the same split. Splits are therefore
// assigned on (question, own passage) before. The passages wait in a temporary file, so that memory
// is 40 bytes a passage.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

// first, middle ((documents - 1) / 2, as 4 of 10, 9 of 20, 14 of 30) or last, or an index from 0.
// Throws ConfigError.
int64_t gold_position(const std::string& gold, int64_t documents);

// Whether the answer stands in the passage after SQuAD's normalisation of both (normalize_answer),
// as whole words. An answer that normalises to nothing is compared verbatim.
bool holds_answer(const std::string& passage, const std::string& answer);

class PassagePool {
 public:
  // Makes the file `path` and unlinks it at once. Throws DataError where it cannot be written.
  explicit PassagePool(const std::string& path);

  // The document as a passage, its title as a line of its own in front unless it is there already.
  // `record` is the record whose split is the passage's. Throws DataError where the document is
  // more than one passage, or none, and where its questions do not say what they
  // are about (split keys).
  void add(const DocumentExample& example, int64_t record);

  // After the last add. Equal passages become one.
  void set_splits(const std::vector<uint8_t>& split_of_record);
  int64_t passages_of(uint8_t split) const;

  // One question with its context: passages joined by blank lines, the own one at `position`,
  // evidence and answer spans moved along. The others are drawn from `split` by (seed, question
  // id); none holds an answer of the question, none stands twice. Throws DataError where the split
  // has too few.
  DocumentExample assemble(const DocumentExample& example, const Question& question, uint8_t split,
                           int64_t documents, int64_t position, uint64_t seed);

 private:
  struct Passage {
    uint64_t hash = 0;
    int64_t begin = 0;  // in the file
    int64_t size = 0;   // of its text
    int64_t words = 0;  // bytes of its normalised words, which follow the text
    int64_t record = 0;
  };
  std::vector<std::string> draw(uint64_t own, const Question& question, uint8_t split,
                                int64_t count, uint64_t seed);

  std::string path_;
  std::fstream file_;
  int64_t bytes_ = 0;
  std::vector<Passage> added_;
  std::vector<std::vector<Passage>> of_split_;
};

}  // namespace dsrsq
