// BM25 (Robertson et al. 1994) over terms, in Lucene's form: as the bm25s package's method
// "lucene".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsrsq {

// Runs of letters and digits, lower-cased where they are ASCII; characters beyond ASCII count as
// letters.
std::vector<std::string> bm25_terms(std::string_view text);

// Score of each document for the query: sum over the query's terms t, repeated ones as often as
// they stand there, of idf(t) f / (f + k1 (1 - b + b length / mean length)), f the count of t in
// the document, idf(t) = log(1 + (documents - holders + 0.5) / (holders + 0.5)). No documents:
// empty.
std::vector<double> bm25_scores(const std::vector<std::vector<std::string>>& documents,
                                const std::vector<std::string>& query, double k1, double b);
// The same over token ids.
std::vector<double> bm25_scores(const std::vector<std::vector<int64_t>>& documents,
                                const std::vector<int64_t>& query, double k1, double b);

}  // namespace dsrsq
