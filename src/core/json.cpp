#include "dsrsq/core/json.h"

#include <vector>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;

// Cut and made printable: what was read last may be a whole document, or the very bytes that are
// wrong.
std::string printable(std::string text) {
  constexpr size_t kLongest = 120;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

// Builds the value from the parser's events, counting as it goes: nothing that breaks a limit is
// ever held.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(const JsonLimits& limits, bool lines) : limits_(limits), lines_(lines) {}

  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr) != nullptr; }
  bool boolean(bool value) override { return put(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return put(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return put(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return put(value) != nullptr;
  }
  bool string(string_t& value) override { return put(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool start_object(size_t) override { return open(Json::value_t::object); }
  bool start_array(size_t) override { return open(Json::value_t::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    const auto [place, inserted] = open_.back()->emplace(name, nullptr);
    if (!inserted) throw JsonError(concat("key '", printable(name), "' appears twice"));
    member_ = &*place;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 3: ...", without its head;
    // the line where there are several.
    const std::string what = error.what();
    const size_t head = what.find(lines_ ? "line " : "column ");
    const bool encoding = what.find("UTF-8") != std::string::npos;
    throw JsonError(concat(encoding ? "invalid UTF-8 (" : "invalid JSON (",
                           printable(what.substr(head == std::string::npos ? 0 : head)), ")"));
  }

 private:
  Json* put(Json value) {
    if (++values_ > limits_.values) throw JsonError(concat("over ", limits_.values, " values"));
    Json* place = &root_;
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(nullptr);
      place = &open_.back()->back();
    } else if (!open_.empty()) {
      place = member_;
    }
    *place = std::move(value);
    return place;
  }

  bool open(Json::value_t type) {
    if (open_.size() >= static_cast<size_t>(limits_.depth))
      throw JsonError(concat("nested over ", limits_.depth, " levels"));
    open_.push_back(put(type));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits& limits_;
  bool lines_;
  Json root_;
  // The open lists and objects. Only the innermost one grows, so that the pointers stay valid.
  std::vector<Json*> open_;
  Json* member_ = nullptr;
  int64_t values_ = 0;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const JsonLimits& limits) {
  // The library takes a NUL for the end of the text and would not look at what follows.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) throw JsonError(concat("a NUL byte at offset ", nul));
  Builder builder(limits, text.find('\n') != std::string_view::npos);
  Json::sax_parse(text.begin(), text.end(), &builder);  // an error throws in parse_error
  return builder.take();
}

}  // namespace dsrsq
