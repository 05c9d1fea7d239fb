// A compiled regular expression (PCRE2, UTF-8, Unicode properties, just-in-time compiled).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace dsrsq::text {

struct Match {
  size_t begin = 0;  // bytes
  size_t end = 0;
};

enum class Syntax {
  kOniguruma,  // the dialect of tokenizer.json; constructs that mean something else in PCRE2 are
               // translated or refused
  kLiteral,    // a plain string
  kPcre,
};

// Shareable between threads; each thread searches through a Searcher of its own.
class Pattern {
 public:
  // Throws DataError "<where>: ..." where the expression is malformed or uses an unsupported
  // construct.
  Pattern(const std::string& expression, Syntax syntax, const std::string& where);

 private:
  friend class Searcher;
  std::shared_ptr<void> code_;
  std::string where_;
};

class Searcher {
 public:
  Searcher();
  // The first match at or after `start`. `subject` is valid UTF-8 and `start` a character's first
  // byte. Lookarounds see the whole subject and nothing else. Throws DataError where the match
  // limit is exceeded.
  std::optional<Match> find(const Pattern& pattern, std::string_view subject, size_t start);
  // Does a match begin exactly at `start`?
  bool matches_at(const Pattern& pattern, std::string_view subject, size_t start);

 private:
  std::optional<Match> run(const Pattern& pattern, std::string_view subject, size_t start,
                           unsigned options);
  std::shared_ptr<void> match_data_;
  std::shared_ptr<void> context_;
  std::shared_ptr<void> stack_;
};

}  // namespace dsrsq::text
