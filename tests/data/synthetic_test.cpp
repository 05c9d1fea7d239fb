#include "dsrsq/data/synthetic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

using Strings = std::vector<std::string>;

Strings split_words(const std::string& text) {
  std::istringstream stream(text);
  Strings words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

Tokenizer make_tokenizer(const SyntheticConfig& config) {
  return Tokenizer::from_json(build_word_tokenizer(synthetic_words(config), synthetic_pieces()),
                              "synthetic");
}

struct ParsedFact {
  std::string name, attribute, answer;
};

// Reads the facts back from the text alone.
std::vector<ParsedFact> parse_facts(const std::string& document) {
  const Strings words = split_words(document);
  std::vector<ParsedFact> facts;
  for (size_t i = 0; i + 7 < words.size(); ++i) {
    if (words[i] != "the") continue;
    EXPECT_EQ(words[i + 2], "of");
    EXPECT_EQ(words[i + 4], "is");
    EXPECT_EQ(words[i + 7], ".");
    facts.push_back({words[i + 3], words[i + 1], words[i + 5] + " " + words[i + 6]});
  }
  return facts;
}

std::string text_at(const DocumentExample& example, const ByteSpan& span) {
  return example.document.substr(span.begin, span.end - span.begin);
}

// (name, attribute) as numbers of the rule, from the list of words: names come first, attributes
// after all made-up words.
std::pair<int64_t, int64_t> pair_numbers(const SyntheticConfig& config, const std::string& name,
                                         const std::string& attribute) {
  const Strings words = synthetic_words(config);
  const auto attributes_begin = words.begin() + config.names + config.values + config.filler_words;
  const auto name_at = std::find(words.begin(), words.begin() + config.names, name);
  const auto attribute_at =
      std::find(attributes_begin, attributes_begin + config.attributes, attribute);
  EXPECT_NE(name_at, words.begin() + config.names) << name;
  EXPECT_NE(attribute_at, attributes_begin + config.attributes) << attribute;
  return {name_at - words.begin(), attribute_at - attributes_begin};
}

bool is_held_out(const SyntheticConfig& config, const std::string& name,
                 const std::string& attribute) {
  const auto [n, a] = pair_numbers(config, name, attribute);
  return (7 * n + a) % 4 == 0;
}

TEST(SyntheticTest, WordsAreDistinctAndOneTokenEach) {
  const SyntheticConfig config;
  const Strings words = synthetic_words(config);
  EXPECT_EQ(std::set<std::string>(words.begin(), words.end()).size(), words.size());
  EXPECT_GE(words.size(), 256u + 16 + 512 + 200);
  const Tokenizer tokenizer = make_tokenizer(config);
  std::set<int32_t> ids;
  for (const std::string& word : words) {
    const std::vector<int32_t> encoded = tokenizer.encode(" " + word);
    ASSERT_EQ(encoded.size(), 1u) << word;
    ids.insert(encoded[0]);
  }
  EXPECT_EQ(ids.size(), words.size());
  EXPECT_LT(tokenizer.vocabulary_size(), 1700);
}

TEST(SyntheticTest, EveryDocumentHasExactlyTheTokens) {
  for (const int64_t tokens : {512, 500, 192, 1024}) {
    SyntheticConfig config;
    config.context_tokens = tokens;
    config.validate();
    const Tokenizer tokenizer = make_tokenizer(config);
    for (const char* split : {"train", "validation", "test"}) {
      for (int64_t i = 0; i < 10; ++i) {
        const DocumentExample example = synthetic_document(config, split, i);
        EXPECT_EQ(static_cast<int64_t>(tokenizer.encode(example.document).size()), tokens);
        for (const Question& question : example.questions) {
          EXPECT_EQ(tokenizer.encode(question.text).size(), 5u) << question.text;
          EXPECT_EQ(tokenizer.encode(" " + question.answers.at(0)).size(), 2u);
          EXPECT_EQ(tokenizer.encode(text_at(example, question.evidence.at(0))).size(), 8u);
          EXPECT_EQ(text_at(example, question.answer_spans.at(0)), " " + question.answers[0]);
        }
      }
    }
  }
}

TEST(SyntheticTest, TheEvidenceAnswersTheQuestionAndNoOtherFactDoes) {
  const SyntheticConfig config;
  for (const char* split : {"train", "validation", "test"}) {
    for (int64_t i = 0; i < 50; ++i) {
      const DocumentExample example = synthetic_document(config, split, i);
      const std::vector<ParsedFact> facts = parse_facts(example.document);
      ASSERT_EQ(facts.size(), 24u);
      std::map<std::string, std::set<std::string>> attributes_of;
      for (const ParsedFact& fact : facts) attributes_of[fact.name].insert(fact.attribute);
      EXPECT_EQ(attributes_of.size(), 12u);
      for (const auto& [name, attributes] : attributes_of) EXPECT_EQ(attributes.size(), 2u) << name;
      EXPECT_EQ(example.questions.size(), std::string(split) == "train" ? 4u : 1u);
      for (const Question& question : example.questions) {
        const Strings words = split_words(question.text);
        const Strings fact = split_words(text_at(example, question.evidence.at(0)));
        EXPECT_EQ(words, (Strings{"ask", fact.at(1), "of", fact.at(3), "?"}));
        EXPECT_EQ(fact.at(5) + " " + fact.at(6), question.answers.at(0));
      }
    }
  }
}

TEST(SyntheticTest, FactsKeepToTheirSlotsAndMoveInsideThem) {
  const SyntheticConfig config;
  std::set<size_t> offsets;
  for (int64_t i = 0; i < 20; ++i) {
    const Strings words = split_words(synthetic_document(config, "test", i).document);
    for (size_t slot = 0; slot < 24; ++slot) {
      size_t found = 0;
      for (size_t j = 0; j < 21; ++j) {
        if (words[slot * 21 + j] != "the") continue;
        ++found;
        offsets.insert(j);
        EXPECT_LE(j, 13u);
      }
      EXPECT_EQ(found, 1u);
    }
  }
  EXPECT_EQ(offsets.size(), 14u);
}

TEST(SyntheticTest, HeldOutPairsAreNeverInTrainingAndAlwaysAsked) {
  const SyntheticConfig config;
  for (int64_t i = 0; i < 200; ++i) {
    for (const ParsedFact& fact : parse_facts(synthetic_document(config, "train", i).document)) {
      EXPECT_FALSE(is_held_out(config, fact.name, fact.attribute));
    }
  }
  int64_t others = 0;
  int64_t others_held_out = 0;
  for (const char* split : {"validation", "test"}) {
    for (int64_t i = 0; i < 100; ++i) {
      const DocumentExample example = synthetic_document(config, split, i);
      const Strings words = split_words(example.questions.at(0).text);
      EXPECT_TRUE(is_held_out(config, words.at(3), words.at(1)));
      for (const ParsedFact& fact : parse_facts(example.document)) {
        ++others;
        others_held_out += is_held_out(config, fact.name, fact.attribute);
      }
    }
  }
  EXPECT_GT(others_held_out, others / 8);  // so "held out" does not tell which fact is asked
  EXPECT_LT(others_held_out, others / 2);
}

TEST(SyntheticTest, BothKindsOfDistractorsStandBesideTheAskedFact) {
  SyntheticConfig small;
  small.facts = 4;
  small.context_tokens = 64;
  for (const SyntheticConfig& config : {SyntheticConfig{}, small}) {
    for (int64_t i = 0; i < 100; ++i) {
      const DocumentExample example = synthetic_document(config, "test", i);
      const Strings asked = split_words(example.questions.at(0).text);
      int64_t same_name = 0;
      int64_t same_attribute = 0;
      for (const ParsedFact& fact : parse_facts(example.document)) {
        same_name += fact.name == asked.at(3) && fact.attribute != asked.at(1);
        same_attribute += fact.name != asked.at(3) && fact.attribute == asked.at(1);
      }
      EXPECT_EQ(same_name, 1);
      EXPECT_GE(same_attribute, 1);
    }
  }
}

TEST(SyntheticTest, PartnersAreHalfOfOneNameAndHalfOfOneAttribute) {
  const SyntheticConfig config;
  int64_t by_name = 0;
  int64_t by_attribute = 0;
  for (int64_t i = 0; i < 500; ++i) {
    const DocumentExample example = synthetic_document(config, "train", i);
    for (size_t q = 0; q < example.questions.size(); q += 2) {
      const Strings first = split_words(example.questions[q].text);
      const Strings second = split_words(example.questions[q + 1].text);
      EXPECT_NE(first, second);
      EXPECT_TRUE(first.at(1) == second.at(1) || first.at(3) == second.at(3));
      by_name += first.at(3) == second.at(3);
      by_attribute += first.at(1) == second.at(1);
    }
  }
  EXPECT_EQ(by_name + by_attribute, 1000);
  EXPECT_NEAR(by_name, 520, 80);  // a little over half: where no other name has the attribute
}

TEST(SyntheticTest, DocumentsDifferAndAreDrawnFromTheirNumbersAlone) {
  SyntheticConfig config;
  std::set<std::string> documents;
  for (const char* split : {"train", "validation", "test"}) {
    for (int64_t i = 0; i < 100; ++i)
      documents.insert(synthetic_document(config, split, i).document);
  }
  EXPECT_EQ(documents.size(), 300u);
  const std::string again = synthetic_document(config, "test", 7).document;
  EXPECT_EQ(again, synthetic_document(config, "test", 7).document);
  config.test_documents = 8;  // how many there are does not matter
  config.question_pairs = 1;
  EXPECT_EQ(again, synthetic_document(config, "test", 7).document);
  config.seed = 1;
  EXPECT_NE(again, synthetic_document(config, "test", 7).document);
  EXPECT_EQ(synthetic_words(config), synthetic_words(SyntheticConfig{}));
}

TEST(SyntheticTest, KeyValue) {
  SyntheticConfig config;
  config.task = "key_value";
  config.facts = 24;
  config.context_tokens = 120;
  config.validate();
  const Tokenizer tokenizer = make_tokenizer(config);
  for (const char* split : {"train", "test"}) {
    const DocumentExample example = synthetic_document(config, split, 0);
    const Strings words = split_words(example.document);
    EXPECT_EQ(tokenizer.encode(example.document).size(), 120u);
    std::set<std::string> keys;
    for (size_t i = 0; i < words.size(); i += 5) {
      keys.insert(words[i]);
      EXPECT_EQ(words[i + 1], ":");
      EXPECT_EQ(words[i + 4], ";");
    }
    EXPECT_EQ(keys.size(), 24u);
    for (const Question& question : example.questions) {
      const Strings record = split_words(text_at(example, question.evidence.at(0)));
      EXPECT_EQ(question.text, " ask " + record.at(0) + " ?");
      EXPECT_EQ(question.answers.at(0), record.at(2) + " " + record.at(3));
    }
  }
}

TEST(SyntheticTest, Needle) {
  SyntheticConfig config;
  config.task = "needle";
  config.facts = 1;
  config.question_pairs = 0;
  config.context_tokens = 256;
  config.validate();
  const Tokenizer tokenizer = make_tokenizer(config);
  std::set<int64_t> places;
  for (int64_t i = 0; i < 50; ++i) {
    const DocumentExample example = synthetic_document(config, i % 2 == 0 ? "train" : "test", i);
    EXPECT_EQ(tokenizer.encode(example.document).size(), 256u);
    ASSERT_EQ(example.questions.size(), 1u);
    const std::vector<ParsedFact> facts = parse_facts(example.document);
    ASSERT_EQ(facts.size(), 1u);
    EXPECT_EQ(is_held_out(config, facts[0].name, facts[0].attribute), i % 2 == 1);
    EXPECT_EQ(facts[0].answer, example.questions[0].answers.at(0));
    places.insert(example.questions[0].evidence.at(0).begin);
  }
  EXPECT_GT(places.size(), 30u);
}

// Everything of an example, as one text.
std::string serialised(const DocumentExample& example) {
  std::string text = example.document + "|" + example.title;
  for (const Question& question : example.questions) {
    text += concat("|", question.id, "|", question.text, "|", question.timestamp, "|",
                   question.source_line);
    for (const std::string& answer : question.answers) text += "|" + answer;
    for (const ByteSpan& span : question.evidence) text += concat("|", span.begin, ",", span.end);
    for (const ByteSpan& span : question.answer_spans)
      text += concat("|", span.begin, ",", span.end);
  }
  return text;
}

uint64_t hash_of_documents(const SyntheticConfig& config) {
  std::string all;
  for (const char* split : {"train", "validation", "test"}) {
    for (int64_t i = 0; i < 50; ++i) all += serialised(synthetic_document(config, split, i));
  }
  return stable_hash(all);
}

SyntheticConfig with_share(double share) {
  SyntheticConfig config;
  config.two_fact_share = share;
  config.validate();
  return config;
}

bool ends_in_two(const std::string& id) {
  return id.size() > 4 && id.compare(id.size() - 4, 4, "-two") == 0;
}

// Hashes of the generator before it knew two-fact questions: data sets can be made anew.
TEST(SyntheticTest, DocumentsAndWordsAreThoseOfEarlierVersions) {
  SyntheticConfig small;
  small.facts = 4;
  small.context_tokens = 64;
  small.question_pairs = 1;
  small.seed = 3;
  SyntheticConfig key_value;
  key_value.task = "key_value";
  key_value.context_tokens = 120;
  SyntheticConfig needle;
  needle.task = "needle";
  needle.facts = 1;
  needle.question_pairs = 0;
  needle.context_tokens = 256;
  EXPECT_EQ(hash_of_documents(SyntheticConfig{}), 0x560efedc7609fa5eu);
  EXPECT_EQ(hash_of_documents(small), 0xd56199622dc47cafu);
  EXPECT_EQ(hash_of_documents(key_value), 0xf84ef2124d93a576u);
  EXPECT_EQ(hash_of_documents(needle), 0x15802c5069f344cbu);
  std::string words;
  for (const std::string& word : synthetic_words(SyntheticConfig{})) words += word + " ";
  EXPECT_EQ(stable_hash(words), 0x727d1c8ba35e097au);
}

TEST(SyntheticTest, TwoFactShareIsKeptWithinSamplingError) {
  for (const double share : {0.0, 0.3, 1.0}) {
    const SyntheticConfig config = with_share(share);
    for (const auto& [split, documents] : {std::pair{"train", 400}, {"test", 1000}}) {
      int64_t questions = 0;
      int64_t two = 0;
      for (int64_t i = 0; i < documents; ++i) {
        for (const Question& question : synthetic_document(config, split, i).questions) {
          ++questions;
          two += ends_in_two(question.id);
          EXPECT_EQ(ends_in_two(question.id), question.evidence.size() == 2);
        }
      }
      const double deviation = std::sqrt(share * (1 - share) / static_cast<double>(questions));
      EXPECT_NEAR(static_cast<double>(two) / static_cast<double>(questions), share, 4 * deviation)
          << split << " " << share;
    }
  }
}

TEST(SyntheticTest, TwoFactQuestionsAreAnsweredByTheirTwoSpans) {
  const SyntheticConfig config = with_share(1);
  const Tokenizer tokenizer = make_tokenizer(config);
  for (const char* split : {"train", "validation", "test"}) {
    for (int64_t i = 0; i < 50; ++i) {
      const DocumentExample example = synthetic_document(config, split, i);
      EXPECT_EQ(static_cast<int64_t>(tokenizer.encode(example.document).size()),
                config.context_tokens);
      for (const Question& question : example.questions) {
        ASSERT_EQ(question.evidence.size(), 2u);
        ASSERT_EQ(question.answer_spans.size(), 2u);
        const Strings first = split_words(text_at(example, question.evidence[0]));
        const Strings second = split_words(text_at(example, question.evidence[1]));
        ASSERT_EQ(first.size(), 8u);
        ASSERT_EQ(second.size(), 8u);
        EXPECT_EQ(question.text, " ask " + first[1] + " of " + first[3] + " and " + second[1] +
                                     " of " + second[3] + " ?");
        EXPECT_NE(first[3], second[3]);
        EXPECT_EQ(question.answers,
                  Strings{first[5] + " " + first[6] + " " + second[5] + " " + second[6]});
        EXPECT_EQ(
            text_at(example, question.answer_spans[0]) + text_at(example, question.answer_spans[1]),
            " " + question.answers[0]);
        EXPECT_EQ(tokenizer.encode(question.text).size(), 9u);
        EXPECT_EQ(tokenizer.encode(" " + question.answers[0]).size(), 4u);
      }
    }
  }
}

TEST(SyntheticTest, TheShareOfTwoFactQuestionsChangesNoDocument) {
  const SyntheticConfig one = with_share(0);
  int64_t kinds[2] = {0, 0};
  for (const double share : {0.5, 1.0}) {
    for (const char* split : {"train", "test"}) {
      for (int64_t i = 0; i < 50; ++i) {
        const DocumentExample expected = synthetic_document(one, split, i);
        const DocumentExample example = synthetic_document(with_share(share), split, i);
        EXPECT_EQ(example.document, expected.document);
        ASSERT_EQ(example.questions.size(), expected.questions.size());
        for (size_t q = 0; q < example.questions.size(); ++q) {
          const Question& question = example.questions[q];
          const bool two = ends_in_two(question.id);
          ++kinds[two];
          EXPECT_EQ(question.id, expected.questions[q].id + (two ? "-two" : ""));
          EXPECT_EQ(text_at(example, question.evidence[0]),
                    text_at(expected, expected.questions[q].evidence[0]));
          if (!two) {
            EXPECT_EQ(question.text, expected.questions[q].text);
          }
        }
      }
    }
  }
  EXPECT_GT(kinds[false], 50);
  EXPECT_GT(kinds[true], 300);
}

TEST(SyntheticTest, TheSecondFactIsAHeldOutPairWhereTheDocumentHasOne) {
  SyntheticConfig small = with_share(1);
  small.facts = 4;
  small.context_tokens = 64;
  int64_t without = 0;
  for (const SyntheticConfig& config : {with_share(1), small}) {
    for (int64_t i = 0; i < 100; ++i) {
      const DocumentExample example =
          synthetic_document(config, i % 2 == 0 ? "validation" : "test", i);
      const Strings asked = split_words(example.questions.at(0).text);
      const std::vector<ParsedFact> facts = parse_facts(example.document);
      const bool there_is_one = std::any_of(facts.begin(), facts.end(), [&](const auto& fact) {
        return fact.name != asked.at(3) && is_held_out(config, fact.name, fact.attribute);
      });
      EXPECT_TRUE(is_held_out(config, asked.at(3), asked.at(1)));
      EXPECT_EQ(is_held_out(config, asked.at(7), asked.at(5)), there_is_one);
      without += !there_is_one;
    }
    for (int64_t i = 0; i < 50; ++i) {
      for (const ParsedFact& fact : parse_facts(synthetic_document(config, "train", i).document))
        EXPECT_FALSE(is_held_out(config, fact.name, fact.attribute));
    }
  }
  EXPECT_GT(without, 10);  // of the small documents: both cases were met
  EXPECT_LT(without, 100);
}

TEST(SyntheticTest, TwoFactQuestionsAddOneWordThatMovesNoOther) {
  const Strings one = synthetic_words(with_share(0));
  Strings expected = one;
  expected.push_back("and");
  EXPECT_EQ(synthetic_words(with_share(0.1)), expected);
  const Tokenizer before = make_tokenizer(with_share(0));
  const Tokenizer after = make_tokenizer(with_share(0.1));
  EXPECT_EQ(after.vocabulary_size(), before.vocabulary_size() + 1);
  for (const std::string& word : one)
    EXPECT_EQ(before.encode(" " + word), after.encode(" " + word)) << word;
}

TEST(SyntheticTest, ImpossibleSettingsAreConfigErrors) {
  const auto expect_error = [](const std::function<void(SyntheticConfig&)>& change) {
    SyntheticConfig config;
    change(config);
    EXPECT_THROW(config.validate(), ConfigError);
  };
  EXPECT_NO_THROW(SyntheticConfig{}.validate());
  expect_error([](auto& c) { c.context_tokens = 24 * 8 - 1; });
  expect_error([](auto& c) { c.facts = 23; });
  expect_error([](auto& c) { c.facts = 2; });
  expect_error([](auto& c) { c.names = 11; });
  expect_error([](auto& c) { c.question_pairs = 25; });
  expect_error([](auto& c) { c.values = 8000; });
  expect_error([](auto& c) { c.task = "key_value"; });
  expect_error([](auto& c) { c.task = "needle"; });
  expect_error([](auto& c) { c.task = "poems"; });
  const auto two_facts_of = [&](const std::string& task, int64_t facts, int64_t context_tokens) {
    SyntheticConfig config;
    config.task = task;
    config.facts = facts;
    config.question_pairs = 0;
    config.context_tokens = context_tokens;
    EXPECT_NO_THROW(config.validate());
    config.two_fact_share = 0.5;
    EXPECT_THROW(config.validate(), ConfigError);
  };
  two_facts_of("key_value", 24, 120);
  two_facts_of("needle", 1, 256);
  for (const char* share : {"-0.1", "1.5", "half"}) {
    SyntheticConfig config;
    EXPECT_THROW(load_config({"", {concat("two_fact_share=", share)}, {}},
                             [&config](ConfigVisitor& v) { config.visit_fields(v); }),
                 ConfigError)
        << share;
  }
  EXPECT_THROW(synthetic_document(SyntheticConfig{}, "dev", 0), ConfigError);
}

}  // namespace
}  // namespace dsrsq
