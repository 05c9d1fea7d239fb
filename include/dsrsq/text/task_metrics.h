// Short answers by the SQuAD rules (Rajpurkar et al. 2016, evaluation scripts v1.1 and v2.0):
// lower-case as Python's str.lower (all of Unicode), delete ASCII punctuation, then the articles a,
// an, the, then collapse white space. 0 to 1.
#pragma once

#include <string>
#include <vector>

namespace dsrsq {

std::string normalize_answer(const std::string& text);
// The maximum over the references, EM and F1 separately. No reference (an unanswerable question): 1
// where the prediction normalises to nothing. Where either side of F1 has no word left, F1 is 1 if
// neither has, else 0 (v2.0).
double exact_match(const std::string& prediction, const std::vector<std::string>& references);
double token_f1(const std::string& prediction, const std::vector<std::string>& references);
// 1 where a normalised reference stands anywhere in the normalised prediction, also inside a word
// (best_subspan_em of "Lost in the Middle", Liu et al. 2023). A reference that normalises to
// nothing is in every prediction.
double subspan_exact_match(const std::string& prediction,
                           const std::vector<std::string>& references);

}  // namespace dsrsq
