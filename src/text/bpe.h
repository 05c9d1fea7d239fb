// Byte-pair merging of one word.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer_spec.h"

namespace dsrsq::text {

struct BpeToken {
  int32_t id;
  uint32_t begin;  // bytes of the word
  uint32_t end;
};

// Immutable and shareable between threads; a Bpe::Workspace is not.
class Bpe {
 public:
  struct Symbol {
    int32_t id;
    uint32_t begin;
    uint32_t end;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t position;
    int32_t result;
  };
  struct Workspace {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  explicit Bpe(const TokenizerSpec& spec);
  // Merges the lowest rank first, leftmost among equals. Appends to `out`.
  void encode(std::string_view word, Workspace& workspace, std::vector<BpeToken>& out) const;

 private:
  struct RankedMerge {
    uint64_t pair = kNoPair;
    int32_t rank = 0;
    int32_t result = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  static uint64_t pair_key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t pair) const;
  const RankedMerge* find_merge(int32_t left, int32_t right) const;
  void start_symbols(std::string_view word, std::vector<Symbol>& symbols) const;
  void push_candidate(Workspace& workspace, int32_t left, int32_t right) const;

  std::vector<RankedMerge> merges_;  // open addressing, a power of two, at most half full
  std::array<int32_t, 256> byte_ids_;
  std::unordered_map<std::string, int32_t> whole_words_;  // raw bytes; with ignore_merges alone
  std::optional<int32_t> unknown_;
  bool fuse_unknown_;
};

}  // namespace dsrsq::text
