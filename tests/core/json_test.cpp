#include "dsrsq/core/json.h"

#include <gtest/gtest.h>

#include <random>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;

std::string error_of(const std::string& text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, limits);
  } catch (const JsonError& error) {
    return error.what();
  }
  return "no error";
}

void expect_error(const std::string& text, const std::string& part, const JsonLimits& limits = {}) {
  const std::string error = error_of(text, limits);
  EXPECT_NE(error.find(part), std::string::npos) << "expected '" << part << "' in: " << error;
  for (const char c : error) EXPECT_TRUE(c >= ' ' && c <= '~') << error;
}

Json random_value(std::mt19937_64& random, int depth) {
  switch (random() % (depth > 0 ? 9 : 7)) {
    case 0:
      return nullptr;
    case 1:
      return random() % 2 == 0;
    case 2:
      return static_cast<int64_t>(random());
    case 3:
      return random();
    case 4:
      return std::ldexp(static_cast<double>(static_cast<int64_t>(random())), random() % 200 - 100);
    case 5:
      return "text \"\\\n\t\x01 caf\xc3\xa9 \xf0\x9f\x98\x80 " + std::to_string(random() % 100);
    case 6:
      return "";
    case 7: {
      Json list = Json::array();
      for (uint64_t i = random() % 5; i > 0; --i) list.push_back(random_value(random, depth - 1));
      return list;
    }
    default: {
      Json object = Json::object();
      for (uint64_t i = random() % 5; i > 0; --i)
        object[std::to_string(random() % 50)] = random_value(random, depth - 1);
      return object;
    }
  }
}

TEST(Json, EqualsTheLibrarysParser) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    const Json value = random_value(random, 6);
    for (const int indent : {-1, 2}) {
      const std::string text = value.dump(indent);
      ASSERT_EQ(parse_json(text), Json::parse(text)) << text;
      ASSERT_EQ(parse_json(text), value) << text;
    }
  }
  EXPECT_EQ(parse_json("\xef\xbb\xbf [1] \n"), Json::array({1}));  // a byte order mark
}

TEST(Json, MalformedTextIsAnError) {
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":}", "{\"a\" 1}", "nul", "01", "'a'", "NaN",
                           "[Infinity]", "1 2", "{}}", "\"a", "\"\\u12\"", "\"\\ud800\"", "/**/1"})
    expect_error(text, "invalid JSON (column ");
  expect_error("[1,\n2,,", "invalid JSON (line 2, column 3: ");
  expect_error(std::string("[1]\0{", 5), "a NUL byte at offset 3");
  expect_error("\"\t\"", "control character");
  expect_error("[1e999]", "1e999");
  for (const char* text : {"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "{\"\xf5\":1}"})
    expect_error(text, "invalid UTF-8 (");
  EXPECT_LT(error_of("\"" + std::string(100000, 'x')).size(), 200u);
}

TEST(Json, KeysTwiceAreAnError) {
  expect_error(R"({"a":1,"b":{"a":2},"a":3})", "key 'a' appears twice");
  expect_error(R"({"x":{"a":1,"\u0061":2}})", "key 'a' appears twice");
  expect_error("{\"\xc3\xa9\":1,\"\xc3\xa9\":2}", "appears twice");
  EXPECT_EQ(error_of(R"({"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]})"), "no error");
}

TEST(Json, LimitsAreExact) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(error_of(nested(32)), "no error");
  expect_error(nested(33), "nested over 32 levels");
  expect_error(R"([{"a":[1]}])", "nested over 2 levels", {2, 100});
  expect_error(std::string(50'000'000, '['), "nested over 32 levels");  // an early end
  EXPECT_EQ(error_of(R"([1,{"a":2}])", {32, 4}), "no error");
  expect_error(R"([1,{"a":2}])", "over 3 values", {32, 3});
}

}  // namespace
}  // namespace dsrsq
