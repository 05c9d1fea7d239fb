#include "dsrsq/data/synthetic.h"

#include <algorithm>
#include <array>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

constexpr int64_t kFactTokens = 8;      // the ATTRIBUTE of NAME is V1 V2 .
constexpr int64_t kKeyValueTokens = 5;  // KEY : V1 V2 ;
// Where a document's draws about two-fact questions begin in its stream: far behind all others, so
// that the share changes no document.
constexpr uint64_t kTwoFactPosition = uint64_t{1} << 40;
constexpr uint64_t kUpdatePosition = uint64_t{1} << 41;
constexpr int64_t kMaximumWords =
    7800;  // consonant-vowel-consonant-vowel words, some of which are English ones

const std::array<const char*, 18> kConsonants = {"b", "d", "f", "g", "h", "j", "k", "l", "m",
                                                 "n", "p", "r", "s", "t", "v", "w", "y", "z"};
const std::array<const char*, 5> kVowels = {"a", "e", "i", "o", "u"};
const std::array<const char*, 9> kFunctionWords = {"the", "of", "is", "ask", ".",
                                                   "?",   ":",  ";",  ","};
const std::vector<std::string> kAttributes = {
    "capital", "colour",   "river",     "language", "harvest", "founder", "weather",  "currency",
    "anthem",  "flower",   "neighbour", "bridge",   "temple",  "sport",   "mountain", "dish",
    "castle",  "garden",   "teacher",   "hospital", "market",  "island",  "forest",   "ruler",
    "painter", "festival", "museum",    "harbour",  "library", "station", "cheese",   "climate"};

// Combinations that are offensive words of English.
const std::array<const char*, 6> kSkipped = {"dago", "homo", "kike", "nazi", "puta", "rape"};

std::string syllable(int64_t index) {
  return std::string(kConsonants[static_cast<size_t>(index) / kVowels.size()]) +
         kVowels[static_cast<size_t>(index) % kVowels.size()];
}

// Names first, then values, then filler: one list without repetition. The stride is a prime that
// does not divide 8100, so that neighbours in the list share no syllable by rule.
std::vector<std::string> made_up_words(int64_t count) {
  constexpr int64_t kSyllables = static_cast<int64_t>(kConsonants.size() * kVowels.size());
  constexpr int64_t kStride = 2731;
  std::vector<std::string> words;
  for (int64_t i = 0; static_cast<int64_t>(words.size()) < count; ++i) {
    const int64_t code = (i * kStride + 17) % (kSyllables * kSyllables);
    std::string word = syllable(code / kSyllables) + syllable(code % kSyllables);
    const bool taken = std::find(kAttributes.begin(), kAttributes.end(), word) != kAttributes.end();
    if (!taken && std::find(kSkipped.begin(), kSkipped.end(), word) == kSkipped.end())
      words.push_back(std::move(word));
  }
  return words;
}

// Numbers of one document, in the order of use from `position` on.
class Draw {
 public:
  Draw(const SyntheticConfig& config, uint64_t split, int64_t index, uint64_t position)
      : stream_(static_cast<uint64_t>(config.seed), Purpose::kSynthetic, split,
                static_cast<uint64_t>(index)),
        position_(position) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(stream_.below(position_++, static_cast<uint64_t>(bound)));
  }
  bool coin() { return below(2) == 1; }
  bool chance(double probability) { return stream_.uniform(position_++) < probability; }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (int64_t i = static_cast<int64_t>(values.size()) - 1; i > 0; --i)
      std::swap(values[i], values[below(i + 1)]);
  }

 private:
  RandomStream stream_;
  uint64_t position_;
};

// One fact or record; key_value uses the name alone.
struct Fact {
  int64_t name = 0;
  int64_t attribute = 0;
  int64_t first = 0;  // values
  int64_t second = 0;
  ByteSpan text;  // where it stands in the document
  ByteSpan answer;
  // Values before an update; -1: it is stated once.
  int64_t old_first = -1;
  int64_t old_second = -1;
};

class DocumentMaker {
 public:
  DocumentMaker(const SyntheticConfig& config, const std::string& split, uint64_t split_number,
                int64_t index)
      : config_(config),
        words_(synthetic_words_by_role(config)),
        split_(split),
        train_(split == "train"),
        split_number_(split_number),
        index_(index),
        draw_(config, split_number, index, 0),
        two_fact_draw_(config, split_number, index, kTwoFactPosition) {}

  DocumentExample make() {
    if (config_.task == "key_value") {
      draw_key_values();
      lay_out_key_values();
    } else {
      draw_facts();
      draw_updates();
      lay_out_facts();
    }
    add_questions();
    return std::move(example_);
  }

