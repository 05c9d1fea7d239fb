#include "dsrsq/data/fact_stream.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

constexpr int64_t kFactTokens = 8;    // the ATTRIBUTE of NAME is V1 V2 .
constexpr uint64_t kStreamSplit = 3;  // beside train, validation and test of synthetic.cpp

// Numbers in the order of use.
class Draw {
 public:
  explicit Draw(int64_t seed) : stream_(uint64_t(seed), Purpose::kSynthetic, kStreamSplit, 0) {}
  int64_t below(int64_t bound) { return int64_t(stream_.below(position_++, uint64_t(bound))); }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (int64_t i = int64_t(values.size()) - 1; i > 0; --i)
      std::swap(values[size_t(i)], values[size_t(below(i + 1))]);
  }

 private:
  RandomStream stream_;
  uint64_t position_ = 0;
};

struct Pair {
  int64_t name = 0, attribute = 0;
};

struct Statement {
  int64_t begin = 0;  // its first token
  ByteSpan bytes;
};

struct StreamFact {
  Pair pair;
  std::vector<std::string> values;
  std::vector<Statement> statements;
};

class StreamMaker {
 public:
  explicit StreamMaker(const FactStreamConfig& config)
      : config_(config), words_(synthetic_words_by_role(config.language())), draw_(config.seed) {}

  FactStream make() {
    draw_facts();
    lay_out();
    for (int64_t f = 0; f < config_.facts; ++f)
      if (probed(f)) probe_fact(f);
    for (int64_t c = 0; c < config_.controls; ++c) probe_control(config_.facts + c);
    std::stable_sort(
        stream_.probes.begin(), stream_.probes.end(),
        [](const StreamProbe& x, const StreamProbe& y) { return x.prefix_bytes < y.prefix_bytes; });
    stream_.source = concat("generated fact stream, seed ", config_.seed, ", ", config_.tokens,
                            " tokens, ", config_.facts, " facts, ", config_.updates, " updates");
    stream_.segment = config_.segment;
    return std::move(stream_);
  }

 private:
  // Facts [0, updates) are updated.
  int64_t probed_updated() const { return config_.probed_facts * config_.updates / config_.facts; }
  bool probed(int64_t fact) const {
    return fact < config_.updates
               ? fact < probed_updated()
               : fact - config_.updates < config_.probed_facts - probed_updated();
  }

  std::string draw_value() {
    auto word = [&] { return words_.values[size_t(draw_.below(config_.values))]; };
    auto first = word();
    return first + " " + word();
  }

  // Facts, then controls; no pair twice.
  void draw_facts() {
    std::vector<Pair> held_out, others;
    for (int64_t n = 0; n < config_.names; ++n)
      for (int64_t a = 0; a < config_.attributes; ++a)
        (is_test_pair(n, a) ? held_out : others).push_back({n, a});
    draw_.shuffle(held_out);
    auto take = [](std::vector<Pair>& from) {
      auto pair = from.back();
      from.pop_back();
      return pair;
    };
    facts_.resize(size_t(config_.facts + config_.controls));
    auto is_asked = [&](int64_t f) { return f >= config_.facts || probed(f); };
    for (int64_t f = 0; f < int64_t(facts_.size()); ++f)
      if (is_asked(f)) facts_[size_t(f)].pair = take(held_out);
    others.insert(others.end(), held_out.begin(), held_out.end());
    draw_.shuffle(others);
    for (int64_t f = 0; f < int64_t(facts_.size()); ++f) {
      auto& fact = facts_[size_t(f)];
      if (!is_asked(f)) fact.pair = take(others);
      fact.values = {draw_value()};
      while (f < config_.updates && fact.values.size() < 2)
        if (auto value = draw_value(); value != fact.values[0]) fact.values.push_back(value);
    }
  }

  // The end of the word is the end of its token.
  void write(const std::string& word) {
    stream_.text += " " + word;
    token_ends_.push_back(int64_t(stream_.text.size()));
  }
  void write_filler(int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      write(words_.filler[size_t(draw_.below(config_.filler_words))]);
  }

  void state(StreamFact& fact) {
    Statement statement{int64_t(token_ends_.size()), {int64_t(stream_.text.size()), 0}};
    for (const auto& word :
         {std::string("the"), words_.attributes[size_t(fact.pair.attribute)], std::string("of"),
          words_.names[size_t(fact.pair.name)], std::string("is")})
      write(word);
    const auto& value = fact.values[fact.statements.size()];
    auto blank = value.find(' ');
    write(value.substr(0, blank));
    write(value.substr(blank + 1));
    write(".");
    statement.bytes.end = int64_t(stream_.text.size());
    fact.statements.push_back(statement);
  }

  void lay_out() {
    std::vector<int64_t> order;  // a fact twice where it is updated
    for (int64_t f = 0; f < config_.facts; ++f)
      order.insert(order.end(), f < config_.updates ? 2 : 1, f);
    draw_.shuffle(order);
    auto slot = config_.tokens / int64_t(order.size());
    for (auto f : order) {
      auto before = draw_.below(slot - kFactTokens + 1);
      write_filler(before);
      state(facts_[size_t(f)]);
      write_filler(slot - kFactTokens - before);
    }
    write_filler(config_.tokens - slot * int64_t(order.size()));
  }

  std::string question(const Pair& pair) const {
    return concat(" ask ", words_.attributes[size_t(pair.attribute)], " of ",
                  words_.names[size_t(pair.name)], " ?");
  }

