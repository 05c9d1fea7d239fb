#include "porter_stemmer.h"

#include <initializer_list>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dsrsq::text {
namespace {

bool is_vowel_letter(char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; }

// By position; y is a consonant at the beginning and after a vowel.
std::vector<bool> consonants(std::string_view word) {
  std::vector<bool> flags;
  for (size_t i = 0; i < word.size(); ++i) {
    const bool is_y = word[i] == 'y';
    flags.push_back(is_y ? i == 0 || !flags[i - 1] : !is_vowel_letter(word[i]));
  }
  return flags;
}

// m of [C](VC)^m[V].
int measure(std::string_view stem) {
  const std::vector<bool> flags = consonants(stem);
  int count = 0;
  for (size_t i = 1; i < flags.size(); ++i) count += !flags[i - 1] && flags[i];
  return count;
}

bool contains_vowel(std::string_view stem) {
  for (const bool consonant : consonants(stem))
    if (!consonant) return true;
  return false;
}

bool ends_in_consonant(std::string_view word) { return !word.empty() && consonants(word).back(); }

bool ends_in_double_consonant(std::string_view word) {
  return word.size() >= 2 && word.back() == word[word.size() - 2] && ends_in_consonant(word);
}

// *o: consonant, vowel, consonant other than w, x, y; nltk adds words of a vowel and a consonant.
bool ends_cvc(std::string_view word) {
  const std::vector<bool> flags = consonants(word);
  const size_t n = flags.size();
  if (n == 2) return !flags[0] && flags[1];
  return n >= 3 && flags[n - 3] && !flags[n - 2] && flags[n - 1] && word.back() != 'w' &&
         word.back() != 'x' && word.back() != 'y';
}

std::string_view without(std::string_view word, std::string_view suffix) {
  return word.substr(0, word.size() - suffix.size());
}

struct Rule {
  std::string_view suffix;
  std::string_view replacement;
};

// The first rule whose suffix the word has decides, whether its condition holds or not.
template <typename Condition>
std::string apply_first(const std::string& word, std::initializer_list<Rule> rules,
                        const Condition& condition) {
  for (const Rule& rule : rules) {
    if (!word.ends_with(rule.suffix)) continue;
    const std::string_view stem = without(word, rule.suffix);
    return condition(stem, rule.suffix) ? std::string(stem).append(rule.replacement) : word;
  }
  return word;
}

// Plurals.
std::string step_1a(const std::string& word) {
  if (word.size() == 4 && word.ends_with("ies")) return word.substr(0, 3);  // dies -> die
  return apply_first(word, {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}},
                     [](std::string_view, std::string_view) { return true; });
}

// What is left of -ed and -ing is made a word again.
std::string restore_end(const std::string& stem) {
  if (stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz")) return stem + "e";
  if (ends_in_double_consonant(stem)) {
    const char last = stem.back();
    return last == 'l' || last == 's' || last == 'z' ? stem : stem.substr(0, stem.size() - 1);
  }
  return measure(stem) == 1 && ends_cvc(stem) ? stem + "e" : stem;
}

std::string step_1b(const std::string& word) {
  if (word.ends_with("ied")) return word.substr(0, word.size() - (word.size() == 4 ? 1 : 2));
  if (word.ends_with("eed"))
    return measure(without(word, "eed")) > 0 ? word.substr(0, word.size() - 1) : word;
  for (const std::string_view suffix : {"ed", "ing"}) {
    if (word.ends_with(suffix) && contains_vowel(without(word, suffix)))
      return restore_end(std::string(without(word, suffix)));
  }
  return word;
}

std::string step_1c(const std::string& word) {
  return apply_first(word, {{"y", "i"}}, [](std::string_view stem, std::string_view) {
    return stem.size() > 1 && ends_in_consonant(stem);
  });
}

std::string step_2(const std::string& word) {
  if (word.ends_with("alli") && measure(without(word, "alli")) > 0)
    return step_2(word.substr(0, word.size() - 2));
  return apply_first(
      word, {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
             {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
             {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
             {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
             {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
             {"fulli", "ful"},   {"logi", "log"}},
      [&](std::string_view stem, std::string_view suffix) {
        // The l belongs to the stem, so that geologi is stemmed as archaeologi is.
        if (suffix == "logi") stem = std::string_view(word).substr(0, stem.size() + 1);
        return measure(stem) > 0;
      });
}

std::string step_3(const std::string& word) {
  return apply_first(word,
                     {{"icate", "ic"},
                      {"ative", ""},
                      {"alize", "al"},
                      {"iciti", "ic"},
                      {"ical", "ic"},
                      {"ful", ""},
                      {"ness", ""}},
                     [](std::string_view stem, std::string_view) { return measure(stem) > 0; });
}

std::string step_4(const std::string& word) {
  return apply_first(word,
                     {{"al", ""},
                      {"ance", ""},
                      {"ence", ""},
                      {"er", ""},
                      {"ic", ""},
                      {"able", ""},
                      {"ible", ""},
                      {"ant", ""},
                      {"ement", ""},
                      {"ment", ""},
                      {"ent", ""},
                      {"ion", ""},
                      {"ou", ""},
                      {"ism", ""},
                      {"ate", ""},
                      {"iti", ""},
                      {"ous", ""},
                      {"ive", ""},
                      {"ize", ""}},
                     [](std::string_view stem, std::string_view suffix) {
                       return measure(stem) > 1 &&
                              (suffix != "ion" || stem.back() == 's' || stem.back() == 't');
                     });
}

std::string step_5(std::string word) {
  if (word.ends_with('e')) {
    const std::string_view stem = without(word, "e");
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_cvc(stem))) word.pop_back();
  }
  if (word.ends_with("ll") && measure(without(word, "l")) > 1) word.pop_back();
  return word;
}

}  // namespace

std::string porter_stem(const std::string& word) {
  static const std::unordered_map<std::string_view, std::string_view> irregular = {
      {"sky", "sky"},        {"skies", "sky"},        {"dying", "die"},
      {"lying", "lie"},      {"tying", "tie"},        {"news", "news"},
      {"innings", "inning"}, {"inning", "inning"},    {"outings", "outing"},
      {"outing", "outing"},  {"cannings", "canning"}, {"canning", "canning"},
      {"howe", "howe"},      {"proceed", "proceed"},  {"exceed", "exceed"},
      {"succeed", "succeed"}};
  if (const auto found = irregular.find(word); found != irregular.end())
    return std::string(found->second);
  if (word.size() <= 2) return word;
  return step_5(step_4(step_3(step_2(step_1c(step_1b(step_1a(word)))))));
}

}  // namespace dsrsq::text
