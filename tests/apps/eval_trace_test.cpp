// dsrsq-eval --trace: what its pages mark is what was read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

// The run of this name, trained by the first test that asks.
std::string trained(const std::string& name, const std::vector<std::string>& more = {}) {
  static std::set<std::string> made;
  if (made.insert(name).second) {
    auto result = run_program(project().train(name, more), project().folder() + "/output-" + name);
    if (result.code != 0) throw std::runtime_error("training failed: " + result.err);
  }
  return project().run_folder(name);
}

std::string tiny_run() { return trained("traced"); }

// dsrsq-eval into <project>/<name>.
ProgramResult eval(const std::string& checkpoint, const std::string& name,
                   const std::vector<std::string>& more) {
  std::vector<std::string> all{"dsrsq-eval", "--checkpoint", checkpoint, "--output-dir",
                               project().folder() + "/" + name};
  all.insert(all.end(), more.begin(), more.end());
  return run_program(all, project().folder() + "/output-" + name);
}

// In one pass: "&amp;lt;" is "&lt;".
std::string unescaped(const std::string& html) {
  const std::map<std::string, std::string> characters = {
      {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&amp;", "&"}};
  std::string text;
  for (size_t i = 0; i < html.size();) {
    auto entity = html[i] == '&' ? html.substr(i, html.find(';', i) + 1 - i) : html.substr(i, 1);
    text += html[i] == '&' ? characters.at(entity) : entity;
    i += entity.size();
  }
  return text;
}

struct MarkedSpan {
  bool picked = false, evidence = false, answer = false;
  std::string title, text;
};

struct Page {
  std::string html;
  std::string text;  // of the document, as a browser would show it
  std::vector<MarkedSpan> spans;
  std::map<int, MarkedSpan> picked;  // by position
};

Page read_page(const std::string& path) {
  Page page;
  page.html = read_bytes(path);
  auto begin = page.html.find("<div class=\"document\">") + 22;
  auto document = page.html.substr(begin, page.html.find("</div>", begin) - begin);
  page.text = unescaped(std::regex_replace(document, std::regex("<[^>]*>"), ""));
  const std::regex span("<span class=\"([^\"]*)\"(?: title=\"([^\"]*)\")?>([^<]*)</span>");
  const std::regex position("token (\\d+)");
  for (std::sregex_iterator at(document.begin(), document.end(), span), end; at != end; ++at) {
    MarkedSpan found;
    std::istringstream classes((*at)[1]);
    for (std::string one; classes >> one;) {
      found.picked |= one == "p";
      found.evidence |= one == "e";
      found.answer |= one == "a";
    }
    found.title = (*at)[2];
    found.text = unescaped((*at)[3]);
    page.spans.push_back(found);
    if (!found.picked) continue;
    for (std::sregex_iterator p(found.title.begin(), found.title.end(), position); p != end; ++p)
      EXPECT_TRUE(page.picked.emplace(std::stoi((*p)[1]), found).second) << "twice: " << (*p)[1];
  }
  return page;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::vector<nlohmann::json> questions_of(const std::string& name) {
  std::istringstream in(read_bytes(project().folder() + "/" + name + "/questions.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

// A document of the tiny project has one token a word: position i is word i.
void expect_marks_of(const Page& page, const nlohmann::json& question) {
  const auto words = words_of(page.text);
  ASSERT_EQ(words.size(), 64u);
  EXPECT_EQ(page.picked.size(), question.at("tokens_read").get<double>());
  std::string evidence, answer;
  double wanted = 0;
  double found = 0;
  for (const auto& span : page.spans) {
    if (span.evidence) evidence += span.text;
    if (span.answer) answer += span.text;
    if (!span.evidence) continue;
    auto tokens = double(words_of(span.text).size());
    wanted += tokens;
    found += span.picked ? tokens : 0;
  }
  ASSERT_GT(wanted, 0);
  EXPECT_DOUBLE_EQ(found / wanted, question.at("evidence_recall").get<double>());
  EXPECT_EQ(answer, " " + question.at("answers").at(0).get<std::string>());
  const auto asked = words_of(question.at("question"));  // ask ATTRIBUTE of NAME ?
  EXPECT_EQ(evidence, " the " + asked.at(1) + " of " + asked.at(3) + " is" + answer + " .");
  for (const auto& [position, span] : page.picked) EXPECT_EQ(span.text, words.at(size_t(position)));
}

TEST(Trace, PagesMarkWhatWasRead) {
  ASSERT_EQ(eval("full=" + tiny_run(), "trace_two", {"--trace", "2"}).code, 0);
  auto folder = project().folder() + "/trace_two/trace/";
  EXPECT_EQ(files_in(folder),
            (std::set<std::string>{"001-full.html", "002-full.html", "index.html"}));
  auto questions = questions_of("trace_two");
  auto index = read_bytes(folder + "index.html");
  for (int i = 0; i < 2; ++i) {
    const auto& question = questions.at(size_t(i));
    auto file = "00" + std::to_string(i + 1) + "-full.html";
    auto page = read_page(folder + file);
    expect_marks_of(page, question);
    EXPECT_EQ(page.picked.size(), 32u);
    EXPECT_THAT(page.html, HasSubstr("32 of the document's 64"));
    EXPECT_THAT(page.html, HasSubstr("32 (dsr.budget)"));
    EXPECT_THAT(page.html, HasSubstr("<td>" + question.at("prediction").get<std::string>()));
    EXPECT_THAT(page.html, Not(HasSubstr("[...")));
    EXPECT_THAT(index, HasSubstr("href=\"" + file + "\">" + question.at("id").get<std::string>()));
  }
}

TEST(Trace, TitlesGiveScoreAndRankOfEachPickedToken) {
  ASSERT_EQ(eval("full=" + tiny_run(), "trace_rank", {"--trace", "1", "--budget", "16"}).code, 0);
  auto page = read_page(project().folder() + "/trace_rank/trace/001-full.html");
  EXPECT_THAT(page.html, HasSubstr("16 (--budget)"));
  const std::regex title("token \\d+, score (-?[0-9.]+), rank (\\d+) of 16 picked");
  std::map<int, double> score_of;
  std::map<char, int> shades;
  for (const auto& [position, span] : page.picked) {
    std::smatch match;
    ASSERT_TRUE(std::regex_match(span.title, match, title)) << span.title;
    score_of[std::stoi(match[2])] = std::stod(match[1]);
  }
  ASSERT_EQ(score_of.size(), 16u);
  EXPECT_EQ(score_of.begin()->first, 1);
  EXPECT_EQ(score_of.rbegin()->first, 16);
  for (int rank = 2; rank <= 16; ++rank) EXPECT_LE(score_of[rank], score_of[rank - 1]);
  const std::regex shade("<span class=\"p p([1-4])[^>]*rank (\\d+) of 16");
  for (std::sregex_iterator at(page.html.begin(), page.html.end(), shade), end; at != end; ++at) {
    EXPECT_EQ(std::stoi((*at)[1]), (std::stoi((*at)[2]) + 3) / 4);
    ++shades[*(*at)[1].first];
  }
  EXPECT_EQ(shades.size(), 4u);
}

// A selection that is known without running anything: a window cut in the middle.
TEST(Trace, MarksTheTwoEndsThatATruncatedWindowKeeps) {
  auto run = trained(
      "window", {"--set", "method=standard", "--set", "standard.window=40", "--set",
                 "standard.reserved=8", "--set", "stages.0.steps=2", "--set", "stages.1.steps=1"});
  auto result = eval("window=" + run, "trace_window", {"--trace", "2"});
  ASSERT_EQ(result.code, 0) << result.err;
  std::set<int> expected;
  for (int i = 0; i < 16; ++i) expected.insert({i, 48 + i});
  for (const char* file : {"001-window.html", "002-window.html"}) {
    auto page = read_page(project().folder() + "/trace_window/trace/" + file);
    std::set<int> picked;
    for (const auto& [position, span] : page.picked) {
      picked.insert(position);
      EXPECT_EQ(span.title, "token " + std::to_string(position)) << "there is no score";
    }
    EXPECT_EQ(picked, expected);
    EXPECT_EQ(words_of(page.text).size(), 64u);
  }
}

// Text from elsewhere: markup, characters of several tokens, and more than a page can hold.
class ForeignText : public ::testing::Test {
 protected:
  static constexpr int kFiller = 4500;
  // The page of its only question.
  static Page page(const std::string& name, const std::string& budget) {
    auto folder = project().folder() + "/" + name;
    fs::create_directories(folder);
    std::string filler;
    for (int i = 0; i < kFiller; ++i) filler += " of";
    nlohmann::json record{{"question", "<i>which & \"why\"?"},
                          {"context", "Caf\u00e9 \u65e5\u672c <b>&amp;</b>" + filler},
                          {"answers", {"</div>"}},
                          {"evidence", {"\u65e5\u672c <b>&amp;</b>"}}};
    write_bytes(folder + "/x.jsonl", record.dump() + "\n");
    auto store = folder + "/x.h5";
    auto prepared = run_program({"dsrsq-data", "prepare", folder + "/x.jsonl", "--format", "jsonl",
                                 "--tokenizer", project().tokenizer(), "--output", store},
                                folder + "/prepare");
    if (prepared.code != 0) throw std::runtime_error(prepared.err);
    auto result = eval("a/b <x>&=" + tiny_run(), name,
                       {"--trace", "1", "--budget", budget, "--set", "data.train=" + store, "--set",
                        "data.test_split=all"});
    if (result.code != 0) throw std::runtime_error(result.err);
    return read_page(folder + "/trace/001-a_b__x__.html");
  }
};

TEST_F(ForeignText, IsEscapedAndCutAroundWhatIsMarked) {
  auto page = ForeignText::page("foreign_cut", "3");
  EXPECT_EQ(page.picked.size(), 3u);
  EXPECT_THAT(page.html, HasSubstr("a/b &lt;x&gt;&amp;: "));
  EXPECT_THAT(page.html, HasSubstr("&lt;i&gt;which &amp; &quot;why&quot;?"));
  EXPECT_THAT(page.html, HasSubstr("<td>&lt;/div&gt;</td>"));
  EXPECT_THAT(page.text, HasSubstr("Caf\u00e9 \u65e5\u672c <b>&amp;</b> of of"));
  std::string evidence;
  for (const auto& span : page.spans) evidence += span.evidence ? span.text : "";
  EXPECT_THAT(evidence, HasSubstr("\u65e5\u672c <b>&amp;</b>"));
  // Shown and left-out tokens are all of them; one " of" is one token.
  const std::regex gap("\\[\\.\\.\\. (\\d+) tokens \\.\\.\\.\\]");
  int hidden = 0;
  for (std::sregex_iterator at(page.text.begin(), page.text.end(), gap), end; at != end; ++at)
    hidden += std::stoi((*at)[1]);
  int shown = 0;
  for (const auto& word : words_of(page.text)) shown += word == "of";
  EXPECT_GT(hidden, 2000);
  EXPECT_EQ(shown + hidden, kFiller);
  EXPECT_THAT(page.html, HasSubstr("are left out"));
}

TEST_F(ForeignText, TokensThatAreOneCharacterTogetherAreMarkedTogether) {
  auto page = ForeignText::page("foreign_whole", "100%");
  EXPECT_EQ(page.picked.size(), questions_of("foreign_whole").at(0).at("context_tokens"));
  EXPECT_EQ(page.picked.rbegin()->first + 1, int(page.picked.size()));
  EXPECT_THAT(page.text, HasSubstr("Caf\u00e9 \u65e5\u672c <b>&amp;</b> of of"));
  EXPECT_THAT(page.text, Not(HasSubstr("\uFFFD"))) << "half a character";
  const auto& accent = page.picked.at(3);
  EXPECT_EQ(accent.text, "\u00e9");
  EXPECT_THAT(accent.title, HasSubstr("token 3, token 4, score "));
}

TEST(Trace, OnlyWhereItIsAskedForAndNoPageStaysBehind) {
  auto trace = project().folder() + "/trace_again/trace";
  ASSERT_EQ(eval("full=" + tiny_run(), "trace_again", {}).code, 0);
  EXPECT_FALSE(fs::exists(trace));
  ASSERT_EQ(eval("full=" + tiny_run(), "trace_again", {"--trace", "99"}).code, 0);
  EXPECT_EQ(files_in(trace).size(), 9u) << "the split has eight questions";
  write_bytes(trace + "/notes.html", "mine");
  ASSERT_EQ(eval("full=" + tiny_run(), "trace_again", {"--trace", "1"}).code, 0);
  EXPECT_EQ(files_in(trace), (std::set<std::string>{"001-full.html", "index.html", "notes.html"}));
  EXPECT_EQ(eval("full=" + tiny_run(), "trace_again", {"--trace", "-1"}).code, 2);
}

}  // namespace
}  // namespace dsrsq
