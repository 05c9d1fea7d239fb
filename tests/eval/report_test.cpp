#include "dsrsq/eval/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ResultRecord record(const std::string& method, const std::string& metric, double value,
                    const std::string& unit) {
  return {"test", method, {}, metric, value, unit, {}, {}};
}

std::vector<ResultRecord> sample() {
  auto em = record("dsrsq", "em", 0.98512, "share");
  em.low = 0.974;
  em.high = 0.9941;
  em.shape = {{"context_tokens", 512}, {"budget", 48.5}};
  return {em, record("random", "em", 0.0312, "share"),
          record("dsrsq", "bytes_held", 123456, "bytes"),
          record("dsrsq", "latency_p50", 0.01234, "s"), record("random", "latency_p50", 1.5, "s")};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string value_in_table(double value, const std::string& unit) {
  auto lines = lines_of(markdown_table({record("m", "x", value, unit)}, {{"x", "x"}}));
  auto cell = lines.at(2).substr(lines[2].find('|', 1) + 1);
  cell = cell.substr(0, cell.rfind('|'));
  return cell.substr(cell.find_first_not_of(' '),
                     cell.find_last_not_of(' ') - cell.find_first_not_of(' ') + 1);
}

std::string parse_error(const json& results) {
  try {
    parse_results(results, "eval/results.json");
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Report, MarkdownTable) {
  auto table = markdown_table(
      sample(),
      {{"em", "EM"}, {"f1", "F1"}, {"latency_p50", "latency"}, {"bytes_held", "bytes held"}});
  EXPECT_EQ(table,
            "| method |                   EM | latency | bytes held |\n"
            "|:-------|---------------------:|--------:|-----------:|\n"
            "| dsrsq  | 0.985 [0.974, 0.994] | 12.3 ms |     123 KB |\n"
            "| random |                0.031 |  1.50 s |        n/a |\n");
}

TEST(Report, RowsStandInOrderOfAppearanceAndAlign) {
  auto records = sample();
  records.push_back(record("a|b", "em", 0.5, "share"));
  records.push_back(record("né", "em", std::numeric_limits<double>::quiet_NaN(), "share"));
  auto lines = lines_of(markdown_table(records, {{"em", "EM"}}));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_THAT(lines[2], HasSubstr("| dsrsq "));
  EXPECT_THAT(lines[3], HasSubstr("| random "));
  EXPECT_THAT(lines[4], HasSubstr("| a\\|b "));
  EXPECT_EQ(lines[5], "| né     |                  n/a |");
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(lines[i].size(), lines[0].size()) << lines[i];
}

TEST(Report, SeveralCasesGetAColumn) {
  auto records = sample();
  records.push_back({"nq/test", "dsrsq", {}, "em", 0.25, "share", {}, {}});
  auto lines = lines_of(markdown_table(records, {{"em", "EM"}}));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0].find("| case    | method |"), 0u);
  EXPECT_EQ(lines[4].find("| nq/test | dsrsq  |"), 0u);
}

TEST(Report, ValuesAreShownInTheirUnits) {
  EXPECT_EQ(value_in_table(0.5, "share"), "0.500");
  EXPECT_EQ(value_in_table(999, "bytes"), "999 B");
  EXPECT_EQ(value_in_table(12345678, "bytes"), "12.3 MB");
  EXPECT_EQ(value_in_table(2.5e9, "bytes"), "2.50 GB");
  EXPECT_EQ(value_in_table(1.5e9, "FLOP"), "1.50 G");
  EXPECT_EQ(value_in_table(1.5e6, "FLOP"), "0.00150 G");
  EXPECT_EQ(value_in_table(12345.6, "tokens/s"), "12346");
  EXPECT_EQ(value_in_table(68, "tokens"), "68.0");
  EXPECT_EQ(value_in_table(0, "tokens"), "0.00");
  EXPECT_EQ(value_in_table(0.00012, "s"), "0.120 ms");
}

TEST(Report, AValueThatStandsTwiceIsAnError) {
  auto records = sample();
  records.push_back(records[0]);
  EXPECT_THROW(markdown_table(records, {{"em", "EM"}}), DataError);
}

TEST(Report, ResultsRoundTrip) {
  auto records = sample();
  auto text = results_json({{"commit", "abc"}}, records).dump();
  auto results = json::parse(text);
  EXPECT_EQ(results["provenance"]["commit"], "abc");
  EXPECT_FALSE(results["records"][1].contains("ci"));
  auto again = parse_results(results, "results.json");
  ASSERT_EQ(again.size(), records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(again[i].case_name, records[i].case_name);
    EXPECT_EQ(again[i].method, records[i].method);
    EXPECT_EQ(again[i].shape, records[i].shape);
    EXPECT_EQ(again[i].metric, records[i].metric);
    EXPECT_EQ(again[i].value, records[i].value);
    EXPECT_EQ(again[i].unit, records[i].unit);
    EXPECT_EQ(again[i].low, records[i].low);
    EXPECT_EQ(again[i].high, records[i].high);
  }
}

std::vector<ResultRecord> compared_sample() {
  auto records = sample();
  records[1].baseline = records[4].baseline = "dsrsq";
  records[1].difference = RowDifference{-0.9539, -0.97, -0.93, 0.00004, true, 200};
  records[4].ratio = 121.5;
  return records;
}

