#include "dsrsq/text/suite_metrics.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "common_subsequence.h"
#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"
#include "dsrsq/text/question_parts.h"
#include "dsrsq/text/rouge.h"
#include "dsrsq/text/task_metrics.h"
#include "lower_case.h"
#include "pattern.h"
#include "utf8.h"
#include "words.h"

namespace dsrsq {
namespace {

using Words = std::vector<std::string_view>;

template <typename Score>
double best_over(const std::vector<std::string>& references, const Score& score) {
  double best = 0;
  for (const std::string& reference : references) best = std::max(best, score(reference));
  return best;
}

bool holds(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Sentences end at full stops; one of white space is a sentence of one empty word.
std::vector<Words> sentences_of(std::string_view text) {
  std::vector<Words> sentences;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    if (end > begin) {
      sentences.push_back(text::split_white_space(text.substr(begin, end - begin)));
      if (sentences.back().empty()) sentences.back().push_back("");
    }
    begin = end + 1;
  }
  return sentences;
}

size_t count_different(const std::vector<Words>& sentences) {
  std::set<std::string_view> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words.size();
}

double set_rouge_l_of(const std::vector<Words>& prediction, const std::vector<Words>& reference) {
  if (prediction.empty() || reference.empty()) return 0;
  std::set<std::string_view> common;
  for (const Words& sentence : reference) {
    std::vector<bool> marked(sentence.size());
    for (const Words& other : prediction)
      text::mark_common(sentence, other, text::EqualWays::kLeft, marked);
    for (size_t i = 0; i < sentence.size(); ++i) {
      if (marked[i]) common.insert(sentence[i]);
    }
  }
  const double hits = static_cast<double>(common.size());
  const double recall = hits / static_cast<double>(count_different(reference));
  const double precision = hits / static_cast<double>(count_different(prediction));
  return 2 * (precision * recall / (precision + recall + 1e-8));
}

std::u32string code_points(std::string_view text) {
  std::u32string points;
  for (size_t at = 0; at < text.size();) {
    const text::Decoded decoded = text::decode_utf8(text, at);
    points += decoded.code_point;
    at += decoded.length;
  }
  return points;
}

// fuzz.ratio: whole percent, halves to even as Python rounds.
double ratio(const std::u32string& a, const std::u32string& b) {
  if (a == b) return 1;
  if (a.empty() || b.empty()) return 0;
  const double both = static_cast<double>(a.size() + b.size());
  const double common = text::longest_common_subsequence(a, b);
  return std::nearbyint(100 * (1 - (both - 2 * common) / both)) / 100;
}

// The first line that holds no mark of a comment or of a code fence.
std::string_view first_code_line(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (!holds(line, "`") && !holds(line, "#") && !holds(line, "//")) return line;
    begin = end + 1;
  }
  return "";
}

std::vector<std::string> numbers_of(const std::string& text) {
  static const text::Pattern digits(R"(\p{Nd}+)", text::Syntax::kPcre, "number_share");
  const text::CleanText clean(text);
  text::Searcher searcher;
  std::vector<std::string> numbers;
  size_t at = 0;
  while (const auto match = searcher.find(digits, clean.view(), at)) {
    numbers.emplace_back(clean.view().substr(match->begin, match->end - match->begin));
    at = match->end;
  }
  return numbers;
}

double share_of(const std::vector<std::string>& numbers, const std::string& number) {
  if (numbers.empty()) return 0;
  return static_cast<double>(std::count(numbers.begin(), numbers.end(), number)) /
         static_cast<double>(numbers.size());
}

std::string paragraph_of(const std::string& reference) {
  static const text::Pattern number(R"((?:(?<=Paragraph )|(?<=段落))\p{Nd}+)", text::Syntax::kPcre,
                                    "paragraph_share");
  const text::CleanText clean(reference);
  text::Searcher searcher;
  const auto match = searcher.find(number, clean.view(), 0);
  if (!match)
    throw DataError(
        concat("paragraph_share: the reference must name a paragraph (\"Paragraph 7\" "
               "or \"段落7\"), got \"",
               reference, "\""));
  return std::string(clean.view().substr(match->begin, match->end - match->begin));
}

std::set<std::string> labels_in(const std::vector<std::string>& labels, const std::string& text) {
  std::set<std::string> found;
  for (const std::string& label : labels) {
    if (holds(text, label)) found.insert(label);
  }
  return found;
}

// BABILong's targets of several labels are joined by commas; qa19's "n,e" is one label.
std::set<std::string> wanted_labels(const std::string& target) {
  if (target.find(',') == std::string::npos || target.size() <= 3) return {target};
  std::set<std::string> labels;
  for (size_t begin = 0; begin <= target.size();) {
    const size_t comma = std::min(target.find(',', begin), target.size());
    labels.insert(target.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return labels;
}

std::string_view trimmed_view(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

bool is_right_option(const SuiteAnswer& answer, char letter) {
  const std::vector<std::string> options = question_parts(answer.question).option_texts;
  const auto is_right = [&](const std::string& option) {
    return !answer.references.empty() && trimmed_view(option) == trimmed_view(answer.references[0]);
  };
  if (std::none_of(options.begin(), options.end(), is_right))
    throw DataError(concat("multiple choice: expected options \"(A) ...\" of which one is the ",
                           "reference, got the question \"", answer.question, "\""));
  const size_t option = static_cast<size_t>(letter - 'A');
  return option < options.size() && is_right(options[option]);
}

}  // namespace

double overlap_f1(const SuiteAnswer& answer) {
  return best_over(answer.references, [&](const std::string& reference) {
    return normalize_answer(reference).empty() ? 0 : token_f1(answer.prediction, {reference});
  });
}

double set_rouge_l(const SuiteAnswer& answer) {
  const std::vector<Words> prediction = sentences_of(answer.prediction);
  return best_over(answer.references, [&](const std::string& reference) {
    return set_rouge_l_of(prediction, sentences_of(reference));
  });
}

double code_similarity(const SuiteAnswer& answer) {
  const std::u32string line = code_points(first_code_line(answer.prediction));
  return best_over(answer.references, [&](const std::string& reference) {
    return ratio(line, code_points(reference));
  });
}

double classification(const SuiteAnswer& answer) {
  return best_over(answer.references, [&](const std::string& reference) {
    std::vector<std::string> named;
    for (const std::string& name : answer.classes) {
      if (holds(answer.prediction, name)) named.push_back(name);
    }
    // The script removes from the list that it goes through, so that each removal skips one.
    for (size_t i = 0; i < named.size(); ++i) {
      if (named[i] != reference && holds(reference, named[i]))
        named.erase(std::find(named.begin(), named.end(), named[i]));
    }
    const bool hit = std::find(named.begin(), named.end(), reference) != named.end();
    return hit ? 1 / static_cast<double>(named.size()) : 0;
  });
}

double number_share(const SuiteAnswer& answer) {
  const std::vector<std::string> numbers = numbers_of(answer.prediction);
  return best_over(answer.references,
                   [&](const std::string& reference) { return share_of(numbers, reference); });
}

double paragraph_share(const SuiteAnswer& answer) {
  const std::vector<std::string> numbers = numbers_of(answer.prediction);
  return best_over(answer.references, [&](const std::string& reference) {
    return share_of(numbers, paragraph_of(reference));
  });
}

double string_match_all(const SuiteAnswer& answer) {
  if (answer.references.empty()) return 0;
  const std::string prediction = text::lower_case(answer.prediction);
  const auto found = std::count_if(
      answer.references.begin(), answer.references.end(),
      [&](const std::string& reference) { return holds(prediction, text::lower_case(reference)); });
  return static_cast<double>(found) / static_cast<double>(answer.references.size());
}

double string_match_part(const SuiteAnswer& answer) { return string_match_all(answer) > 0 ? 1 : 0; }

double single_label(const SuiteAnswer& answer) {
  std::string output = text::lower_case(answer.prediction);
  for (const char* end : {".", "<context>", "<example>"})
    output.resize(std::min(output.find(end), output.size()));
  std::vector<std::string> labels;
  for (const std::string& label : answer.classes) labels.push_back(text::lower_case(label));
  std::set<std::string> named = labels_in(labels, output);
  for (const std::string& label : labels_in(labels, text::lower_case(answer.question)))
    named.erase(label);
  return best_over(answer.references, [&](const std::string& reference) {
    return named == wanted_labels(text::lower_case(reference)) ? 1.0 : 0.0;
  });
}

double exact_match_of(const SuiteAnswer& answer) {
  return exact_match(answer.prediction, answer.references);
}
double token_f1_of(const SuiteAnswer& answer) {
  return token_f1(answer.prediction, answer.references);
}
double subspan_exact_match_of(const SuiteAnswer& answer) {
  return subspan_exact_match(answer.prediction, answer.references);
}
double rouge_l_of(const SuiteAnswer& answer) {
  return rouge(answer.prediction, answer.references).rouge_l.f1;
}

double hotpot_f1(const SuiteAnswer& answer) {
  const auto decides = [](const std::string& text) {
    return text == "yes" || text == "no" || text == "noanswer";
  };
  const std::string prediction = normalize_answer(answer.prediction);
  return best_over(answer.references, [&](const std::string& reference) {
    const std::string expected = normalize_answer(reference);
    if ((decides(prediction) || decides(expected)) && prediction != expected) return 0.0;
    return expected.empty() ? 0.0 : token_f1(prediction, {expected});
  });
}

double stated_choice(const SuiteAnswer& answer) {
  static const text::Pattern in_brackets(R"((?<=The correct answer is \()[A-D](?=\)))",
                                         text::Syntax::kPcre, "stated_choice");
  static const text::Pattern bare(R"((?<=The correct answer is )[A-D])", text::Syntax::kPcre,
                                  "stated_choice");
  std::string prediction = answer.prediction;
  std::erase(prediction, '*');
  for (const text::Pattern* pattern : {&in_brackets, &bare}) {
    const text::CleanText clean(prediction);
    text::Searcher searcher;
    if (const auto match = searcher.find(*pattern, clean.view(), 0))
      return is_right_option(answer, clean.view()[match->begin]) ? 1 : 0;
  }
  return 0;
}

double first_choice(const SuiteAnswer& answer) {
  static const text::Pattern alone(R"((?<![\p{L}\p{N}])[A-D](?![\p{L}\p{N}]))", text::Syntax::kPcre,
                                   "first_choice");
  const text::CleanText clean(answer.prediction);
  text::Searcher searcher;
  const auto match = searcher.find(alone, clean.view(), 0);
  return match && is_right_option(answer, clean.view()[match->begin]) ? 1 : 0;
}

std::string first_answer_line(const std::string& prediction) {
  const size_t begin = std::min(prediction.find_first_not_of('\n'), prediction.size());
  return prediction.substr(begin, prediction.find('\n', begin) - begin);
}

const std::vector<SuiteMetric>& suite_metrics() {
  static const std::vector<SuiteMetric> table = {
      {"overlap_f1", &overlap_f1},
      {"set_rouge_l", &set_rouge_l},
      {"code_similarity", &code_similarity},
      {"classification", &classification},
      {"number_share", &number_share},
      {"paragraph_share", &paragraph_share},
      {"string_match_all", &string_match_all},
      {"string_match_part", &string_match_part},
      {"single_label", &single_label},
      {"exact_match", &exact_match_of},
      {"token_f1", &token_f1_of},
      {"subspan_exact_match", &subspan_exact_match_of},
      {"rouge_l", &rouge_l_of},
      {"hotpot_f1", &hotpot_f1},
      {"stated_choice", &stated_choice},
      {"first_choice", &first_choice},
  };
  return table;
}

const SuiteMetric& find_suite_metric(const std::string& name) {
  std::vector<std::string> names;
  std::string list;
  for (const SuiteMetric& metric : suite_metrics()) {
    if (metric.name == name) return metric;
    names.emplace_back(metric.name);
    list += (list.empty() ? "" : ", ") + names.back();
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(concat("unknown metric \"", name, "\"; expected one of ", list,
                           nearest.empty() ? "" : "; did you mean ", nearest,
                           nearest.empty() ? "" : "?"));
}

}  // namespace dsrsq
