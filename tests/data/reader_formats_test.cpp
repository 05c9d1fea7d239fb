// What each reader makes of its format.
#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

class ReaderFormatsTest : public ::testing::Test, protected ReaderFixture {
 protected:
  const DocumentExample& only(const std::string& format, const json& content) {
    read_content(format, content.dump());
    EXPECT_TRUE(report.bad.empty()) << first_bad();
    EXPECT_EQ(examples.size(), 1u);
    return examples.at(0);
  }
  static Texts texts(const DocumentExample& example, const std::vector<ByteSpan>& spans) {
    Texts out;
    for (const ByteSpan& span : spans) out.push_back(text_at(example, span));
    return out;
  }
};

// The record of NQ's own toy_example.md, its typing errors repaired ("Token", True).
json toy() {
  const std::string html =
      "<html><body><h1>Google Inc.</h1><p>Google was founded in 1998 By:<ul><li>Larry</li>"
      "<li>Sergey</li></ul></p></body></html>";
  const std::vector<std::tuple<std::string, int, int>> tokens = {
      {"<h1>", 12, 16},    {"Google", 16, 22}, {"inc", 23, 26},    {".", 26, 27},
      {"</h1>", 27, 32},   {"<p>", 32, 35},    {"Google", 35, 41}, {"was", 42, 45},
      {"founded", 46, 53}, {"in", 54, 56},     {"1998", 57, 61},   {"by", 62, 64},
      {":", 64, 65},       {"<ul>", 65, 69},   {"<li>", 69, 73},   {"Larry", 73, 78},
      {"</li>", 78, 83},   {"<li>", 83, 87},   {"Sergey", 87, 93}, {"</li>", 93, 98},
      {"</ul>", 98, 103},  {"</p>", 103, 107}};
  json list = json::array();
  for (const auto& [token, begin, end] : tokens)
    list.push_back({{"token", token},
                    {"start_byte", begin},
                    {"end_byte", end},
                    {"html_token", token[0] == '<'}});
  return json::parse(R"({
    "example_id": 797803103760793766, "question_text": "who founded google",
    "document_title": "Google", "document_url": "http://www.wikipedia.org/Google",
    "long_answer_candidates": [],
    "annotations": [{
      "long_answer": {"start_byte": 32, "end_byte": 107, "start_token": 5, "end_token": 22,
                      "candidate_index": 0},
      "short_answers": [
        {"start_byte": 73, "end_byte": 78, "start_token": 15, "end_token": 16},
        {"start_byte": 87, "end_byte": 93, "start_token": 18, "end_token": 19}],
      "yes_no_answer": "NONE"}]})")
      .patch({{{"op", "add"}, {"path", "/document_html"}, {"value", html}},
              {{"op", "add"}, {"path", "/document_tokens"}, {"value", list}}});
}

TEST_F(ReaderFormatsTest, NaturalQuestionsReadsItsToyExample) {
  const DocumentExample& example = only("natural_questions", toy());
  EXPECT_EQ(example.document,
            "<h1> Google inc . </h1> <p> Google was founded in 1998 by : <ul> <li> Larry </li> "
            "<li> Sergey </li> </ul> </p>");
  EXPECT_EQ(example.title, "Google");
  const Question& question = example.questions.at(0);
  EXPECT_EQ(question.id, "797803103760793766");
  EXPECT_EQ(question.answers, (Texts{"Larry", "Sergey"}));
  EXPECT_EQ(texts(example, question.answer_spans), question.answers);
  EXPECT_EQ(texts(example, question.evidence),
            Texts{"<p> Google was founded in 1998 by : <ul> <li> Larry </li> <li> Sergey </li> "
                  "</ul> </p>"});
  EXPECT_EQ(report.relocated, 0);
}

