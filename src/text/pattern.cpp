#include "pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>

#include "dsrsq/core/error.h"

namespace dsrsq::text {
namespace {

// White space as Unicode and Oniguruma have it. PCRE2's \s also takes U+180E, which would change
// ids.
constexpr const char* kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr const char* kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
// Oniguruma's word character; PCRE2's \w is letters, numbers and the underscore.
constexpr const char* kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

// Oniguruma (Ruby syntax) to PCRE2.
class OnigurumaTranslator {
 public:
  OnigurumaTranslator(const std::string& pattern, const std::string& where)
      : in_(pattern), where_(where) {}

  std::string translate() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_character(c);
      } else {
        character(c);
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& construct) const {
    throw DataError(concat(where_, ": regular expression uses ", construct, " at byte ", at_,
                           ", which is not supported: ", in_));
  }

  bool ahead(std::string_view text) const { return in_.compare(at_, text.size(), text) == 0; }

  void copy(size_t count) {
    out_.append(in_, at_, count);
    at_ += count;
  }

  void copy_through(char last) {
    const size_t end = in_.find(last, at_);
    if (end == std::string::npos) refuse(concat("an escape without its '", last, "'"));
    copy(end + 1 - at_);
  }

  void add_class(const char* members, bool negated) {
    if (in_class_ && negated) refuse("a negated shorthand inside [...]");
    if (in_class_) {
      out_ += members;
    } else {
      out_ += concat(negated ? "[^" : "[", members, "]");
    }
  }

  void escape() {
    if (at_ + 1 >= in_.size()) refuse("a backslash at its end");
    const char c = in_[at_ + 1];
    if (c == 's' || c == 'S') {
      add_class(c == 's' ? kSpace : kNotSpace, false);
      at_ += 2;
    } else if (c == 'w' || c == 'W') {
      add_class(kWord, c == 'W');
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{') refuse(concat("\\", c, " without {...}"));
      copy_through('}');
    } else if (c == 'x') {
      if (at_ + 2 < in_.size() && in_[at_ + 2] == '{') {
        copy_through('}');
      } else {
        copy(2);
      }
    } else if (c == 'u') {
      if (at_ + 6 > in_.size()) refuse("a short \\u escape");
      out_ += concat("\\x{", in_.substr(at_ + 2, 4), "}");
      at_ += 6;
    } else if (std::string_view("dDAznrtf").find(c) != std::string_view::npos ||
               !std::isalnum(static_cast<unsigned char>(c))) {
      copy(2);
    } else {
      refuse(concat("the escape \\", c));
    }
  }

  void class_character(char c) {
    if (c == '[') refuse("a nested [...]");
    if (ahead("&&")) refuse("a class intersection &&");
    if (c == ']' && at_ > class_start_) in_class_ = false;
    copy(1);
  }

  void character(char c) {
    if (c == '[') {
      in_class_ = true;
      copy(ahead("[^") ? 2 : 1);
      class_start_ = at_;
      return;
    }
    // In Ruby's syntax a{1,3}+ repeats the group; in PCRE2 it is possessive.
    if (ahead("}+")) refuse("'+' after {...}");
    if (ahead("(?") && at_ + 2 < in_.size() &&
        (std::isalpha(static_cast<unsigned char>(in_[at_ + 2])) || in_[at_ + 2] == '-')) {
      // Ruby's m is PCRE2's s.
      for (size_t i = at_ + 2; i < in_.size() && in_[i] != ':' && in_[i] != ')'; ++i) {
        if (in_[i] != 'i' && in_[i] != '-') refuse(concat("the flag '", in_[i], "'"));
      }
    }
    copy(1);
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  size_t class_start_ = 0;
  bool in_class_ = false;
};

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0) return concat("error ", code);
  return reinterpret_cast<const char*>(buffer);
}

uint32_t compile_options(Syntax syntax) {
  switch (syntax) {
    case Syntax::kLiteral:
      return PCRE2_UTF | PCRE2_LITERAL;
    case Syntax::kOniguruma:  // there ^ and $ always match at lines
      return PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    case Syntax::kPcre:
      break;
  }
  return PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
}

}  // namespace

Pattern::Pattern(const std::string& expression, Syntax syntax, const std::string& where)
    : where_(where) {
  const std::string translated = syntax == Syntax::kOniguruma
                                     ? OnigurumaTranslator(expression, where).translate()
                                     : expression;
  std::shared_ptr<pcre2_compile_context> context(pcre2_compile_context_create(nullptr),
                                                 pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    compile_options(syntax), &error, &offset, context.get());
  if (code == nullptr) {
    throw DataError(concat(where, ": regular expression does not compile, ", pcre_message(error),
                           ": ", expression));
  }
  code_ =
      std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Where this machine has no just-in-time compiler, pcre2_match interprets: the same matches,
  // slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

Searcher::Searcher() {
  constexpr size_t kStackStart = 32 << 10;
  constexpr size_t kStackMaximum = 8 << 20;
  constexpr uint32_t kMatchLimit =
      50'000'000;  // a run of millions of blanks must pass, catastrophic backtracking not
  auto* data = pcre2_match_data_create(1, nullptr);
  auto* context = pcre2_match_context_create(nullptr);
  auto* stack = pcre2_jit_stack_create(kStackStart, kStackMaximum, nullptr);
  match_data_ = std::shared_ptr<void>(
      data, [](void* p) { pcre2_match_data_free(static_cast<pcre2_match_data*>(p)); });
  context_ = std::shared_ptr<void>(
      context, [](void* p) { pcre2_match_context_free(static_cast<pcre2_match_context*>(p)); });
  stack_ = std::shared_ptr<void>(
      stack, [](void* p) { pcre2_jit_stack_free(static_cast<pcre2_jit_stack*>(p)); });
  if (data == nullptr || context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(context, kMatchLimit);
  if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
}

std::optional<Match> Searcher::find(const Pattern& pattern, std::string_view subject,
                                    size_t start) {
  return run(pattern, subject, start, 0);
}

bool Searcher::matches_at(const Pattern& pattern, std::string_view subject, size_t start) {
  return run(pattern, subject, start, PCRE2_ANCHORED).has_value();
}

std::optional<Match> Searcher::run(const Pattern& pattern, std::string_view subject, size_t start,
                                   unsigned options) {
  const auto* code = static_cast<const pcre2_code*>(pattern.code_.get());
  auto* data = static_cast<pcre2_match_data*>(match_data_.get());
  auto* context = static_cast<pcre2_match_context*>(context_.get());
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data() != nullptr ? subject.data() : "");
  int rc =
      pcre2_match(code, text, subject.size(), start, options | PCRE2_NO_UTF_CHECK, data, context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its state on the heap
    rc = pcre2_match(code, text, subject.size(), start, options | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                     data, context);
  }
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    throw DataError(concat(pattern.where_, ": matching the regular expression failed at byte ",
                           start, " of a text of ", subject.size(), " bytes: ", pcre_message(rc)));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data);
  return Match{ends[0], ends[1]};
}

}  // namespace dsrsq::text
