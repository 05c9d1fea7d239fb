// The stemmer of ROUGE. Private to src/text.
#pragma once

#include <string>

namespace dsrsq::text {

// As nltk 3.10's PorterStemmer in its default mode, NLTK_EXTENSIONS: Porter's algorithm (Program
// 14.3, 1980) with Martin Porter's and nltk's amendments. `word` is of a-z and 0-9 (a digit counts
// as a consonant).
std::string porter_stem(const std::string& word);

}  // namespace dsrsq::text