TEST_F(ReaderFormatsTest, NaturalQuestionsGivesTheSameExampleAsItsSimplification) {
  json record = toy();
  record["document_tokens"][6]["token"] = "Goo gle";  // a blank inside a token becomes "_"
  const DocumentExample original = only("natural_questions", record);
  // As NQ's text_utils.simplify_nq_example: the tokens, and the spans without their bytes.
  std::string text;
  for (const json& token : record["document_tokens"]) {
    std::string word = token["token"];
    for (char& c : word) c = c == ' ' ? '_' : c;
    text += (text.empty() ? "" : " ") + word;
  }
  record["document_text"] = text;
  record.erase("document_html");
  record.erase("document_tokens");
  const DocumentExample& simplified = only("nq_simplified", record);
  EXPECT_EQ(simplified.document, original.document);
  EXPECT_EQ(simplified.questions[0].answers, original.questions[0].answers);
  EXPECT_EQ(texts(simplified, simplified.questions[0].evidence),
            texts(original, original.questions[0].evidence));
}

TEST_F(ReaderFormatsTest, NaturalQuestionsTakesBytesBeforeTokens) {
  json record = toy();
  json& answers = record["annotations"][0]["short_answers"];
  answers[0]["start_token"] = 14;  // the bytes are those of token 15
  answers[1].erase("start_token");
  answers[1].erase("end_token");
  const DocumentExample& example = only("natural_questions", record);
  EXPECT_EQ(example.questions[0].answers, (Texts{"Larry", "Sergey"}));
  EXPECT_EQ(report.relocated, 1);
}

TEST_F(ReaderFormatsTest, TitlesOfAddressesAreUtf8) {
  json record = toy();
  record.erase("document_title");
  for (const auto& [address, title] : std::map<std::string, std::string>{
           {"x?title=R%C3%B6ntgen_rays&oldid=1", "Röntgen rays"}, {"x?title=R%F6ntgen", ""}}) {
    record["document_url"] = address;
    EXPECT_EQ(only("natural_questions", record).title, title);
  }
}

json squad(const json& qas, const std::string& context) {
  return {{"version", "x"},
          {"data", {{{"title", "T"}, {"paragraphs", {{{"context", context}, {"qas", qas}}}}}}}};
}

json squad_question(const json& id, const std::string& text, int64_t start) {
  return {{"id", id}, {"question", "q?"}, {"answers", {{{"text", text}, {"answer_start", start}}}}};
}

// Packed by the tools that everybody has: nothing of ours makes what is read.
TEST_F(ReaderFormatsTest, PackedJsonDocumentsAreReadAndTruncatedOnesAreErrors) {
  const std::string path = write(
      squad(json::array({squad_question("a", "Rom", 0)}), "Rom " + std::string(5000, 'x')).dump());
  for (const std::string command : {"gzip -9", "zstd -q"}) {
    if (std::system((command + " -c '" + path + "' > '" + path + ".packed'").c_str()) != 0) {
      GTEST_SKIP() << command << " is not there";
    }
    read("squad", path + ".packed");
    EXPECT_EQ(questions(), 1) << command << first_bad();
    std::filesystem::resize_file(path + ".packed",
                                 std::filesystem::file_size(path + ".packed") - 6);
    try {
      read("squad", path + ".packed");
      ADD_FAILURE() << command;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("truncated"), std::string::npos) << error.what();
    }
  }
}

TEST_F(ReaderFormatsTest, NqOpenHasNoDocument) {
  const DocumentExample& example =
      only("nq_open", {{"question", "who was first on the moon"}, {"answer", {"Armstrong"}}});
  EXPECT_EQ(example.document, "");
  EXPECT_EQ(example.questions.at(0).answers, Texts{"Armstrong"});
  EXPECT_EQ(example.questions[0].id, "1");
  EXPECT_EQ(report.unlocated, 0);
}