 private:
  bool allowed(int64_t name, int64_t attribute) const {
    return !train_ || !is_test_pair(name, attribute);
  }

  void add_fact(int64_t name, int64_t attribute) {
    facts_.push_back({name,
                      attribute,
                      draw_.below(config_.values),
                      draw_.below(config_.values),
                      {},
                      {},
                      -1,
                      -1});
  }

  // An attribute that `name` may carry beside `other`: one that is in the document already, if
  // asked for and if there is one.
  int64_t draw_attribute(int64_t name, int64_t other, bool shared) {
    std::vector<int64_t> candidates;
    if (shared) {
      for (const Fact& fact : facts_) {
        if (fact.name != name && fact.attribute != other && allowed(name, fact.attribute))
          candidates.push_back(fact.attribute);
      }
    }
    if (candidates.empty()) {
      for (int64_t a = 0; a < config_.attributes; ++a) {
        if (a != other && allowed(name, a)) candidates.push_back(a);
      }
    }
    return candidates[draw_.below(static_cast<int64_t>(candidates.size()))];
  }

  std::vector<int64_t> draw_names(int64_t count) {
    std::vector<int64_t> names(static_cast<size_t>(config_.names));
    for (int64_t i = 0; i < config_.names; ++i) names[i] = i;
    for (int64_t i = 0; i < count; ++i)
      std::swap(names[i], names[i + draw_.below(config_.names - i)]);
    names.resize(static_cast<size_t>(count));
    return names;
  }

  // Fact 0 is the one that validation and test ask. Each name after the first shares an attribute
  // with an earlier one, and the second name has the attribute of fact 0, so that both kinds of
  // distractor are there.
  void draw_facts() {
    const std::vector<int64_t> names = draw_names(std::max<int64_t>(1, config_.facts / 2));
    int64_t first = draw_attribute(names[0], -1, false);
    if (!train_) {
      const int64_t step = draw_.below((config_.attributes - names[0] % 4 + 3) / 4);
      first =
          names[0] % 4 + 4 * step;  // (7 name + attribute) % 4 == 0 where attribute = name modulo 4
    }
    add_fact(names[0], first);
    if (config_.facts == 1) return;
    add_fact(names[0], draw_attribute(names[0], first, false));
    for (size_t i = 1; i < names.size(); ++i) {
      const bool force = i == 1 && allowed(names[i], first);
      const int64_t shared = force ? first : draw_attribute(names[i], -1, true);
      add_fact(names[i], shared);
      add_fact(names[i], draw_attribute(names[i], shared, false));
    }
  }