  std::vector<std::string> draw_distractors(int64_t fact) {
    const auto& own = facts_[size_t(fact)];
    std::vector<int64_t> order(size_t(config_.facts));
    for (int64_t f = 0; f < config_.facts; ++f) order[size_t(f)] = f;
    draw_.shuffle(order);
    auto rank = [&](int64_t f) {
      const auto& pair = facts_[size_t(f)].pair;
      return pair.name == own.pair.name ? 0 : pair.attribute == own.pair.attribute ? 1 : 2;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t x, int64_t y) { return rank(x) < rank(y); });
    std::vector<std::string> chosen;
    for (auto f : order) {
      const auto& value = facts_[size_t(f)].values[0];
      auto known = [&](const std::vector<std::string>& values) {
        return std::find(values.begin(), values.end(), value) != values.end();
      };
      if (int64_t(chosen.size()) == config_.distractors) break;
      if (f != fact && !known(own.values) && !known(chosen)) chosen.push_back(value);
    }
    return chosen;
  }

  StreamProbe make_probe(int64_t fact, int64_t prefix_tokens,
                         const std::vector<std::string>& distractors) const {
    StreamProbe probe;
    probe.id = concat("fact-", fact, "-", prefix_tokens);
    probe.question = question(facts_[size_t(fact)].pair);
    probe.fact = fact;
    probe.values = facts_[size_t(fact)].values;
    probe.prefix_bytes = token_ends_[size_t(prefix_tokens - 1)];
    probe.distractors = distractors;
    return probe;
  }

  void probe_fact(int64_t f) {
    const auto& fact = facts_[size_t(f)];
    auto distractors = draw_distractors(f);
    for (size_t i = 0; i < fact.statements.size(); ++i) {
      bool last = i + 1 == fact.statements.size();
      auto end = fact.statements[i].begin + kFactTokens;
      auto until = (last ? config_.tokens : fact.statements[i + 1].begin) - end;
      std::vector<int64_t> lags;
      for (int64_t lag = 0; lag <= until; lag = lag == 0 ? config_.segment : 2 * lag)
        lags.push_back(lag);
      if (!last && lags.back() != until) lags.push_back(until);
      for (auto lag : lags) {
        auto probe = make_probe(f, end + lag, distractors);
        probe.update = int64_t(i);
        probe.lag = lag;
        probe.stated = fact.statements[i].bytes;
        stream_.probes.push_back(std::move(probe));
      }
    }
  }

  void probe_control(int64_t fact) {
    auto distractors = draw_distractors(fact);
    stream_.probes.push_back(make_probe(fact, 1 + draw_.below(config_.tokens), distractors));
  }

  const FactStreamConfig& config_;
  SyntheticWords words_;
  Draw draw_;
  std::vector<StreamFact> facts_;
  std::vector<int64_t> token_ends_;  // bytes
  FactStream stream_;
};

void require(bool condition, const std::string& message) {
  if (!condition) throw ConfigError("fact stream: " + message);
}

}  // namespace

void FactStreamConfig::visit_fields(ConfigVisitor& v) {
  v.field("seed", seed, "Seed of the stream.", at_least(0));
  v.field("tokens", tokens, "Tokens of the text, exactly.", between(16, 1 << 28));
  v.field("segment", segment, "S: probes are asked at lags 0 and S 2^j tokens.", at_least(1));
  v.field("facts", facts, "Facts that are stated.", between(1, 1 << 20));
  v.field("updates", updates, "Facts of them that are stated again with another value.",
          between(0, 1 << 20));
  v.field("probed_facts", probed_facts, "Facts of them that are asked.", between(1, 1 << 20));
  v.field("controls", controls, "Facts that are asked and never stated.", between(0, 1 << 20));
  v.field("distractors", distractors, "Candidate answers beside a fact's own values.",
          between(0, 1 << 10));
  constexpr double kMostWords = 7800, kMostAttributes = 32;  // as in synthetic.cpp
  v.field("names", names, "Names that facts are about.", between(2, kMostWords));
  v.field("attributes", attributes, "Attributes of names; a quarter of the pairs is held out.",
          between(4, kMostAttributes));
  v.field("values", values, "Value words; an answer is two of them.", between(2, kMostWords));
  v.field("filler_words", filler_words, "Words of the text between facts.", between(1, kMostWords));
}

SyntheticConfig FactStreamConfig::language() const {
  SyntheticConfig language;
  language.names = names;
  language.attributes = attributes;
  language.values = values;
  language.filler_words = filler_words;
  language.facts = 4;  // of documents, which are not made here
  return language;
}

void FactStreamConfig::validate() const {
  language().validate();
  require(updates <= facts,
          concat("updates (", updates, ") must be at most facts (", facts, "), one a fact"));
  require(probed_facts <= facts,
          concat("probed_facts (", probed_facts, ") must be at most facts (", facts, ")"));
  int64_t held_out = 0;
  for (int64_t n = 0; n < names; ++n)
    for (int64_t a = 0; a < attributes; ++a) held_out += is_test_pair(n, a);
  require(probed_facts + controls <= held_out,
          concat("probed_facts + controls (", probed_facts + controls, ") must be at most the ",
                 held_out, " test pairs of names x attributes"));
  require(facts + controls <= names * attributes,
          concat("facts + controls (", facts + controls,
                 ") must be at most names x attributes = ", names * attributes));
  require((facts + updates) * kFactTokens <= tokens,
          concat("a statement has ", kFactTokens, " tokens: tokens must be at least ",
                 (facts + updates) * kFactTokens, ", got ", tokens));
}

FactStream make_fact_stream(const FactStreamConfig& config) {
  config.validate();
  return StreamMaker(config).make();
}

}  // namespace dsrsq