TEST_F(ReaderFormatsTest, LostInTheMiddleLooksForAnswersInTheGoldPassageAlone) {
  const json record = {
      {"question", "who"},
      {"answers", {"Anna", "Anna Maria"}},
      {"ctxs",
       {{{"title", "One"}, {"text", "Anna, but by chance."}, {"isgold", false}},
        {{"title", "Zwölf"}, {"text", "Annalen: it was Anna."}, {"isgold", true}},
        {{"title", "Two"}, {"text", "Nobody."}, {"isgold", false}, {"hasanswer", false}}}}};
  const DocumentExample& example = only("lost_in_the_middle", record);
  EXPECT_EQ(example.document,
            "One\nAnna, but by chance.\n\nZwölf\nAnnalen: it was Anna.\n\nTwo\nNobody.");
  const Question& question = example.questions.at(0);
  EXPECT_EQ(texts(example, question.evidence), Texts{"Annalen: it was Anna."});
  ASSERT_EQ(question.answer_spans.size(), 1u);
  // A word of its own, not the beginning of "Annalen".
  EXPECT_EQ(question.answer_spans[0].end, question.evidence[0].end - 1);
  EXPECT_EQ(report.unlocated, 1);  // "Anna Maria"
  EXPECT_EQ(texts(example, example.passages).at(1), "Zwölf\nAnnalen: it was Anna.");
  EXPECT_EQ(example.title, "");
}

TEST_F(ReaderFormatsTest, LostInTheMiddleNeedsAGoldPassage) {
  const json record = {
      {"question", "who"},
      {"answers", {"Anna"}},
      {"ctxs", json::array({{{"title", "One"}, {"text", "Anna."}, {"isgold", false}}})}};
  EXPECT_TRUE(read_content("lost_in_the_middle", record.dump()).empty());
  EXPECT_NE(first_bad().find("none of the 1 \"ctxs\" is gold"), std::string::npos) << first_bad();
}

json qed_span(int64_t begin, int64_t end, const std::string& text) {
  return {{"start", begin}, {"end", end}, {"string", text}};
}

json qed_record() {
  return {{"example_id", -5},
          {"title_text", "Zoë"},
          {"question_text", "who laughs"},
          {"paragraph_text", "Äsop schwieg . Zoë lacht . Und Zoë geht ."},
          {"original_nq_answers",
           json::array({json::array({qed_span(15, 18, "Zoë")}),
                        json::array({qed_span(31, 34, "Zoë"), qed_span(0, 4, "Äsop")})})},
          {"annotation", {{"selected_sentence", qed_span(15, 26, "Zoë lacht .")}}}};
}

TEST_F(ReaderFormatsTest, QedTakesAllAnnotatorsAndTheSelectedSentence) {
  const DocumentExample& example = only("qed", qed_record());
  const Question& question = example.questions.at(0);
  EXPECT_EQ(question.id, "-5");
  EXPECT_EQ(question.answers, (Texts{"Zoë", "Äsop"}));
  EXPECT_EQ(texts(example, question.answer_spans), (Texts{"Zoë", "Zoë", "Äsop"}));
  EXPECT_EQ(texts(example, question.evidence), Texts{"Zoë lacht ."});
  json without = qed_record();
  without["annotation"] = {{"explanation_type", "none"}};
  const DocumentExample& unexplained = only("qed", without);
  EXPECT_EQ(texts(unexplained, unexplained.questions[0].evidence), (Texts{"Zoë", "Zoë", "Äsop"}));
}

TEST_F(ReaderFormatsTest, QedNeedsItsAnnotation) {
  json record = qed_record();
  for (const json& wrong : {json(nullptr), json::array(), json("x")}) {
    record["annotation"] = wrong;
    EXPECT_TRUE(read_content("qed", record.dump()).empty());
    EXPECT_NE(first_bad().find("\"annotation\" must be an object"), std::string::npos);
  }
  record.erase("annotation");
  EXPECT_TRUE(read_content("qed", record.dump()).empty());
}

TEST_F(ReaderFormatsTest, SquadMovesDriftedOffsetsToTheNearestOccurrence) {
  const std::string context = "ä Rom, ä Rom, ä Rom.";
  const json qas = {squad_question("a", "Rom", 2), squad_question(7, "Rom", 6),
                    squad_question("c", "Rom", 13), squad_question("d", "Paris", 3)};
  const DocumentExample& example = only("squad", squad(qas, context));
  ASSERT_EQ(example.questions.size(), 4u);
  const auto begin = [&](size_t i) { return example.questions[i].answer_spans.at(0).begin; };
  EXPECT_EQ(begin(0), 3);   // exact; "ä" has two bytes
  EXPECT_EQ(begin(1), 11);  // code points 2 and 9 have "Rom": 9 is nearer to 6, not so in bytes
  EXPECT_EQ(begin(2), 19);  // 16 is nearer to 13 than 9
  EXPECT_EQ(example.questions[1].id, "7");  // COVID-QA's are integers
  EXPECT_TRUE(example.questions[3].answer_spans.empty());
  EXPECT_EQ(example.questions[3].answers, Texts{"Paris"});
  EXPECT_EQ(report.relocated, 2);
  EXPECT_EQ(report.unlocated, 1);
  EXPECT_EQ(report.answer_spans, 3);
  EXPECT_EQ(report.answer_spans_at_text, 3);
}

