#include "html_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "text/utf8.h"

namespace dsrsq {
namespace {

struct NamedCharacter {
  std::string_view name;
  char32_t code_point;
};
constexpr std::array<NamedCharacter, 14> kNamed = {{{"amp", '&'},
                                                    {"lt", '<'},
                                                    {"gt", '>'},
                                                    {"quot", '"'},
                                                    {"apos", '\''},
                                                    {"nbsp", ' '},
                                                    {"mdash", 0x2014},
                                                    {"ndash", 0x2013},
                                                    {"hellip", 0x2026},
                                                    {"lsquo", 0x2018},
                                                    {"rsquo", 0x2019},
                                                    {"ldquo", 0x201C},
                                                    {"rdquo", 0x201D},
                                                    {"shy", 0xAD}}};

constexpr std::array<std::string_view, 26> kBlocks = {
    "p",  "div", "h1", "h2",      "h3",      "h4",         "h5",     "h6",     "hr",
    "ul", "ol",  "li", "table",   "tr",      "blockquote", "pre",    "body",   "html",
    "dl", "dt",  "dd", "section", "article", "header",     "footer", "caption"};
constexpr std::array<std::string_view, 3> kWithoutText = {"head", "script", "style"};

template <size_t n>
bool is_one_of(std::string_view word, const std::array<std::string_view, n>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool begins_tag(std::string_view html, size_t at) {
  if (html[at] != '<' || at + 1 >= html.size()) return false;
  const char next = html[at + 1];
  return next == '/' || next == '!' || next == '?' ||
         std::isalpha(static_cast<unsigned char>(next));
}

// "p" of "<p class=x>" and of "</p>".
std::string tag_name(std::string_view tag) {
  size_t begin = 1;
  if (begin < tag.size() && tag[begin] == '/') ++begin;
  size_t end = begin;
  while (end < tag.size() && std::isalnum(static_cast<unsigned char>(tag[end]))) ++end;
  return lower(tag.substr(begin, end - begin));
}

class HtmlText {
 public:
  explicit HtmlText(std::string_view html) : html_(html) {}

  std::string read() {
    while (at_ < html_.size()) {
      if (begins_tag(html_, at_)) {
        read_tag();
      } else if (html_[at_] == '&') {
        read_reference();
      } else {
        add(html_.substr(at_++, 1));
      }
    }
    return std::move(text_);
  }

 private:
  void read_tag() {
    if (html_.substr(at_, 4) == "<!--") {
      at_ = after("-->", at_ + 4);
      return;
    }
    const size_t end = after(">", at_);
    const std::string_view tag = html_.substr(at_, end - at_);
    const std::string name = tag_name(tag);
    at_ = end;
    if (name == "br") {
      breaks_ = std::max(breaks_, 1);
    } else if (is_one_of(name, kBlocks)) {
      breaks_ = 2;
    } else if (is_one_of(name, kWithoutText) && tag[1] != '/') {
      at_ = after_element(name);
    }
  }

  size_t after(std::string_view mark, size_t from) const {
    const size_t found = html_.find(mark, from);
    return found == std::string_view::npos ? html_.size() : found + mark.size();
  }

  size_t after_element(const std::string& name) const {
    constexpr size_t kLongestTag = 16;
    for (size_t at = html_.find("</", at_); at != std::string_view::npos;
         at = html_.find("</", at + 2)) {
      if (tag_name(html_.substr(at, kLongestTag)) == name) return after(">", at);
    }
    return html_.size();
  }

  void read_reference() {
    constexpr size_t kLongest = 10;
    const size_t end = html_.substr(0, at_ + kLongest).find(';', at_);
    const std::string_view name =
        end == std::string_view::npos ? "" : html_.substr(at_ + 1, end - at_ - 1);
    char32_t code_point = 0;
    if (name.starts_with('#')) {
      const bool hexadecimal = name.size() > 1 && (name[1] == 'x' || name[1] == 'X');
      const std::string_view digits = name.substr(hexadecimal ? 2 : 1);
      uint32_t number = 0;
      const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(),
                                                 number, hexadecimal ? 16 : 10);
      const bool surrogate = number >= 0xD800 && number < 0xE000;
      if (error == std::errc() && stop == digits.data() + digits.size() && number < 0x110000 &&
          !surrogate)
        code_point = number == 0xA0 ? ' ' : number;
    }
    for (const NamedCharacter& named : kNamed) {
      if (named.name == name) code_point = named.code_point;
    }
    if (code_point == 0) {  // no reference
      add(html_.substr(at_++, 1));
      return;
    }
    std::string character;
    text::append_utf8(character, code_point);
    add(character);
    at_ = end + 1;
  }

  void add(std::string_view bytes) {
    if (bytes.size() == 1 && std::isspace(static_cast<unsigned char>(bytes[0]))) {
      blank_ = true;
      return;
    }
    if (!text_.empty()) {
      if (breaks_ > 0) {
        text_.append(breaks_, '\n');
      } else if (blank_) {
        text_ += ' ';
      }
    }
    breaks_ = 0;
    blank_ = false;
    text_ += bytes;
  }

  std::string_view html_;
  std::string text_;
  size_t at_ = 0;
  int breaks_ = 0;  // line feeds before what comes next
  bool blank_ = false;
};

}  // namespace

std::string html_text(std::string_view html) { return HtmlText(html).read(); }

bool looks_like_html(std::string_view text) {
  for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
    if (!begins_tag(text, at)) continue;
    const std::string name = tag_name(text.substr(at, 12));
    if (name == "p" || name == "br" || name == "html" || name == "body") return true;
  }
  return false;
}

}  // namespace dsrsq
