// ROUGE (Lin 2004) as the Python package rouge-score 0.1.2 computes it, its default tokenizer:
// lower-case as str.lower, everything but a-z and 0-9 separates words (so a letter outside ASCII
// splits its word), optionally nltk's PorterStemmer on words of more than three characters. The
// package `rouge` 1.0.1 (LongBench) differs in all of this: never mix the two.
#pragma once

#include <string>
#include <vector>

namespace dsrsq {

// 0 to 1. f1 is the harmonic mean (beta = 1), 0 where both are.
struct RougeScore {
  double precision = 0, recall = 0, f1 = 0;
};

struct RougeScores {
  RougeScore rouge_1, rouge_2;  // n-grams, as multisets
  RougeScore rouge_l;  // longest common subsequence of the whole texts; newlines are blanks
  // Sentences are lines (no sentence splitter): union of each reference line's longest common
  // subsequences with all lines of the prediction; no word counts twice.
  RougeScore rouge_lsum;
};

enum class RougeStemmer {
  kNone,    // the package's default (use_stemmer=False), and what dsrsq-eval reports
  kPorter,  // use_stemmer=True: nltk 3.10's PorterStemmer, mode NLTK_EXTENSIONS
};

// Of several references the one with the largest f1, chosen for each kind apart (score_multi); the
// first of equals. Without a reference (an unanswerable question), which the package refuses: all 1
// where the prediction holds no word, else all 0, as exact_match and token_f1 have it. Time is the
// product of both lengths in words, memory an eighth of a byte of it.
RougeScores rouge(const std::string& prediction, const std::vector<std::string>& references,
                  RougeStemmer stemmer = RougeStemmer::kNone);

}  // namespace dsrsq
