// BLEU (Papineni et al. 2002) as sacrebleu 2.6.0 computes it with its defaults (tokenizer 13a, case
// kept, orders 1 to 4, smoothing "exp"), on a scale of 0 to 1: sacrebleu's score / 100.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

constexpr size_t kBleuOrders = 4;

// What a corpus sums before BLEU is computed.
struct BleuCounts {
  int64_t prediction_length = 0;
  int64_t reference_length = 0;                // of the reference nearest in length
  std::array<int64_t, kBleuOrders> matched{};  // clipped at the largest count in a reference
  std::array<int64_t, kBleuOrders> total{};    // n-grams of the prediction
  BleuCounts& operator+=(const BleuCounts& other);
};

// mteval-v13a's words, separated by single blanks.
std::string tokenize_13a(const std::string& text);

// Throws DataError without a reference: BLEU is not defined there.
BleuCounts bleu_counts(const std::string& prediction, const std::vector<std::string>& references);

// Of summed counts. 0 where an order has no n-gram at all (a corpus of answers shorter than four
// words), as in sacrebleu's corpus_bleu.
double corpus_bleu(const BleuCounts& counts);
// sacrebleu's sentence_bleu (effective_order): the mean is over the orders that the prediction has.
// Without a reference, which sacrebleu refuses: 1 where the prediction holds no word, else 0, as
// exact_match has it.
double sentence_bleu(const std::string& prediction, const std::vector<std::string>& references);

}  // namespace dsrsq
