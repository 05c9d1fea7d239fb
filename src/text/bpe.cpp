#include "bpe.h"

#include <algorithm>
#include <bit>
#include <set>

#include "utf8.h"

namespace dsrsq::text {
namespace {

// std::push_heap keeps the largest first; the next merge is the smallest (rank, position).
bool later(const Bpe::Candidate& a, const Bpe::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

Bpe::Bpe(const TokenizerSpec& spec) : unknown_(spec.unknown), fuse_unknown_(spec.fuse_unknown) {
  merges_.resize(std::bit_ceil(2 * spec.merges.size() + 2));
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const Merge& merge = spec.merges[rank];
    const uint64_t pair = pair_key(merge.left, merge.right);
    merges_[slot_of(pair)] = {pair, static_cast<int32_t>(rank),
                              merge.result};  // of a repeated pair the last counts
  }
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto it = spec.vocabulary.find(spell_bytes({&byte, 1}));
    byte_ids_[b] = it == spec.vocabulary.end() ? -1 : it->second;
  }
  if (!spec.ignore_merges) return;
  // Data is not to inject control tokens, not even by being a word that is spelled like one.
  std::set<int32_t> special;
  for (const AddedToken& token : spec.added) {
    if (token.special) special.insert(token.id);
  }
  for (const auto& [token, id] : spec.vocabulary) {
    bool spelled = true;
    std::string bytes = unspell_bytes(token, &spelled);
    if (spelled && !special.contains(id)) whole_words_.emplace(std::move(bytes), id);
  }
}

size_t Bpe::slot_of(uint64_t pair) const {
  const size_t mask = merges_.size() - 1;
  uint64_t hash = pair * 0x9E3779B97F4A7C15ull;
  size_t slot = (hash ^ (hash >> 32)) & mask;
  while (merges_[slot].pair != pair && merges_[slot].pair != kNoPair) slot = (slot + 1) & mask;
  return slot;
}

const Bpe::RankedMerge* Bpe::find_merge(int32_t left, int32_t right) const {
  const RankedMerge& merge = merges_[slot_of(pair_key(left, right))];
  return merge.pair == kNoPair ? nullptr : &merge;
}

void Bpe::start_symbols(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  bool after_unknown = false;
  for (uint32_t i = 0; i < word.size(); ++i) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(word[i])];
    if (id >= 0) {
      symbols.push_back({id, i, i + 1, 0, 0});
    } else if (unknown_ && after_unknown && fuse_unknown_) {
      symbols.back().end = i + 1;
    } else if (unknown_) {
      symbols.push_back({*unknown_, i, i + 1, 0, 0});
    }
    after_unknown = id < 0;
  }
  const int32_t count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
}

void Bpe::push_candidate(Workspace& workspace, int32_t left, int32_t right) const {
  const auto& symbols = workspace.symbols;
  const RankedMerge* merge = find_merge(symbols[left].id, symbols[right].id);
  if (merge == nullptr) return;
  workspace.heap.push_back({merge->rank, left, merge->result});
  std::push_heap(workspace.heap.begin(), workspace.heap.end(), later);
}

void Bpe::encode(std::string_view word, Workspace& workspace, std::vector<BpeToken>& out) const {
  if (!whole_words_.empty()) {
    const auto it = whole_words_.find(std::string(word));
    if (it != whole_words_.end()) {
      out.push_back({it->second, 0, static_cast<uint32_t>(word.size())});
      return;
    }
  }
  auto& symbols = workspace.symbols;
  auto& heap = workspace.heap;
  start_symbols(word, symbols);
  heap.clear();
  for (size_t i = 1; i < symbols.size(); ++i) {
    push_candidate(workspace, static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
  }
  constexpr int32_t kGone = -1;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = symbols[top.position];
    if (left.id == kGone || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // Symbols only grow, so a pair that has changed since no longer has the rank that it was queued
    // with.
    const RankedMerge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->rank != top.rank) continue;
    left.id = top.result;
    left.end = right.end;
    right.id = kGone;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    if (left.previous >= 0) push_candidate(workspace, left.previous, top.position);
    if (left.next >= 0) push_candidate(workspace, top.position, left.next);
  }
  if (symbols.empty()) return;
  for (int32_t i = 0; i >= 0; i = symbols[i].next)
    out.push_back({symbols[i].id, symbols[i].begin, symbols[i].end});
}

}  // namespace dsrsq::text
