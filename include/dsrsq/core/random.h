// Counter-based random numbers (D21): a value is a pure function of (seed, purpose, step, sample,
// position), never of rank, thread, batch slot or of how many numbers were drawn before.
// Philox-4x32-10, Salmon et al. 2011. So four ranks draw what one would, and a resumed run draws
// what the uninterrupted one would: nothing is to be saved.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsrsq {

// Never renumber: a stream's numbers would change.
enum class Purpose : uint32_t {
  kInitialise = 1,  // weights; sample = hash of the parameter's name
  kDataOrder = 2,
  kSelection = 3,  // random selectors
  kPolicy = 4,     // Gumbel noise of the retriever
  kReservoir = 5,  // Gumbel noise of the latent buffer
  kRouting = 6,    // the "random routing" probe
  kCodebook = 7,   // codebook start and reseeding of dead clusters
  kSynthetic = 8,
  kSplit = 9,
  kBootstrap = 10,
  kCurriculum = 11,  // random rest of a stage
  kGenerate = 12,    // sampled answers
};

// Philox4x32-10 itself, of four counter and two key words. Agrees with the known answers of
// Random123.
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

// Each position owns one block of four words, so values at different positions are independent. Two
// kinds of value at one position share its bits: use different positions. Any 64-bit position is
// valid.
class RandomStream {
 public:
  RandomStream(uint64_t seed, Purpose purpose, uint64_t step = 0, uint64_t sample = 0);

  uint32_t bits(uint64_t position) const;
  double uniform(uint64_t position) const;  // in (0, 1), never 0 or 1
  double normal(uint64_t position) const;   // N(0, 1), Box-Muller
  double gumbel(uint64_t position) const;   // -log(-log U)
  uint64_t below(uint64_t position,
                 uint64_t bound) const;  // in [0, bound), bound > 0; bias below bound / 2^64
 private:
  void block(uint64_t position, uint32_t out[4]) const;
  uint32_t key_[2];
  uint32_t counter_[4];
};

// A bijection of [0, size) given by (seed, epoch): position `index` of a shuffled epoch in O(1), so
// that resuming at any position costs nothing. A Feistel network (four rounds, 12 below 2^14) with
// cycle walking. Throws std::out_of_range for index >= size.
uint64_t permute_index(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t size);

// 64-bit FNV-1a with a finaliser; stable over platforms and versions. For names and hashed splits.
uint64_t stable_hash(std::string_view text);

}  // namespace dsrsq