  void draw_updates() {
    Draw draw(config_, split_number_, index_, kUpdatePosition);
    std::vector<size_t> order(facts_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (config_.updates > 0) draw.shuffle(order);
    for (int64_t i = 0; i < config_.updates; ++i) {
      Fact& fact = facts_[order[static_cast<size_t>(i)]];
      fact.old_first = draw.below(config_.values - 1);
      fact.old_first += fact.old_first >= fact.first;  // another one
      fact.old_second = draw.below(config_.values);
    }
  }

  void draw_key_values() {
    for (const int64_t name : draw_names(config_.facts)) add_fact(name, 0);
  }

  ByteSpan write(const std::vector<std::string>& words) {
    const int64_t begin = static_cast<int64_t>(example_.document.size());
    for (const std::string& word : words) example_.document += " " + word;
    return {begin, static_cast<int64_t>(example_.document.size())};
  }

  void write_filler(int64_t count) {
    for (int64_t i = 0; i < count; ++i) write({words_.filler[draw_.below(config_.filler_words)]});
  }

  std::vector<size_t> random_order() {
    std::vector<size_t> order(facts_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    draw_.shuffle(order);
    return order;
  }

  // An updated fact is stated by its first call with its old value.
  void state(Fact& fact, bool first_time) {
    const bool old = first_time && fact.old_first >= 0;
    const ByteSpan head =
        write({"the", kAttributes[fact.attribute], "of", words_.names[fact.name], "is"});
    fact.answer = write({words_.values[old ? fact.old_first : fact.first],
                         words_.values[old ? fact.old_second : fact.second]});
    fact.text = {head.begin, write({"."}).end};
  }

  void lay_out_facts() {
    const int64_t slot = config_.context_tokens / (config_.facts + config_.updates);
    std::vector<size_t> order(facts_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (size_t i = 0; i < facts_.size(); ++i)
      if (facts_[i].old_first >= 0) order.push_back(i);
    draw_.shuffle(order);
    std::vector<bool> stated(facts_.size(), false);
    int64_t written = 0;
    for (const size_t i : order) {
      const int64_t before = draw_.below(slot - kFactTokens + 1);
      write_filler(before);
      state(facts_[i], !stated[i]);
      stated[i] = true;
      write_filler(slot - kFactTokens - before);
      written += slot;
    }
    write_filler(config_.context_tokens - written);
  }

  void lay_out_key_values() {
    for (const size_t i : random_order()) {
      Fact& fact = facts_[i];
      const ByteSpan head = write({words_.names[fact.name], ":"});
      fact.answer = write({words_.values[fact.first], words_.values[fact.second]});
      fact.text = {head.begin, write({";"}).end};
    }
  }

  // "ATTRIBUTE of NAME", or the key.
  std::string asked_words(const Fact& fact) const {
    const std::string& name = words_.names[fact.name];
    return config_.task == "key_value" ? name : kAttributes[fact.attribute] + " of " + name;
  }

  // A fact of another name than the first's, to be asked beside it; outside training a test pair,
  // where the document has one.
  size_t draw_second(const Fact& first) {
    std::vector<size_t> candidates;
    std::vector<size_t> held_out;
    for (size_t i = 0; i < facts_.size(); ++i) {
      if (facts_[i].name == first.name) continue;
      candidates.push_back(i);
      if (is_test_pair(facts_[i].name, facts_[i].attribute)) held_out.push_back(i);
    }
    const std::vector<size_t>& chosen = held_out.empty() ? candidates : held_out;
    return chosen[two_fact_draw_.below(static_cast<int64_t>(chosen.size()))];
  }

  void ask(size_t index) {
    std::vector<size_t> asked = {index};
    if (config_.two_fact_share > 0 && two_fact_draw_.chance(config_.two_fact_share))
      asked.push_back(draw_second(facts_[index]));
    Question question;
    question.id = concat(split_, "-", index_, "-", example_.questions.size(),
                         asked.size() == 2 ? "-two" : "");
    std::string answer;
    for (const size_t i : asked) {
      const Fact& fact = facts_[i];
      question.text += (question.text.empty() ? " ask " : " and ") + asked_words(fact);
      answer += (answer.empty() ? "" : " ") + words_.values[fact.first] + " " +
                words_.values[fact.second];
      question.evidence.push_back(fact.text);
      question.answer_spans.push_back(fact.answer);
    }
    question.text += " ?";
    question.answers = {answer};
    question.source_line = index_ + 1;
    example_.questions.push_back(std::move(question));
  }

  size_t draw_partner(size_t asked) {
    std::vector<size_t> same_name;
    std::vector<size_t>
        others;  // of the same attribute, or any other record where there are no attributes
    for (size_t i = 0; i < facts_.size(); ++i) {
      if (i == asked) continue;
      if (facts_[i].name == facts_[asked].name) {
        same_name.push_back(i);
      } else if (facts_[i].attribute == facts_[asked].attribute) {
        others.push_back(i);
      }
    }
    const bool by_name = draw_.coin();
    const std::vector<size_t>& chosen =
        (by_name && !same_name.empty()) || others.empty() ? same_name : others;
    return chosen[draw_.below(static_cast<int64_t>(chosen.size()))];
  }

  void add_questions() {
    if (!train_) {
      ask(0);
      return;
    }
    const std::vector<size_t> order = random_order();
    if (config_.question_pairs == 0) ask(order[0]);
    for (int64_t pair = 0; pair < config_.question_pairs; ++pair) {
      ask(order[pair]);
      ask(draw_partner(order[pair]));
    }
  }

  const SyntheticConfig& config_;
  SyntheticWords words_;
  std::string split_;
  bool train_;
  uint64_t split_number_;
  int64_t index_;
  Draw draw_;
  Draw two_fact_draw_;
  std::vector<Fact> facts_;
  DocumentExample example_;
};

void require(bool condition, const std::string& message) {
  if (!condition) throw ConfigError("synthetic: " + message);
}

}  // namespace

void SyntheticConfig::visit_fields(ConfigVisitor& v) {
  v.field("task", task, "What is generated.", one_of({"facts", "key_value", "needle"}));
  v.field("seed", seed, "Seed of all documents.", at_least(0));
  v.field("context_tokens", context_tokens, "Tokens a document, exactly.", between(8, 1 << 24));
  v.field("facts", facts, "Facts (records) a document; facts: even, two a name; needle: 1.",
          between(1, 1 << 20));
  v.field("names", names, "Names that facts are about; keys of key_value.",
          between(1, kMaximumWords));
  v.field("attributes", attributes, "Attributes of names; a quarter of the pairs is held out.",
          between(4, static_cast<double>(kAttributes.size())));
  v.field("values", values, "Value words; an answer is two of them.", between(2, kMaximumWords));
  v.field("filler_words", filler_words, "Words of the text between facts.",
          between(1, kMaximumWords));
  v.field("question_pairs", question_pairs,
          "Pairs of partner questions a training document; 0: one question.", between(0, 1 << 20));
  v.field("two_fact_share", two_fact_share,
          "Share of questions that ask for two facts of different names; only facts.",
          between(0, 1));
  v.field("updates", updates,
          "Facts of a document that are stated twice, the last time being true; "
          "only facts.",
          between(0, 1 << 20));
  v.field("train_documents", train_documents, "Documents of the split train.", between(1, 1e9));
  v.field("validation_documents", validation_documents,
          "Documents of the split validation, one question each.", between(1, 1e9));
  v.field("test_documents", test_documents, "Documents of the split test, one question each.",
          between(1, 1e9));
}

void SyntheticConfig::validate() const {
  require(names + values + filler_words <= kMaximumWords,
          concat("names + values + filler_words are ", names + values + filler_words, ", at most ",
                 kMaximumWords));
  require(question_pairs <= facts,
          concat("question_pairs (", question_pairs, ") must be at most facts (", facts, ")"));
  require(two_fact_share == 0 || task == "facts",
          concat("two_fact_share is for the task facts: set two_fact_share=0 for ", task, ", got ",
                 two_fact_share));
  require(updates == 0 || (task == "facts" && updates <= facts),
          concat("updates is for the task facts and at most facts (", facts, "), got ", updates,
                 " with ", task));
  if (task == "key_value") {
    require(facts * kKeyValueTokens == context_tokens,
            concat("key_value has no filler: context_tokens must be ", kKeyValueTokens,
                   " x facts = ", facts * kKeyValueTokens, ", got ", context_tokens));
    require(facts <= names, concat("key_value: facts (", facts, ") must be at most names (", names,
                                   "), one key each"));
    require(facts >= 2 || question_pairs == 0, "key_value: a pair of questions needs facts >= 2");
    return;
  }
  if (task == "needle") {
    require(facts == 1 && question_pairs == 0,
            concat("needle has one fact and no partner: set facts=1 and question_pairs=0, got ",
                   facts, " and ", question_pairs));
  } else {
    require(task == "facts",
            concat("unknown task \"", task, "\"; expected facts, key_value or needle"));
    require(
        facts >= 4 && facts % 2 == 0,
        concat("facts: facts must be even and at least 4 (two a name, two names), got ", facts));
    require(facts / 2 <= names,
            concat("facts: facts / 2 (", facts / 2, ") must be at most names (", names, ")"));
  }
  const int64_t statements = facts + updates;
  require(context_tokens / statements >= kFactTokens,
          concat("a fact has ", kFactTokens, " tokens: context_tokens must be at least ",
                 kFactTokens * statements, ", got ", context_tokens));
}

bool is_test_pair(int64_t name, int64_t attribute) { return (7 * name + attribute) % 4 == 0; }

SyntheticWords synthetic_words_by_role(const SyntheticConfig& config) {
  const std::vector<std::string> all =
      made_up_words(config.names + config.values + config.filler_words);
  const auto values_begin = all.begin() + config.names;
  const auto filler_begin = values_begin + config.values;
  return {{all.begin(), values_begin},
          {values_begin, filler_begin},
          {filler_begin, all.end()},
          {kAttributes.begin(), kAttributes.begin() + config.attributes}};
}

std::vector<std::string> synthetic_words(const SyntheticConfig& config) {
  std::vector<std::string> words =
      made_up_words(config.names + config.values + config.filler_words);
  words.insert(words.end(), kAttributes.begin(), kAttributes.begin() + config.attributes);
  words.insert(words.end(), kFunctionWords.begin(), kFunctionWords.end());
  // Last and only where it is needed, so that no other word's token changes.
  if (config.two_fact_share > 0) words.push_back("and");
  return words;
}

std::vector<std::string> synthetic_pieces() {
  std::vector<std::string> pieces;
  for (size_t i = 0; i < kConsonants.size() * kVowels.size(); ++i)
    pieces.push_back(syllable(static_cast<int64_t>(i)));
  return pieces;
}

DocumentExample synthetic_document(const SyntheticConfig& config, const std::string& split,
                                   int64_t index) {
  const std::array<std::string, 3> splits = {"train", "validation", "test"};
  const auto found = std::find(splits.begin(), splits.end(), split);
  if (found == splits.end())
    throw ConfigError(
        concat("synthetic: unknown split \"", split, "\"; expected train, validation or test"));
  return DocumentMaker(config, split, static_cast<uint64_t>(found - splits.begin()), index).make();
}

}  // namespace dsrsq
