#include "../../src/data/csv_rows.h"

#include <gtest/gtest.h>

#include <map>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Texts = std::vector<std::string>;

struct Seen {
  Texts rows;  // "line: field|field"
  Texts problems;
};

// Fed in parts of `part` bytes.
Seen cut(const std::string& text, size_t part = 1, size_t maximum = 1000) {
  Seen seen;
  CsvRows rows(
      maximum,
      [&](const Texts& fields, int64_t line) {
        std::string row = concat(line, ": ");
        for (size_t i = 0; i < fields.size(); ++i) row += (i == 0 ? "" : "|") + fields[i];
        seen.rows.push_back(row);
      },
      [&](int64_t line, const std::string& reason) {
        seen.problems.push_back(concat(line, ": ", reason));
      });
  for (size_t at = 0; at < text.size(); at += part)
    rows.add(text.data() + at, std::min(part, text.size() - at));
  rows.finish();
  return seen;
}

TEST(CsvRowsTest, QuotedFieldsHoldCommasLineBreaksAndQuotes) {
  const std::string text =
      "\xEF\xBB\xBFid,\"text\"\r\n1,\"a, \"\"b\"\"\r\nc\n\n\"\r\n\r\n2,\n,\"\"\n\"\"\n3,d e";
  for (size_t part = 1; part <= text.size(); ++part) {
    const Seen seen = cut(text, part);
    EXPECT_TRUE(seen.problems.empty()) << seen.problems[0];
    EXPECT_EQ(seen.rows,
              (Texts{"1: id|text", "2: 1|a, \"b\"\r\nc\n\n", "7: 2|", "8: |", "9: ", "10: 3|d e"}))
        << part;
  }
}

TEST(CsvRowsTest, MisplacedQuotesCostTheirLineAlone) {
  for (const auto& [row, reason] : std::map<std::string, std::string>{
           {"a\"b,c", "a quote inside a field that is not quoted in line 2"},
           {"\"a\"b,c", "text after a closing quote in line 2"},
           {"\"a\n\" ,c", "text after a closing quote in line 3"},
           {"a\rb", "a carriage return without a line feed in line 2"}}) {
    const Seen seen = cut("x\n" + row + "\ny\n");
    EXPECT_EQ(seen.problems, Texts{"2: invalid CSV (" + reason + ")"}) << row;
    ASSERT_EQ(seen.rows.size(), 2u) << row;
    EXPECT_EQ(seen.rows[0], "1: x");
    EXPECT_EQ(seen.rows[1].substr(1), ": y");
  }
}

TEST(CsvRowsTest, AFileThatEndsInQuotesIsAProblem) {
  EXPECT_EQ(cut("a\nb,\"c\nd").problems,
            Texts{"2: invalid CSV (the file ends inside a quoted field)"});
  EXPECT_TRUE(cut("").rows.empty());
  EXPECT_EQ(cut("a\r").rows, Texts{"1: a"});
}

TEST(CsvRowsTest, ALongRowIsDroppedAndTheNextOneRead) {
  // Bytes count, and fields do: they take memory as well.
  for (const std::string& row : {std::string("\"") + std::string(5000, '\n') + "\"",
                                 std::string(5000, 'x'), std::string(5000, ',')}) {
    const Seen seen = cut("a\n" + row + "\nb\n", 7);
    EXPECT_EQ(seen.problems, Texts{"2: the row is longer than 1000 bytes"});
    ASSERT_EQ(seen.rows.size(), 2u);
    EXPECT_EQ(seen.rows[1].substr(seen.rows[1].size() - 3), ": b");
  }
}

}  // namespace
}  // namespace dsrsq
