#include "dsrsq/text/task_metrics.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "lower_case.h"
#include "pattern.h"
#include "utf8.h"

namespace dsrsq {
namespace {

// string.punctuation
bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

// str.isspace, which str.split cuts at: with the separators 0x1C to 0x1F, unlike Unicode's
// White_Space.
bool is_python_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string replace_articles(const std::string& text) {
  // Python's \b, whose word characters are letters, numbers and the underscore.
  static const text::Pattern articles(R"((?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_]))",
                                      text::Syntax::kPcre, "normalize_answer");
  text::Searcher searcher;
  std::string out;
  size_t done = 0;
  while (const auto match = searcher.find(articles, text, done)) {
    out.append(text, done, match->begin - done);
    out += ' ';
    done = match->end;
  }
  return out.append(text, done);
}

std::vector<std::string_view> split_white_space(std::string_view text) {
  std::vector<std::string_view> words;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const text::Decoded c = text::decode_utf8(text, at);
    if (is_python_space(c.code_point)) {
      if (begin < at) words.push_back(text.substr(begin, at - begin));
      begin = at + c.length;
    }
    at += c.length;
  }
  if (begin < text.size()) words.push_back(text.substr(begin));
  return words;
}

double f1_of(std::string_view prediction, std::string_view reference) {
  const std::vector<std::string_view> predicted = split_white_space(prediction);
  const std::vector<std::string_view> expected = split_white_space(reference);
  if (predicted.empty() || expected.empty()) return predicted.empty() && expected.empty() ? 1 : 0;
  std::unordered_map<std::string_view, int64_t> left;
  for (const std::string_view word : expected) ++left[word];
  int64_t common = 0;
  for (const std::string_view word : predicted) {
    const auto it = left.find(word);
    if (it != left.end() && it->second-- > 0) ++common;
  }
  if (common == 0) return 0;
  const double precision = static_cast<double>(common) / static_cast<double>(predicted.size());
  const double recall = static_cast<double>(common) / static_cast<double>(expected.size());
  return (2 * precision * recall) / (precision + recall);
}

template <typename Score>
double best_over(const std::string& prediction, const std::vector<std::string>& references,
                 const Score& score) {
  const std::string normalized = normalize_answer(prediction);
  if (references.empty()) return normalized.empty() ? 1 : 0;
  double best = 0;
  for (const std::string& reference : references)
    best = std::max(best, score(normalized, normalize_answer(reference)));
  return best;
}

// Linear between order statistics, as numpy.quantile.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::string normalize_answer(const std::string& text) {
  std::string lower = text::lower_case(text);
  std::erase_if(lower, is_ascii_punctuation);
  const std::string without_articles = replace_articles(lower);
  std::string out;
  for (const std::string_view word : split_white_space(without_articles)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  return out;
}

double exact_match(const std::string& prediction, const std::vector<std::string>& references) {
  return best_over(prediction, references,
                   [](const std::string& a, const std::string& b) { return a == b ? 1.0 : 0.0; });
}

double token_f1(const std::string& prediction, const std::vector<std::string>& references) {
  return best_over(prediction, references, f1_of);
}

Interval bootstrap_mean(const std::vector<double>& values, double confidence, int resamples,
                        unsigned long seed) {
  if (values.empty()) throw DataError("bootstrap_mean: no values; evaluate at least one question");
  if (resamples < 1)
    throw ConfigError(concat("bootstrap_mean: resamples is ", resamples, ", expected at least 1"));
  if (!(confidence > 0 && confidence < 1)) {
    throw ConfigError(
        concat("bootstrap_mean: confidence is ", confidence, ", expected above 0 and below 1"));
  }
  std::vector<double> means;
  means.reserve(static_cast<size_t>(resamples));
  for (int resample = 0; resample < resamples; ++resample) {
    const RandomStream random(seed, Purpose::kBootstrap, static_cast<uint64_t>(resample));
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[random.below(i, values.size())];
    means.push_back(sum / static_cast<double>(values.size()));
  }
  std::sort(means.begin(), means.end());
  const double tail = (1 - confidence) / 2;
  return {mean_of(values), quantile(means, tail), quantile(means, 1 - tail)};
}

}  // namespace dsrsq