TEST(Report, ComparisonsRoundTrip) {
  auto results = json::parse(results_json({}, compared_sample()).dump());
  const auto& item = results["records"][1];
  EXPECT_EQ(item["baseline"], "dsrsq");
  EXPECT_EQ(item["difference"], json({{"value", -0.9539},
                                      {"ci", {-0.97, -0.93}},
                                      {"p", 0.00004},
                                      {"test", "exact"},
                                      {"pairs", 200}}));
  EXPECT_EQ(results["records"][4]["ratio"], 121.5);
  for (const char* key : {"baseline", "difference", "ratio"})
    EXPECT_FALSE(results["records"][0].contains(key)) << key;
  auto again = parse_results(results, "results.json");
  EXPECT_EQ(again[1].baseline, "dsrsq");
  ASSERT_TRUE(again[1].difference);
  EXPECT_EQ(again[1].difference->low, -0.97);
  EXPECT_EQ(again[1].difference->p, 0.00004);
  EXPECT_TRUE(again[1].difference->exact);
  EXPECT_EQ(again[1].difference->pairs, 200);
  EXPECT_EQ(again[4].ratio, 121.5);
  EXPECT_FALSE(again[0].difference);
  results["records"][1]["difference"].erase("p");
  EXPECT_THAT(parse_error(results), HasSubstr("records[1].difference: the key \"p\" is missing"));
}

TEST(Report, ComparisonTable) {
  auto records = compared_sample();
  auto close = record("c", "em", 0.99, "share");
  close.baseline = "dsrsq";
  close.difference = RowDifference{0.0049, -0.002, 0.0121, 0.0624, false, 200};
  records.push_back(close);
  auto lines = lines_of(comparison_table(records, {{"em", "EM"}, {"latency_p50", "latency"}}));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_THAT(lines[0], HasSubstr("Less dsrsq, question by question"));
  EXPECT_EQ(lines[2], "| method |                                 EM |");
  EXPECT_EQ(lines[4], "| random | -0.954 [-0.970, -0.930], p < 0.001 |");
  EXPECT_EQ(lines[5], "| c      |    +0.005 [-0.002, 0.012], p 0.062 |");
  EXPECT_EQ(comparison_table(sample(), {{"em", "EM"}}), "");
}

TEST(Report, AValueThatIsNotFiniteIsNullNotANumber) {
  auto results =
      results_json({}, {record("m", "em", std::numeric_limits<double>::infinity(), "share")});
  EXPECT_TRUE(results["records"][0]["value"].is_null());
  EXPECT_TRUE(std::isnan(parse_results(results, "results.json").at(0).value));
}

TEST(Report, ParseErrorsNameThePlace) {
  auto good = results_json({}, sample());
  auto bad = good;
  bad["records"][1]["value"] = "high";
  EXPECT_THAT(parse_error(bad),
              HasSubstr("eval/results.json: records[1].value: expected a number, got \"high\""));
  bad = good;
  bad["records"][2].erase("unit");
  EXPECT_THAT(parse_error(bad), HasSubstr("records[2]: the key \"unit\" is missing"));
  bad = good;
  bad["records"][0]["ci"] = {0.1};
  EXPECT_THAT(parse_error(bad), HasSubstr("records[0].ci: expected [low, high], got array"));
  EXPECT_THAT(parse_error(json::array()), HasSubstr("eval/results.json: expected an object"));
  EXPECT_THAT(parse_error(json::object()), HasSubstr("\"records\" is missing"));
  EXPECT_THAT(parse_error({{"records", 3}}), HasSubstr("records: expected a list, got 3"));
  EXPECT_EQ(parse_error(good), "no error");
}

TEST(Report, Provenance) {
  auto provenance = make_provenance({"some/folder/dsrsq-eval", "--set", "a.b=it's 1"},
                                    "cpu (2 threads)", {1, 2, 3});
  EXPECT_EQ(provenance["command"], "dsrsq-eval --set 'a.b=it'\\''s 1'");
  EXPECT_EQ(provenance["device"], "cpu (2 threads)");
  EXPECT_EQ(provenance["seeds"], json({1, 2, 3}));
  EXPECT_TRUE(std::regex_match(provenance["date"].get<std::string>(),
                               std::regex(R"(20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ)")));
  EXPECT_TRUE(std::regex_match(provenance["commit"].get<std::string>(),
                               std::regex("unknown|[0-9a-f]{40,64}(-dirty)?")));
  for (const char* name : {"dsrsq", "torch", "cuda", "compiler"})
    EXPECT_NE(provenance["versions"][name], "") << name;
}

TEST(Report, VersionIsThatOfTheBuild) {
  std::ifstream file(std::filesystem::path(DSRSQ_SOURCE_DIR) / "CMakeLists.txt");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  std::smatch found;
  ASSERT_TRUE(std::regex_search(text, found, std::regex(R"(project\(dsrsq VERSION ([0-9.]+))")));
  EXPECT_EQ(make_provenance({"x"}, "cpu", {})["versions"]["dsrsq"], found[1].str());
}

}  // namespace
}  // namespace dsrsq