TEST_F(ReaderFormatsTest, SquadImpossibleQuestionsAreUnanswerable) {
  const json impossible = {{"id", "a"},
                           {"question", "q?"},
                           {"is_impossible", true},
                           {"plausible_answers", {{{"text", "Rom"}, {"answer_start", 0}}}},
                           {"answers", json::array()}};
  json wrong = squad_question("b", "Rom", 0);
  wrong["is_impossible"] = true;
  read_content("squad", squad({impossible, wrong}, "Rom").dump());
  ASSERT_EQ(questions(), 1);
  EXPECT_TRUE(examples[0].questions[0].answers.empty());
  EXPECT_EQ(report.unanswerable, 1);
  EXPECT_NE(first_bad().find("input:1 (data[0].paragraphs[0].qas[1]): \"is_impossible\" with 1"),
            std::string::npos)
      << first_bad();
}

TEST_F(ReaderFormatsTest, SquadRejectsOneQuestionAndKeepsItsNeighbours) {
  json qas = {squad_question("a", "Rom", 0), squad_question("b", "Rom", 4),
              squad_question("c", "Rom", 0)};
  read_content("squad", squad(qas, "Rom").dump());
  EXPECT_EQ(questions(), 2);
  EXPECT_NE(first_bad().find("answer_start\" is 4, the context has 3 code points"),
            std::string::npos)
      << first_bad();
}

TEST_F(ReaderFormatsTest, TimeQaFlat) {
  const json record = {{"idx", "/wiki/X#P1#0"},
                       {"question", "who in 1900"},
                       {"context", "Haus Geschichte . Bürger Anna , Bürger Otto . Ende ."},
                       {"targets", {"Anna", "Otto"}},
                       {"from", {25, 39}},
                       {"end", {29, 43}},
                       {"paragraphs",
                        {{{"title", "Haus"}, {"text", " Haus"}},
                         {{"title", "G"}, {"text", "Bürger Anna , Bürger Otto ."}}}}};
  const DocumentExample& example = only("timeqa", record);
  const Question& question = example.questions.at(0);
  EXPECT_EQ(texts(example, question.answer_spans), (Texts{"Anna", "Otto"}));
  EXPECT_EQ(texts(example, question.evidence), Texts{"Bürger Anna , Bürger Otto ."});
  EXPECT_EQ(example.title, "Haus");
  EXPECT_EQ(report.relocated, 0);

  json other = record;  // of the same document: gathered
  other["idx"] = "/wiki/X#P1#1";
  other["targets"] = {""};
  other["from"] = other["end"] = {0};
  read_content("timeqa", record.dump() + "\n" + other.dump() + "\n");
  ASSERT_EQ(examples.size(), 1u);
  ASSERT_EQ(examples[0].questions.size(), 2u);
  EXPECT_TRUE(examples[0].questions[1].answers.empty());
  EXPECT_EQ(report.unanswerable, 1);
}

TEST_F(ReaderFormatsTest, TimeQaAnnotated) {
  const json answer = {{"para", 1}, {"from", 7}, {"end", 11}, {"answer", "Anna"}};
  const json none = {{"para", 0}, {"from", 0}, {"end", 0}, {"answer", ""}};
  const json article = {{"index", "/wiki/X#P1"},
                        {"questions", json::array({json::array({"who?", json::array({answer})}),
                                                   json::array({"when?", json::array({none})})})},
                        {"paras", {"Haus", "Bürger Anna ."}}};
  const DocumentExample& example = only("timeqa", json::array({article}));
  EXPECT_EQ(example.document, "Haus Bürger Anna .");
  ASSERT_EQ(example.questions.size(), 2u);
  EXPECT_EQ(texts(example, example.questions[0].answer_spans), Texts{"Anna"});
  EXPECT_EQ(texts(example, example.questions[0].evidence), Texts{"Bürger Anna ."});
  EXPECT_EQ(example.questions[1].id, "/wiki/X#P1#1");
  EXPECT_TRUE(example.questions[1].answers.empty());
}

