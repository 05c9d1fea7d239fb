#include "bert_words.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "lower_case.h"
#include "utf8.h"

namespace dsrsq::text {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};
struct ValueRange {
  char32_t first;
  char32_t last;
  int32_t value;
};
struct Stripped {
  char32_t first;  // the code point
  std::array<char32_t, 3> kept;
};

#include "bert_tables.inc"

template <typename Entry>
const Entry* find(const Entry* begin, const Entry* end, char32_t c) {
  const Entry* entry = std::lower_bound(
      begin, end, c, [](const Entry& e, char32_t value) { return e.last < value; });
  return entry != end && entry->first <= c ? entry : nullptr;
}
template <typename Entry, size_t size>
const Entry* find(const Entry (&table)[size], char32_t c) {
  return find(std::begin(table), std::end(table), c);
}

const Stripped* find_stripped(char32_t c) {
  const Stripped* entry =
      std::lower_bound(std::begin(kStripped), std::end(kStripped), c,
                       [](const Stripped& e, char32_t value) { return e.first < value; });
  return entry != std::end(kStripped) && entry->first == c ? entry : nullptr;
}

constexpr char32_t kFirstHangul = 0xAC00, kLastHangul = 0xD7A3;
constexpr char32_t kCapitalIWithDot = 0x130;  // becomes i and a combining dot
constexpr char32_t kCombiningDotAbove = 0x307;

bool is_ascii_word(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// The steps of the normalizer a character at a time; words end at white space, punctuation and
// ideographs.
class WordMaker {
 public:
  WordMaker(const BertNormalizer& normalizer, const std::function<void(const BertWord&)>& emit)
      : normalizer_(normalizer), emit_(emit) {}

  void add(char32_t c, uint32_t begin, uint32_t end) {
    if (is_ascii_word(c)) {  // most of most text: none of the tables speaks of it
      flush_marks();
      append(normalizer_.lowercase && c >= 'A' && c <= 'Z' ? c + 32 : c, begin, end);
      return;
    }
    if (normalizer_.clean_text) {
      if (find(kRemoved, c) != nullptr) return;
      if (find(kBlank, c) != nullptr) c = ' ';
    }
    const bool chinese = normalizer_.handle_chinese_chars && find(kChinese, c) != nullptr;
    if (chinese) end_word();
    if (normalizer_.strip_accents) {
      strip({c, begin, end});
    } else {
      lower({c, begin, end});
    }
    if (chinese) end_word();
  }

  void end_word() {
    flush_marks();
    if (word_.characters.empty()) return;
    emit_(word_);
    word_.bytes.clear();
    word_.characters.clear();
  }

 private:
  struct Sourced {
    char32_t c;
    uint32_t begin, end;
  };
  struct Mark {
    Sourced character;
    int32_t order;
  };

  void strip(const Sourced& s) {
    if (s.c >= kFirstHangul && s.c <= kLastHangul) {
      const char32_t index = s.c - kFirstHangul;
      order({0x1100 + index / 588, s.begin, s.end});
      order({0x1161 + index % 588 / 28, s.begin, s.end});
      if (index % 28 != 0) order({0x11A7 + index % 28, s.begin, s.end});
    } else if (const Stripped* stripped = find_stripped(s.c)) {
      for (const char32_t c : stripped->kept) {
        if (c != 0) order({c, s.begin, s.end});
      }
    } else if (const ValueRange* accent = find(kAccent, s.c)) {
      if (accent->value == 1) flush_marks();
    } else {
      order(s);
    }
  }

  // Canonical ordering of the marks that stay.
  void order(const Sourced& s) {
    if (const ValueRange* mark = find(kOrder, s.c)) {
      marks_.push_back({s, mark->value});
      return;
    }
    flush_marks();
    lower(s);
  }

  void flush_marks() {
    if (marks_.empty()) return;
    std::vector<Mark> marks;
    std::swap(marks, marks_);
    std::stable_sort(marks.begin(), marks.end(),
                     [](const Mark& a, const Mark& b) { return a.order < b.order; });
    for (const Mark& mark : marks) lower(mark.character);
  }

  void lower(const Sourced& s) {
    if (!normalizer_.lowercase) return split(s);
    if (s.c == kCapitalIWithDot) {
      split({U'i', s.begin, s.end});
      return split({kCombiningDotAbove, s.begin, s.end});
    }
    const ValueRange* newer = find(kNewerLower, s.c);
    split({newer != nullptr ? static_cast<char32_t>(static_cast<int32_t>(s.c) + newer->value)
                            : lower_code_point(s.c),
           s.begin, s.end});
  }

  void split(const Sourced& s) {
    if (is_white_space(s.c)) {
      end_word();
    } else if (find(kPunctuation, s.c) != nullptr) {
      end_word();
      append(s.c, s.begin, s.end);
      end_word();
    } else {
      append(s.c, s.begin, s.end);
    }
  }

  void append(char32_t c, uint32_t begin, uint32_t end) {
    word_.characters.push_back({static_cast<uint32_t>(word_.bytes.size()), begin, end});
    append_utf8(word_.bytes, c);
  }

  const BertNormalizer& normalizer_;
  const std::function<void(const BertWord&)>& emit_;
  BertWord word_;
  std::vector<Mark> marks_;
};

}  // namespace

void for_each_bert_word(const BertNormalizer& normalizer, std::string_view text, Match range,
                        const std::function<void(const BertWord&)>& emit) {
  WordMaker maker(normalizer, emit);
  for (size_t at = range.begin; at < range.end;) {
    const Decoded c = decode_utf8(text, at);
    maker.add(c.code_point, static_cast<uint32_t>(at), static_cast<uint32_t>(at + c.length));
    at += c.length;
  }
  maker.end_word();
}

}  // namespace dsrsq::text
