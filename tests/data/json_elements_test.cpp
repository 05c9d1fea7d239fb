#include "../../src/data/json_elements.h"

#include <gtest/gtest.h>

#include <map>

namespace dsrsq {
namespace {

struct Seen {
  std::vector<std::string> elements;
  std::vector<std::string> problems;
};

// In the place of a key: the elements are the members of the object.
const std::string kMembers = "*";

// Fed in parts of `part` bytes.
Seen cut(const std::string& text, const std::string& key, size_t part, size_t maximum = 1000) {
  Seen seen;
  const auto of = key == kMembers ? JsonElements::Of::kObject
                  : key.empty()   ? JsonElements::Of::kList
                                  : JsonElements::Of::kMember;
  JsonElements elements(
      of, key, maximum,
      [&](const std::string& element, const RecordPlace& place) {
        seen.elements.push_back(describe_place("f", place) + " " + place.key + element);
      },
      [&](const RecordPlace& place, const std::string& reason) {
        seen.problems.push_back(describe_place("f", place) + ": " + reason);
      });
  for (size_t at = 0; at < text.size(); at += part) {
    if (!elements.add(text.data() + at, std::min(part, text.size() - at))) break;
  }
  elements.finish();
  return seen;
}

TEST(JsonElementsTest, CutsMembersWhereverThePartsEnd) {
  const std::string text =
      " { \"a\" : {\"b\": [1, \"}\"]},\n\"c\\\"\": 5, \"\":[]\n,\"a\":\"x\"}\n";
  for (size_t part = 1; part <= text.size(); ++part) {
    const Seen seen = cut(text, kMembers, part);
    EXPECT_TRUE(seen.problems.empty()) << part << seen.problems[0];
    EXPECT_EQ(seen.elements, (std::vector<std::string>{
                                 "f:1 (element 0) a{\"b\": [1, \"}\"]}", "f:2 (element 1) c\\\"5",
                                 "f:2 (element 2) []", "f:3 (element 3) a\"x\""}))
        << part;
  }
  EXPECT_TRUE(cut("{ }", kMembers, 1).problems.empty());
}

TEST(JsonElementsTest, ObjectsThatAreNoneAreProblems) {
  for (const auto& [text, reason] : std::map<std::string, std::string>{
           {"[1]", "f:1: invalid JSON (expected an object, got \"[\"); nothing after it is read"},
           {"{\"a\": 1,}",
            "f:1: invalid JSON (expected a key, got \"}\"); nothing after it is read"},
           {"{\"a\" 1}",
            "f:1: invalid JSON (expected \":\" after a key, got \"1\"); nothing after it is read"},
           {"{\"a\":}",
            "f:1: invalid JSON (expected a value, got \"}\"); nothing after it is read"},
           {"{} {}",
            "f:1: invalid JSON (\"{\" after the end of the object); nothing after it is read"},
           {"{\"a\": [1", "f:1 (element 0): invalid JSON (the file ends inside this element)"},
           {"{\"a\": 1", "f:1 (element 0): invalid JSON (the file ends inside this element)"},
           {"{\"a", "f:1: invalid JSON (the file ends too early)"},
           {"", "f:1: invalid JSON (the file is empty)"}}) {
    EXPECT_EQ(cut(text, kMembers, 1).problems, std::vector<std::string>{reason}) << text;
  }
  const Seen seen = cut("{\"a\": \"" + std::string(2000, 'x') + "\", \"b\": 1}", kMembers, 7);
  EXPECT_EQ(seen.problems,
            std::vector<std::string>{"f:1 (element 0): the element is longer than 1000 bytes"});
  EXPECT_EQ(seen.elements, std::vector<std::string>{"f:1 (element 1) b1"});
}

TEST(JsonElementsTest, CutsListsWhereverThePartsEnd) {
  const std::string text =
      "[ {\"a\": \"]},\\\"\\\\\"} ,\n[1, [2]], \"x,]\" , -1.5e3,null\n, true ]\n";
  for (size_t part = 1; part <= text.size(); ++part) {
    const Seen seen = cut(text, "", part);
    EXPECT_TRUE(seen.problems.empty()) << part << seen.problems[0];
    EXPECT_EQ(seen.elements,
              (std::vector<std::string>{"f:1 (element 0) {\"a\": \"]},\\\"\\\\\"}",
                                        "f:2 (element 1) [1, [2]]", "f:2 (element 2) \"x,]\"",
                                        "f:2 (element 3) -1.5e3", "f:2 (element 4) null",
                                        "f:3 (element 5) true"}))
        << part;
  }
}

TEST(JsonElementsTest, FindsTheListInTheObject) {
  const std::string text =
      R"({"version": "data", "x": {"data": [9]}, "n": -1, "data": [1, 2], "y\"": [[]], "z": null})";
  for (size_t part = 1; part <= text.size(); ++part) {
    const Seen seen = cut(text, "data", part);
    EXPECT_TRUE(seen.problems.empty()) << seen.problems[0];
    EXPECT_EQ(seen.elements, (std::vector<std::string>{"f:1 (element 0) 1", "f:1 (element 1) 2"}));
  }
  EXPECT_TRUE(cut("[]", "", 1).problems.empty());
  EXPECT_TRUE(cut("{\"data\": []}", "data", 1).problems.empty());
}