json hotpot() {
  return {
      {"_id", "h1"},
      {"question", "who was both"},
      {"answer", "Anna"},
      {"type", "bridge"},
      {"context", json::array({json::array({"First", {"Annalen .", " It was Anna ."}}),
                               json::array({"Second", {"Anna sang .", " Ende ."}})})},
      {"supporting_facts", json::array({json::array({"Second", 0}), json::array({"First", 1})})}};
}

TEST_F(ReaderFormatsTest, HotpotQaMarksSupportingSentences) {
  const DocumentExample& example = only("hotpotqa", json::array({hotpot()}));
  EXPECT_EQ(example.document, "First\nAnnalen . It was Anna .\n\nSecond\nAnna sang . Ende .");
  const Question& question = example.questions.at(0);
  EXPECT_EQ(texts(example, question.evidence), (Texts{"It was Anna .", "Anna sang ."}));
  ASSERT_EQ(question.answer_spans.size(), 1u);
  EXPECT_EQ(question.answer_spans[0].begin, question.evidence[0].begin + 7);
  json compare = hotpot();
  compare["answer"] = "no";
  compare["context"][0][1][0] = "no";
  EXPECT_TRUE(only("hotpotqa", json::array({compare})).questions[0].answer_spans.empty());
  EXPECT_EQ(report.unlocated, 1);
}

TEST_F(ReaderFormatsTest, HotpotQaAdversarialVariantDrawsTheOrderOfItsParagraphs) {
  json record = {{"_id", "x"},
                 {"question", "who"},
                 {"answer", "Anna"},
                 {"title_a", "A"},
                 {"para_a", {"Anna .", " More ."}},
                 {"title_b", "B"},
                 {"para_b", {"Other .", " She ."}},
                 {"supporting_facts", {{0}, {1}}},
                 {"distractors", {{"C", {"Nothing ."}, 1.5}, {"D", {"Nothing else ."}, 1.25}}}};
  json list = json::array();
  for (int i = 0; i < 40; ++i) {
    record["_id"] = concat("id", i);
    list.push_back(record);
  }
  read_content("hotpotqa", list.dump());
  ASSERT_EQ(examples.size(), 40u) << first_bad();
  std::map<std::string, int> first;
  for (const DocumentExample& example : examples) {
    EXPECT_EQ(example.passages.size(), 4u);
    const Question& question = example.questions[0];
    Texts evidence = texts(example, question.evidence);
    std::sort(evidence.begin(), evidence.end());
    EXPECT_EQ(evidence, (Texts{"Anna .", "She ."}));
    EXPECT_EQ(texts(example, question.answer_spans), Texts{"Anna"});
    ++first[example.document.substr(0, 1)];
  }
  EXPECT_EQ(first.size(), 4u);  // each of the four comes first for some id
}

TEST_F(ReaderFormatsTest, ListsAndLinesOfTheSameRecordsAreAlike) {
  const json record = {{"question", "who"}, {"answer", {"Anna"}}};
  read_content("nq_open", "\xEF\xBB\xBF [" + record.dump(2) + " ,\n" + record.dump() + "]\n");
  ASSERT_EQ(questions(), 2) << first_bad();
  EXPECT_EQ(examples[1].questions[0].id, "1");
  EXPECT_EQ(examples[1].questions[0].source_line, 7);
  read_content("nq_open", record.dump() + "\n\n" + record.dump());
  ASSERT_EQ(questions(), 2) << first_bad();
  EXPECT_EQ(examples[1].questions[0].id, "3");
}

}  // namespace
}  // namespace dsrsq
