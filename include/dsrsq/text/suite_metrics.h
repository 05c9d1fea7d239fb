// How the official scripts of long-context suites score one answer, 0 to 1; a suite's figure is the
// mean over questions, x 100. Which dataset takes which, and what is cut off a prediction before
// (LongBench: all but the first line for trec, triviaqa, samsum and lsht), is the suite's to say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dsrsq {

struct SuiteAnswer {
  std::string prediction;
  std::vector<std::string> references = {};
  std::vector<std::string> classes = {};  // of classification and single_label
  std::string question = {};              // of single_label
};

// The answer F1 of LongBench (Bai et al. 2024, metrics.py: qa_f1_score) and QASPER (Dasigi et al.
// 2021): token_f1's, but 0 where nothing overlaps, also of two empty answers (SQuAD v1.1). The
// maximum over the references.
double overlap_f1(const SuiteAnswer& answer);

// LongBench's rouge_score: the F of ROUGE-L in the Python package `rouge` 1.0.1. Case and
// punctuation stay; full stops end sentences; F = 2 P R / (P + R + 1e-8) over the sets of words, of
// which those are common that are in a longest common subsequence of any two sentences. 0 where
// either side has no sentence, which the package refuses. The maximum over the references. (The
// package's recursion ends at Python's limit of about 1000 words in a sentence; not here.)
double set_rouge_l(const SuiteAnswer& answer);

// LongBench's code_sim_score: fuzz.ratio / 100 of fuzzywuzzy 0.18 with python-Levenshtein, in whole
// percent, of the prediction's first line without "`", "#" and "//" and the reference: 2 x longest
// common subsequence / both lengths, in code points. (Without python-Levenshtein, fuzzywuzzy falls
// back on difflib, whose ratio is another.) The maximum over the references.
double code_similarity(const SuiteAnswer& answer);

// LongBench's classification_score: one over the number of classes that the prediction names,
// where the reference is among them. Classes that are a part of the reference are struck out, but
// for each that follows one which was, as the script has it. The maximum over the references.
double classification(const SuiteAnswer& answer);

// LongBench's count_score, and retrieval_score for "Paragraph 7" or "段落7": the share of the
// prediction's numbers that are the reference's. The maximum over the references. Throws DataError
// for a reference that names no paragraph.
double number_share(const SuiteAnswer& answer);
double paragraph_share(const SuiteAnswer& answer);

// RULER (Hsieh et al. 2024, constants.py), lower-cased: the share of the references that stand in
// the prediction (niah, vt, cwe, fwe), and whether any does (qa).
double string_match_all(const SuiteAnswer& answer);
double string_match_part(const SuiteAnswer& answer);

// BABILong (Kuratov et al. 2024, metrics.py: compare_answers), lower-cased: 1 where the first
// sentence of the prediction, up to ".", "<context>" or "<example>", names exactly one of the
// classes that the question does not name, and that is the reference; of a list ("apple,milk", qa8)
// exactly its members. The maximum over the references.
double single_label(const SuiteAnswer& answer);

// EM, F1 and the substring match of text/task_metrics.h, and ROUGE-L's F of text/rouge.h, under the
// names that suite files use: exact_match, token_f1, subspan_exact_match, rouge_l.
double exact_match_of(const SuiteAnswer& answer);
double token_f1_of(const SuiteAnswer& answer);
double subspan_exact_match_of(const SuiteAnswer& answer);
double rouge_l_of(const SuiteAnswer& answer);

// The answer F1 of HotpotQA (Yang et al. 2018, hotpot_evaluate_v1.py): overlap_f1, but 0 where
// either side is yes, no or noanswer and the other is not the same.
double hotpot_f1(const SuiteAnswer& answer);

// Multiple choice: whether the letter of the option whose text is the reference is the one that the
// prediction gives. stated_choice, LongBench v2 (pred.py: extract_answer): the first "The correct
// answer is (B)", else "The correct answer is B", asterisks struck out. first_choice: the first A
// to D that stands alone between characters that are no letters or digits. Throws DataError where
// no option of the question (text/question_parts.h) is the reference.
double stated_choice(const SuiteAnswer& answer);
double first_choice(const SuiteAnswer& answer);

// The line that LongBench keeps of a prediction: the first one after leading line feeds.
std::string first_answer_line(const std::string& prediction);

// The scores above by name, for the files that describe suites. Throws ConfigError naming the known
// ones.
struct SuiteMetric {
  std::string_view name;
  double (*score)(const SuiteAnswer&);
};
const std::vector<SuiteMetric>& suite_metrics();
const SuiteMetric& find_suite_metric(const std::string& name);

}  // namespace dsrsq
