#include "dsrsq/text/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "words.h"

namespace dsrsq {
namespace {

std::string replace_all(const std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(from, done)) != std::string::npos; done = at + from.size()) {
    out.append(text, done, at - done);
    out += to;
  }
  return out.append(text, done);
}

// The rules look at ASCII alone, and a byte of a longer character is to them what the character is:
// something else.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_period_or_comma(char c) { return c == '.' || c == ','; }
bool is_padded(char c) {  // ASCII punctuation but ' , - .
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

// re.sub over non-overlapping pairs of neighbours from the left.
template <typename Fits, typename Write>
std::string replace_pairs(const std::string& text, const Fits& fits, const Write& write) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (i + 1 < text.size() && fits(text[i], text[i + 1])) {
      write(out, text[i], text[i + 1]);
      i += 2;
    } else {
      out += text[i++];
    }
  }
  return out;
}

std::string separate_punctuation(const std::string& text) {
  std::string padded;
  for (const char c : text) {
    if (is_padded(c)) {
      padded += {' ', c, ' '};
    } else {
      padded += c;
    }
  }
  const std::string before = replace_pairs(
      padded, [](char a, char b) { return !is_digit(a) && is_period_or_comma(b); },
      [](std::string& out, char a, char b) {
        out += {a, ' ', b, ' '};
      });
  const std::string after = replace_pairs(
      before, [](char a, char b) { return is_period_or_comma(a) && !is_digit(b); },
      [](std::string& out, char a, char b) {
        out += {' ', a, ' ', b};
      });
  return replace_pairs(
      after, [](char a, char b) { return is_digit(a) && b == '-'; },
      [](std::string& out, char a, char b) {
        out += {a, ' ', b, ' '};
      });
}

using NgramCounts = std::unordered_map<std::string, int64_t>;

// N-grams as words joined by blanks, by order; the words hold none.
std::array<NgramCounts, kBleuOrders> count_ngrams(const std::vector<std::string_view>& words) {
  std::array<NgramCounts, kBleuOrders> counts;
  for (size_t begin = 0; begin < words.size(); ++begin) {
    std::string ngram;
    for (size_t n = 0; n < kBleuOrders && begin + n < words.size(); ++n) {
      if (n > 0) ngram += ' ';
      ngram += words[begin + n];
      ++counts[n][ngram];
    }
  }
  return counts;
}

double bleu_of(const BleuCounts& counts, bool effective_order) {
  const auto& [prediction_length, reference_length, matched, total] = counts;
  if (std::all_of(matched.begin(), matched.end(), [](int64_t n) { return n == 0; })) return 0;
  size_t orders = 0;
  double sum = 0, smoothing = 1;
  for (; orders < kBleuOrders && total[orders] > 0; ++orders) {
    double correct = static_cast<double>(matched[orders]);
    if (matched[orders] == 0) correct = 1 / (smoothing *= 2);
    sum += std::log(correct / static_cast<double>(total[orders]));
  }
  if (orders < kBleuOrders && !effective_order) return 0;
  double brevity = 0;  // log of the penalty; matches mean that the prediction is not empty
  if (prediction_length < reference_length)
    brevity = 1 - static_cast<double>(reference_length) / static_cast<double>(prediction_length);
  return std::exp(brevity + sum / static_cast<double>(orders));
}

}  // namespace

BleuCounts& BleuCounts::operator+=(const BleuCounts& other) {
  prediction_length += other.prediction_length;
  reference_length += other.reference_length;
  for (size_t n = 0; n < kBleuOrders; ++n) {
    matched[n] += other.matched[n];
    total[n] += other.total[n];
  }
  return *this;
}

std::string tokenize_13a(const std::string& text) {
  std::string line = replace_all(std::string(text::strip_right(text)), "<skipped>", "");
  line = replace_all(replace_all(line, "-\n", ""), "\n", " ");
  for (const auto& [entity, character] : {std::pair{"&quot;", "\""}, std::pair{"&amp;", "&"},
                                          std::pair{"&lt;", "<"}, std::pair{"&gt;", ">"}})
    line = replace_all(line, entity, character);
  const std::string separated = separate_punctuation(" " + line + " ");
  std::string out;
  for (const std::string_view word : text::split_white_space(separated)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  return out;
}

BleuCounts bleu_counts(const std::string& prediction, const std::vector<std::string>& references) {
  if (references.empty()) throw DataError("bleu_counts: no reference; BLEU needs at least one");
  const std::string predicted = tokenize_13a(prediction);
  const auto words = text::split_white_space(predicted);
  BleuCounts counts;
  counts.prediction_length = static_cast<int64_t>(words.size());
  std::array<NgramCounts, kBleuOrders> allowed;
  int64_t nearest = -1;  // distance of the best reference length so far
  for (const std::string& reference : references) {
    const std::string expected = tokenize_13a(reference);
    const auto reference_words = text::split_white_space(expected);
    const int64_t length = static_cast<int64_t>(reference_words.size());
    const int64_t distance = std::abs(counts.prediction_length - length);
    if (nearest < 0 || distance < nearest ||
        (distance == nearest && length < counts.reference_length)) {
      nearest = distance;
      counts.reference_length = length;
    }
    const auto ngrams = count_ngrams(reference_words);
    for (size_t n = 0; n < kBleuOrders; ++n)
      for (const auto& [ngram, count] : ngrams[n])
        allowed[n][ngram] = std::max(allowed[n][ngram], count);
  }
  const auto ngrams = count_ngrams(words);
  for (size_t n = 0; n < kBleuOrders; ++n) {
    for (const auto& [ngram, count] : ngrams[n]) {
      counts.total[n] += count;
      const auto found = allowed[n].find(ngram);
      if (found != allowed[n].end()) counts.matched[n] += std::min(count, found->second);
    }
  }
  return counts;
}

double corpus_bleu(const BleuCounts& counts) { return bleu_of(counts, false); }

double sentence_bleu(const std::string& prediction, const std::vector<std::string>& references) {
  if (references.empty()) return tokenize_13a(prediction).empty() ? 1 : 0;
  return bleu_of(bleu_counts(prediction, references), true);
}

}  // namespace dsrsq
