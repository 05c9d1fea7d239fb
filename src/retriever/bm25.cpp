#include "dsrsq/retriever/bm25.h"

#include <cmath>
#include <unordered_map>

namespace dsrsq {

std::vector<std::string> bm25_terms(std::string_view text) {
  std::vector<std::string> terms;
  std::string term;
  auto close = [&] {
    if (!term.empty()) terms.push_back(std::move(term));
    term.clear();
  };
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= 'A' && byte <= 'Z')
      term += char(byte - 'A' + 'a');
    else if ((byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte >= 0x80)
      term += c;
    else
      close();
  }
  close();
  return terms;
}

namespace {

// `Key`: what a term is looked up by.
template <typename Key, typename Term>
std::vector<double> scores_of(const std::vector<std::vector<Term>>& documents,
                              const std::vector<Term>& query, double k1, double b) {
  std::vector<std::unordered_map<Key, double>> counts(documents.size());
  std::unordered_map<Key, double> holders;
  double total = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    for (const auto& term : documents[i]) counts[i][term] += 1;
    for (const auto& [term, count] : counts[i]) holders[term] += 1;
    total += double(documents[i].size());
  }
  auto number = double(documents.size());
  auto mean = total / std::max(1.0, number);
  std::vector<double> scores(documents.size(), 0.0);
  for (const auto& term : query) {
    auto known = holders.find(term);
    if (known == holders.end()) continue;
    auto idf = std::log(1 + (number - known->second + 0.5) / (known->second + 0.5));
    for (size_t i = 0; i < documents.size(); ++i) {
      auto found = counts[i].find(term);
      if (found == counts[i].end()) continue;
      auto f = found->second;
      scores[i] += idf * f / (f + k1 * (1 - b + b * double(documents[i].size()) / mean));
    }
  }
  return scores;
}

}  // namespace

std::vector<double> bm25_scores(const std::vector<std::vector<std::string>>& documents,
                                const std::vector<std::string>& query, double k1, double b) {
  return scores_of<std::string_view>(documents, query, k1, b);
}

std::vector<double> bm25_scores(const std::vector<std::vector<int64_t>>& documents,
                                const std::vector<int64_t>& query, double k1, double b) {
  return scores_of<int64_t>(documents, query, k1, b);
}

}  // namespace dsrsq
