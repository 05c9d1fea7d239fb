// Splits that do not leak: a question (normalised) and a document (by hash) are in one split only.
// A document that is put together from passages counts as all of these: none of them is in two
// splits. Records that share anything are joined (union-find over 64-bit hashes, 36 bytes a record
// of one passage, 16 for each further one); each group goes to one split by the hash of its
// smallest member and the seed, so the split of a record does not depend on the order of the file.
// Where a reader gives split keys, these count instead of the question and the document.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

struct SplitShare {
  std::string name;
  double share = 0;
};
// "train=0.8,validation=0.1,test=0.1"; shares are normalised. Throws ConfigError.
std::vector<SplitShare> parse_splits(const std::string& text);

// The split of each record by its timestamp alone: the earliest records fill the first split up to
// its share, and so on; records of one timestamp are in one split. A day goes to the split that
// holds its middle record. For streams, where documents of one day repeat each other; equal
// questions and documents of different days may be in two splits. Throws DataError where a record
// has no timestamp.
std::vector<uint8_t> split_by_time(const std::vector<std::string>& timestamps,
                                   const std::vector<SplitShare>& shares);

class SplitAssigner {
 public:
  SplitAssigner(std::vector<SplitShare> shares, uint64_t seed);
  // In record order. Question: lower-cased, white space collapsed, a final "?" dropped.
  // An empty document (of a closed-book question) joins nothing.
  void add(const std::string& question, const std::string& document);
  void add(const DocumentExample& example);  // all of its questions
  std::vector<uint8_t> assign() const;

 private:
  std::vector<SplitShare> shares_;
  uint64_t seed_;
  void add_hash(uint64_t question);              // or of the first key
  void add_document(std::string_view document);  // of the question added last

  std::vector<uint64_t> questions_;
  std::vector<uint64_t> documents_;
  std::vector<uint32_t> owners_;  // the record of each of documents_
};

}  // namespace dsrsq
