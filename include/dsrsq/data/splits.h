// Splits that do not leak: a question (normalised) and a document (by hash) are in one split only.
// Records that share either are joined (union-find over 64-bit hashes, 24 bytes a record); each
// group goes to one split by the hash of its smallest member and the seed, so the split of a record
// does not depend on the order of the file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

struct SplitShare {
  std::string name;
  double share = 0;
};
// "train=0.8,validation=0.1,test=0.1"; shares are normalised. Throws ConfigError.
std::vector<SplitShare> parse_splits(const std::string& text);

class SplitAssigner {
 public:
  SplitAssigner(std::vector<SplitShare> shares, uint64_t seed);
  // In record order. Question: lower-cased, white space collapsed, a final "?" dropped.
  void add(const std::string& question, const std::string& document);
  std::vector<uint8_t> assign() const;

 private:
  std::vector<SplitShare> shares_;
  uint64_t seed_;
  std::vector<uint64_t> questions_;
  std::vector<uint64_t> documents_;
};

}  // namespace dsrsq
