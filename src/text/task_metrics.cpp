#include "dsrsq/text/task_metrics.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "lower_case.h"
#include "pattern.h"
#include "words.h"

namespace dsrsq {
namespace {

// string.punctuation
bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
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

double f1_of(std::string_view prediction, std::string_view reference) {
  const std::vector<std::string_view> predicted = text::split_white_space(prediction);
  const std::vector<std::string_view> expected = text::split_white_space(reference);
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

}  // namespace

std::string normalize_answer(const std::string& text) {
  std::string lower = text::lower_case(text);
  std::erase_if(lower, is_ascii_punctuation);
  const std::string without_articles = replace_articles(lower);
  std::string out;
  for (const std::string_view word : text::split_white_space(without_articles)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  return out;
}

double exact_match(const std::string& prediction, const std::vector<std::string>& references) {
  return best_over(prediction, references,
                   [](const std::string& a, const std::string& b) { return a == b ? 1.0 : 0.0; });
}

double subspan_exact_match(const std::string& prediction,
                           const std::vector<std::string>& references) {
  return best_over(prediction, references, [](const std::string& a, const std::string& b) {
    return a.find(b) != std::string::npos ? 1.0 : 0.0;
  });
}

double token_f1(const std::string& prediction, const std::vector<std::string>& references) {
  return best_over(prediction, references, f1_of);
}

}  // namespace dsrsq
