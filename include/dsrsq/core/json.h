// JSON from files that nobody vouches for: tokenizers, tensor headers, manifests, records. The
// library's own parser keeps the last of two equal keys silently, nests as deep as the text does
// and makes gigabytes of values out of "[],[],...".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace dsrsq {

struct JsonLimits {
  int depth = 32;              // lists and objects inside each other
  int64_t values = 4'000'000;  // of every kind; keys do not count
};

// What is wrong with the text, in printable ASCII on one line. Has no place and no exit code:
// callers add where the text comes from and throw an Error of their own.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One JSON value (RFC 8259) and nothing after it but white space. Throws JsonError on malformed
// text, invalid UTF-8, numbers that no double holds, a key that an object has twice, and over the
// limits.
nlohmann::json parse_json(std::string_view text, const JsonLimits& limits = {});

}  // namespace dsrsq