TEST(JsonElementsTest, ProblemsNameTheirPlace) {
  const auto expect = [](const std::string& text, const std::string& key, size_t elements,
                         const std::string& problem) {
    for (const size_t part : {size_t{1}, text.size() + 1}) {
      const Seen seen = cut(text, key, part);
      EXPECT_EQ(seen.elements.size(), elements) << text;
      ASSERT_EQ(seen.problems.size(), 1u) << text;
      EXPECT_NE(seen.problems[0].find(problem), std::string::npos) << text << seen.problems[0];
    }
  };
  expect("", "", 0, "f:1: invalid JSON (the file is empty)");
  expect("{}", "", 0, "expected a list, got \"{\"");
  expect("[]", "data", 0, "expected an object with the list \"data\"");
  expect("{}", "data", 0, "has no list \"data\"");
  expect("{\"data\": {}}", "data", 0, "\"data\" must be a list, got \"{\"");
  expect("{\"data\" [1]}", "data", 0, "expected \":\"");
  expect("{\"a\": ], \"data\": [1]}", "data", 0, "expected a value");
  expect("{\"a\": 1, }", "data", 0, "expected a key, got \"}\"");
  expect("{\"a\": 1 \"data\": [1]}", "data", 0, "expected \",\" or \"}\" after a member");
  expect("{\"data\": [1]} x", "data", 1, "after the end of the object");
  expect("[1,\n{\"a\": 2", "", 1, "f:2 (element 1): invalid JSON (the file ends inside");
  expect("[1,\n2,", "", 2, "the file ends too early");
  expect("[1 2]", "", 1, "(element 1): invalid JSON (expected \",\" or \"]\"");
  expect("[1,]", "", 1, "expected an element, got \"]\"");
  expect("[,1]", "", 0, "expected an element, got \",\"");
  expect("[1]]", "", 1, "after the end of the list");
}

TEST(JsonElementsTest, AnElementThatIsTooLongIsDroppedAndTheNextIsRead) {
  const std::string text = "[\"" + std::string(50, 'x') + "\", 7, [" + std::string(60, '1') + "]]";
  for (size_t part = 1; part <= text.size(); ++part) {
    const Seen seen = cut(text, "", part, 40);
    EXPECT_EQ(seen.elements, std::vector<std::string>{"f:1 (element 1) 7"});
    ASSERT_EQ(seen.problems.size(), 2u);
    EXPECT_EQ(seen.problems[1], "f:1 (element 2): the element is longer than 40 bytes");
  }
}

}  // namespace
}  // namespace dsrsq
