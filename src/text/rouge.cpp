#include "dsrsq/text/rouge.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "common_subsequence.h"
#include "lower_case.h"
#include "porter_stemmer.h"

namespace dsrsq {
namespace {

using Words = std::vector<uint32_t>;  // numbers of words

// Numbers the words of a prediction and its references, so that they compare fast.
class Vocabulary {
 public:
  explicit Vocabulary(RougeStemmer stemmer) : stemmer_(stemmer) {}

  Words words(const std::string& text) {
    Words out;
    const std::string lower = text::lower_case(text);
    const auto is_word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    for (size_t at = 0; at < lower.size();) {
      size_t end = at;
      while (end < lower.size() && is_word(lower[end])) ++end;
      if (end > at) out.push_back(number(lower.substr(at, end - at)));
      at = std::max(end, at + 1);
    }
    return out;
  }

  // Of lines that are not empty; a line without words is an empty sentence.
  std::vector<Words> sentences(const std::string& text) {
    std::vector<Words> out;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      if (end > begin) out.push_back(words(text.substr(begin, end - begin)));
      begin = end + 1;
    }
    return out;
  }

 private:
  uint32_t number(const std::string& word) {
    constexpr size_t kLongestUnstemmed = 3;
    const bool stem = stemmer_ == RougeStemmer::kPorter && word.size() > kLongestUnstemmed;
    return numbers_
        .emplace(stem ? text::porter_stem(word) : word, static_cast<uint32_t>(numbers_.size()))
        .first->second;
  }

  RougeStemmer stemmer_;
  std::unordered_map<std::string, uint32_t> numbers_;
};

RougeScore score_of(size_t hits, size_t predicted, size_t expected) {
  RougeScore score;
  if (hits == 0) return score;
  score.precision = static_cast<double>(hits) / static_cast<double>(predicted);
  score.recall = static_cast<double>(hits) / static_cast<double>(expected);
  score.f1 = 2 * score.precision * score.recall / (score.precision + score.recall);
  return score;
}

// n is 1 or 2.
std::unordered_map<uint64_t, size_t> count_ngrams(const Words& words, size_t n) {
  std::unordered_map<uint64_t, size_t> counts;
  for (size_t i = 0; i + n <= words.size(); ++i)
    ++counts[n == 1 ? words[i] : uint64_t{words[i]} << 32 | words[i + 1]];
  return counts;
}

RougeScore rouge_n(const Words& prediction, const Words& reference, size_t n) {
  const auto predicted = count_ngrams(prediction, n);
  size_t hits = 0;
  for (const auto& [ngram, count] : count_ngrams(reference, n)) {
    const auto found = predicted.find(ngram);
    if (found != predicted.end()) hits += std::min(count, found->second);
  }
  const auto ngrams = [n](const Words& words) {
    return words.size() - std::min(words.size(), n - 1);
  };
  return score_of(hits, ngrams(prediction), ngrams(reference));
}

RougeScore rouge_l(const Words& prediction, const Words& reference) {
  return score_of(text::longest_common_subsequence(reference, prediction), prediction.size(),
                  reference.size());
}

RougeScore rouge_lsum(const std::vector<Words>& prediction, const std::vector<Words>& reference) {
  const auto count = [](const std::vector<Words>& sentences, size_t& total) {
    std::unordered_map<uint32_t, int64_t> counts;
    for (const Words& words : sentences) {
      total += words.size();
      for (const uint32_t word : words) ++counts[word];
    }
    return counts;
  };
  size_t predicted = 0, expected = 0, hits = 0;
  auto left_in_prediction = count(prediction, predicted);
  auto left_in_reference = count(reference, expected);
  for (const Words& sentence : reference) {
    std::vector<bool> marked(sentence.size());
    for (const Words& other : prediction)
      text::mark_common(sentence, other, text::EqualWays::kUp, marked);
    for (size_t i = 0; i < sentence.size(); ++i) {
      if (!marked[i]) continue;
      int64_t &a = left_in_prediction[sentence[i]], &b = left_in_reference[sentence[i]];
      if (a <= 0 || b <= 0) continue;
      ++hits, --a, --b;
    }
  }
  return score_of(hits, predicted, expected);
}

}  // namespace

RougeScores rouge(const std::string& prediction, const std::vector<std::string>& references,
                  RougeStemmer stemmer) {
  Vocabulary vocabulary(stemmer);
  const Words words = vocabulary.words(prediction);
  const std::vector<Words> sentences = vocabulary.sentences(prediction);
  RougeScores best;
  if (references.empty() && words.empty())
    best.rouge_1 = best.rouge_2 = best.rouge_l = best.rouge_lsum = {1, 1, 1};
  const auto keep = [](RougeScore& kept, const RougeScore& score) {
    if (score.f1 > kept.f1) kept = score;
  };
  for (const std::string& reference : references) {
    const Words expected = vocabulary.words(reference);
    keep(best.rouge_1, rouge_n(words, expected, 1));
    keep(best.rouge_2, rouge_n(words, expected, 2));
    keep(best.rouge_l, rouge_l(words, expected));
    keep(best.rouge_lsum, rouge_lsum(sentences, vocabulary.sentences(reference)));
  }
  return best;
}

}  // namespace dsrsq
