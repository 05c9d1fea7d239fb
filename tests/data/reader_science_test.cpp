// Questions over papers: PubMedQA, SciTLDR, S2ORC in all of its forms, QASPER, SciFact.
#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

class ReaderScienceTest : public ::testing::Test, protected ReaderFixture {
 protected:
  const DocumentExample& only(const std::string& format, const json& content, int indent = -1) {
    read_content(format, content.dump(indent));
    EXPECT_TRUE(report.bad.empty()) << first_bad();
    EXPECT_EQ(examples.size(), 1u);
    return examples.at(0);
  }
  // The reason for which the one record is bad.
  std::string reason(const std::string& format, const json& content) {
    read_content(format, content.dump());
    EXPECT_TRUE(examples.empty());
    return report.bad.size() == 1 ? report.bad[0].reason : concat(report.bad.size(), " bad");
  }
  static Texts texts(const DocumentExample& example, const std::vector<ByteSpan>& spans) {
    Texts out;
    for (const ByteSpan& span : spans) out.push_back(text_at(example, span));
    return out;
  }
};

json pubmedqa() {
  return {{"QUESTION", "Does it?"},
          {"CONTEXTS", {"Zoë asks.", "We looked."}},
          {"LABELS", {"AIM", "METHODS"}},
          {"MESHES", json::array()},
          {"YEAR", "2007"},
          {"reasoning_required_pred", "yes"},
          {"reasoning_free_pred", "no"},
          {"final_decision", "maybe"},
          {"LONG_ANSWER", "It may, we say."}};
}

TEST_F(ReaderScienceTest, PubMedQa) {
  const DocumentExample& example = only("pubmedqa", {{"10808977", pubmedqa()}});
  EXPECT_EQ(example.document, "AIM\nZoë asks.\n\nMETHODS\nWe looked.");
  EXPECT_TRUE(example.passages.empty());  // one passage: contexts can be assembled of it
  const Question& question = example.questions.at(0);
  EXPECT_EQ(question.id, "10808977");
  EXPECT_EQ(question.text, "Does it?");
  EXPECT_EQ(question.answers, Texts{"maybe"});
  EXPECT_EQ(question.timestamp, "2007");
  EXPECT_TRUE(question.answer_spans.empty());
  EXPECT_TRUE(example.split_keys.empty());
  json undated = pubmedqa();
  undated["YEAR"] = nullptr;
  EXPECT_EQ(only("pubmedqa", {{"5", undated}}).questions.at(0).timestamp, "");
}

TEST_F(ReaderScienceTest, PubMedQaRefusesWhatItCannotUse) {
  json record = pubmedqa();
  record["final_decision"] = "perhaps";
  EXPECT_EQ(reason("pubmedqa", {{"5", record}}),
            "\"final_decision\" must be yes, no or maybe, got \"perhaps\"");
  record = pubmedqa();
  record["LABELS"] = {"AIM"};
  EXPECT_EQ(reason("pubmedqa", {{"5", record}}), "\"LABELS\" has 1 items, \"CONTEXTS\" has 2");
  record = pubmedqa();
  record["YEAR"] = "MMVII";
  EXPECT_EQ(reason("pubmedqa", {{"5", record}}), "\"YEAR\" must begin with a year, got \"MMVII\"");
  EXPECT_EQ(reason("pubmedqa", {{"", pubmedqa()}}), "the key of the record, its PMID, is empty");
}

TEST_F(ReaderScienceTest, IdsAreText) {
  const std::string record = pubmedqa().dump();
  read_content("pubmedqa",
               "{\"-9223372036854775808\": " + record + ", \"123456789012345678901234567890\": " +
                   record + ", \"\\u005a\\\"\": " + record + ", \"\\u005a\\\"\": " + record + "}");
  Texts ids;
  for (const DocumentExample& example : examples) ids.push_back(example.questions[0].id);
  EXPECT_EQ(ids, (Texts{"-9223372036854775808", "123456789012345678901234567890", "Z\"", "Z\""}));
}

TEST_F(ReaderScienceTest, SciTldr) {
  const json record = {{"source", {"First,  Zoë. ", "", " Then this."}},
                       {"source_labels", {0, 0, 1}},
                       {"paper_id", "B1"},
                       {"target", {" It is so.", "It is so.", "Thus."}},
                       {"title", "T"}};
  const DocumentExample& example = only("scitldr", record);
  EXPECT_EQ(example.document, "First,  Zoë. Then this.");
  EXPECT_EQ(example.title, "T");
  const Question& question = example.questions.at(0);
  EXPECT_EQ(question.id, "B1");
  EXPECT_EQ(example.split_keys, Texts{example.document});
  EXPECT_EQ(question.answers, (Texts{"It is so.", "Thus."}));
  EXPECT_EQ(texts(example, question.evidence), Texts{"Then this."});
  json wrong = record;
  wrong["source_labels"] = {0, 1};
  EXPECT_EQ(reason("scitldr", wrong), "\"source_labels\" has 2 items, \"source\" has 3");
  wrong = record;
  wrong["target"] = json::array();
  EXPECT_EQ(reason("scitldr", wrong), "\"target\" is empty");
}

json paragraph(const std::string& section, const std::string& text) {
  return {{"section", section}, {"text", text}, {"cite_spans", json::array()}};
}

const std::string kBody = "No heading.\n\nMethods\nWe did.\n\nWe saw.\n\nEnd\nZoë.";

json body() {
  return {paragraph("", "No heading."), paragraph("Methods", "We did."), paragraph("Methods", " "),
          paragraph("Methods", "We saw. "), paragraph("End", "Zoë.")};
}

TEST_F(ReaderScienceTest, S2orcGenerationsGiveTheSameDocument) {
  const json abstract = {paragraph("Abstract", "One."), paragraph("Abstract", "Two.")};
  const json parse = {{"abstract", abstract}, {"body_text", body()}};
  const auto with = [](json record, const json& more) {
    record.update(more);
    return record;
  };
  struct Form {
    json record;
    std::string id, title, year;
  };
  const std::vector<Form> forms = {
      {with(parse, {{"paper_id", "77"}, {"_pdf_hash", "x"}, {"bib_entries", json::object()}}), "77",
       "", ""},
      {{{"paper_id", "77"},
        {"metadata", {{"title", "T"}, {"abstract", "other"}, {"year", "2000"}}},
        {"grobid_parse", parse},
        {"latex_parse", nullptr}},
       "77",
       "T",
       "2000"},
      {{{"paper_id", "77"},
        {"metadata", {{"title", "T"}}},
        {"grobid_parse", nullptr},
        {"latex_parse", parse}},
       "77",
       "T",
       ""},
      {with(parse, {{"paper_id", "ab"},
                    {"metadata", {{"title", "T"}, {"year", "2011-11"}}},
                    {"back_matter", {paragraph("Thanks", "To all.")}}}),
       "ab", "T", "2011-11"},
      {{{"paper_id", "N18"},
        {"title", "T"},
        {"year", ""},
        {"abstract", "One. Two."},
        {"pdf_parse", parse}},
       "N18",
       "T",
       ""}};
  for (const Form& form : forms) {
    for (const int indent : {-1, 4}) {  // a line, and as doc2json writes it
      const DocumentExample& example = only("s2orc", form.record, indent);
      EXPECT_EQ(example.document, kBody);
      EXPECT_EQ(example.title, form.title);
      const Question& question = example.questions.at(0);
      EXPECT_EQ(question.id, form.id);
      EXPECT_EQ(question.answers, Texts{"One.\nTwo."});
      EXPECT_EQ(question.timestamp, form.year);
      EXPECT_EQ(example.split_keys, Texts{kBody});
      EXPECT_TRUE(question.evidence.empty());
    }
  }
}

TEST_F(ReaderScienceTest, S2orcWithoutAbstractInTheParse) {
  json record = {{"paper_id", 5},
                 {"metadata", {{"title", "T"}, {"abstract", "As listed."}, {"year", 2000}}},
                 {"grobid_parse", {{"abstract", json::array()}, {"body_text", body()}}}};
  EXPECT_EQ(only("s2orc", record).questions.at(0).answers, Texts{"As listed."});
  record["metadata"]["abstract"] = nullptr;
  EXPECT_EQ(reason("s2orc", record), "the paper has no abstract to ask for");
  record["grobid_parse"]["body_text"] = json::array();
  EXPECT_EQ(reason("s2orc", record), "the paper has no text");
}

TEST_F(ReaderScienceTest, S2orcRowsOfMetadataAskForTheTitle) {
  const json row = {{"paper_id", "9"},
                    {"title", "Of Zoë"},
                    {"abstract", "Aim::: We did.:::Then."},
                    {"year", 1893},
                    {"has_pdf_parse", false}};
  const DocumentExample& example = only("s2orc", row);
  EXPECT_EQ(example.document, "Aim\nWe did.\nThen.");
  EXPECT_EQ(example.title, "");  // it is the answer
  EXPECT_EQ(example.questions.at(0).answers, Texts{"Of Zoë"});
  EXPECT_EQ(example.questions.at(0).timestamp, "1893");
  json bare = row;
  bare["abstract"] = nullptr;
  EXPECT_EQ(reason("s2orc", bare),
            "neither a full text nor a row of metadata with \"title\" and \"abstract\"");
}

TEST_F(ReaderScienceTest, S2orcJoinsItsCompanion) {
  companion = write(
      R"({"paper_id": "77", "title": "Listed", "year": 1999, "abstract": "Row."})"
      "\n"
      R"({"paper_id": "78", "title": "T", "year": null, "abstract": "Gone.", "has_pdf_parsed_abstract": true})"
      "\n"
      R"({"corpusid": 79, "title": "T", "year": 2001, "publicationdate": "2001-02-03"})"
      "\n"
      R"({"corpusid": 79, "title": "U"})"
      "\n",
      "metadata.jsonl");
  const auto parse = [](const std::string& id, const json& abstract) {
    return json{{"paper_id", id}, {"abstract", abstract}, {"body_text", body()}}.dump() + "\n";
  };
  const json abstract = {paragraph("Abstract", "One.")};
  read_content("s2orc", parse("77", json::array()) + parse("78", abstract) + parse("79", abstract) +
                            parse("80", abstract) + parse("78", json::array()));
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[0].title, "Listed");
  EXPECT_EQ(examples[0].questions[0].answers, Texts{"Row."});
  EXPECT_EQ(examples[0].questions[0].timestamp, "1999");
  EXPECT_EQ(examples[1].questions[0].timestamp, "");
  EXPECT_EQ(examples[2].questions[0].timestamp, "2001-02-03");
  ASSERT_EQ(report.bad.size(), 3u);
  EXPECT_EQ(report.bad[0].reason, "the id 79 stands twice");
  EXPECT_NE(report.bad[0].where.find("metadata.jsonl:4"), std::string::npos);
  EXPECT_EQ(report.bad[1].reason, "paper 80 has no row in the companion");
  EXPECT_NE(report.bad[1].where.find("input:4"), std::string::npos);
  EXPECT_EQ(report.bad[2].reason, "the paper has no abstract to ask for");
}

// The form of the API: one text, annotations as JSON in strings, offsets in code points.
json content(const std::string& text, const json& annotations) {
  json strings = {{"table", nullptr}};
  for (const auto& [key, list] : annotations.items()) strings[key] = list.dump();
  return {{"corpusid", 254640939},
          {"externalids", {{"arxiv", nullptr}}},
          {"content", {{"source", nullptr}, {"text", text}, {"annotations", strings}}}};
}

json annotation(int64_t begin, int64_t end) { return {{"start", begin}, {"end", end}}; }

const std::string kContent = "\nZoë!\nAbstract\nÄhm. \n1 Start\n1.1 Way\nWe öffnen.\nGo on.";

json content_annotations() {
  json heading = annotation(29, 36);
  heading["attributes"] = {{"n", "1.1"}};
  return {{"title", {annotation(1, 5), annotation(6, 14)}},
          {"abstract", {annotation(15, 20)}},
          {"sectionheader", {annotation(6, 14), annotation(21, 28), heading}},
          {"paragraph", {annotation(48, 54), annotation(15, 20), annotation(37, 47)}}};
}

TEST_F(ReaderScienceTest, S2orcContentOfTheApi) {
  const DocumentExample& example = only("s2orc", content(kContent, content_annotations()));
  EXPECT_EQ(example.document, "1 Start\n1.1 Way\nWe öffnen.\n\nGo on.");
  EXPECT_EQ(example.title, "Zoë!");
  EXPECT_EQ(example.questions.at(0).id, "254640939");
  EXPECT_EQ(example.questions[0].answers, Texts{"Ähm."});
}

TEST_F(ReaderScienceTest, S2orcContentWithWrongAnnotations) {
  const auto reason_with = [this](const std::string& key, const std::string& list) {
    json record = content(kContent, content_annotations());
    record["content"]["annotations"][key] = list;
    return reason("s2orc", record);
  };
  EXPECT_EQ(reason_with("paragraph", "[{\"start\":48,\"end\":55}]"),
            "\"content.annotations.paragraph[0]\" is [48, 55), the context has 54 code points");
  EXPECT_EQ(reason_with("title", "[{\"start\":-1,\"end\":4}]"),
            "\"content.annotations.title[0]\" is [-1, 4), the context has 54 code points");
  for (const std::string& list :
       {std::string("["), std::string("{}"), std::string("[5]"), std::string("[{\"start\":1}]"),
        std::string("[{\"start\":\"x\",\"end\":\"3\"}]"),
        std::string("[{\"start\":1,\"end\":1e30}]"), std::string(100000, '[')}) {
    EXPECT_NE(reason_with("abstract", list).find("content.annotations.abstract"), std::string::npos)
        << list.substr(0, 40);
  }
  json record = content(kContent, content_annotations());
  record["content"]["annotations"]["abstract"] = "[{\"start\":\"15\",\"end\":\"20\"}]";
  EXPECT_EQ(only("s2orc", record).questions.at(0).answers, Texts{"Ähm."});
}

json qasper_answer(const json& more) {
  json answer = {{"unanswerable", false},     {"extractive_spans", json::array()},
                 {"yes_no", nullptr},         {"free_form_answer", ""},
                 {"evidence", json::array()}, {"highlighted_evidence", json::array()}};
  answer.update(more);
  return {{"answer", answer}, {"annotation_id", "x"}, {"worker_id", "y"}};
}

json qasper(const json& answers) {
  return {{"1909.00694",
           {{"title", "Zoë learns"},
            {"abstract", "We learn BERT."},
            {"full_text",
             {{{"section_name", "Intro"}, {"paragraphs", {"BERT, at first.", "", "Then ELMo."}}},
              {{"section_name", nullptr}, {"paragraphs", {"ELMo and BERT."}}},
              {{"section_name", "Intro ::: More"}, {"paragraphs", json::array()}}}},
            {"figures_and_tables", json::array()},
            {"qas",
             {{{"question", "Which model?"},
               {"question_id", "q1"},
               {"nlp_background", "two"},
               {"answers", answers}}}}}}};
}

TEST_F(ReaderScienceTest, QasperAnswersOfAllAnnotators) {
  const DocumentExample& example = only(
      "qasper",
      qasper({qasper_answer({{"extractive_spans", {"BERT"}},
                             {"evidence", {"ELMo and BERT.", "FLOAT SELECTED: Table 1"}}}),
              qasper_answer({{"extractive_spans", {"BERT", "ELMo"}}, {"evidence", {"Then ELMo."}}}),
              qasper_answer({{"free_form_answer", "ELMo"}, {"yes_no", true}}),
              qasper_answer({{"yes_no", false}}), qasper_answer({{"unanswerable", true}})}));
  EXPECT_EQ(example.document,
            "Abstract\nWe learn BERT.\n\nIntro\nBERT, at first.\n\nThen ELMo.\n\nELMo and BERT.");
  EXPECT_EQ(example.title, "Zoë learns");
  const Question& question = example.questions.at(0);
  EXPECT_EQ(question.id, "q1");
  EXPECT_EQ(question.answers, (Texts{"BERT", "BERT, ELMo", "ELMo", "No"}));
  EXPECT_EQ(texts(example, question.evidence), (Texts{"ELMo and BERT.", "Then ELMo."}));
  // In its own evidence, not where it stands first; free words have no place, joined spans neither.
  ASSERT_EQ(texts(example, question.answer_spans), Texts{"BERT"});
  EXPECT_EQ(question.answer_spans[0].end, static_cast<int64_t>(example.document.size()) - 1);
  EXPECT_EQ(report.unlocated, 3);
}

TEST_F(ReaderScienceTest, QasperUnanswerableAndEmptyAnswers) {
  EXPECT_TRUE(only("qasper", qasper(json::array({qasper_answer({{"unanswerable", true}})})))
                  .questions.at(0)
                  .answers.empty());
  EXPECT_EQ(report.unanswerable, 1);
  read_content("qasper", qasper(json::array({qasper_answer(json::object())})).dump());
  EXPECT_TRUE(examples.empty());
  EXPECT_NE(first_bad().find("input:1 (element 0) qas[0]: \"answers[0].answer\" holds no span"),
            std::string::npos)
      << first_bad();
}

TEST_F(ReaderScienceTest, SciFactAsksOfEachCitedAbstract) {
  write(R"({"doc_id": 4983, "title": "Of Zoë", "abstract": ["ALONE.", " We saw it. ", "It was."]})"
        "\n"
        R"({"doc_id": 7, "title": "", "abstract": ["Nothing."], "structured": false})"
        "\n",
        "corpus.jsonl");
  const json claim = {{"id", 1},
                      {"claim", "It is."},
                      {"cited_doc_ids", {4983, 7}},
                      {"evidence",
                       {{"4983",
                         {{{"label", "CONTRADICT"}, {"sentences", {1}}},
                          {{"label", "CONTRADICT"}, {"sentences", {2, 1}}}}}}}};
  read_content("scifact", claim.dump());
  ASSERT_EQ(examples.size(), 2u) << first_bad();
  EXPECT_EQ(examples[0].document, "Of Zoë\nALONE. We saw it. It was.");
  EXPECT_EQ(examples[0].title, "Of Zoë");
  const Question& question = examples[0].questions.at(0);
  EXPECT_EQ(question.id, "1#4983");
  EXPECT_EQ(question.text, "It is.");
  EXPECT_EQ(question.answers, Texts{"CONTRADICT"});
  EXPECT_EQ(texts(examples[0], question.evidence), (Texts{"We saw it.", "It was."}));
  EXPECT_EQ(examples[1].document, "Nothing.");
  EXPECT_EQ(examples[1].questions.at(0).answers, Texts{"NOT ENOUGH INFO"});
  EXPECT_TRUE(examples[1].questions[0].evidence.empty());
  // The corpus may stand elsewhere.
  companion = write(R"({"doc_id": 4983, "title": "Else", "abstract": ["a", "b", "c"]})", "c.jsonl");
  EXPECT_EQ(reason("scifact", claim), "document 7 is not in the corpus");
}

TEST_F(ReaderScienceTest, SciFactRefusesWhatContradictsItself) {
  write(R"({"doc_id": 1, "title": "T", "abstract": ["a", "b"]})", "corpus.jsonl");
  const auto claim = [](const std::string& evidence) {
    return json{
        {"id", 1}, {"claim", "c"}, {"cited_doc_ids", {1}}, {"evidence", json::parse(evidence)}};
  };
  EXPECT_EQ(reason("scifact", claim(R"({"1": [{"label": "SUPPORT", "sentences": [0]},
                                              {"label": "CONTRADICT", "sentences": [1]}]})")),
            "\"evidence.1\" is labelled SUPPORT and CONTRADICT");
  EXPECT_EQ(reason("scifact", claim(R"({"1": [{"label": "SUPPORT", "sentences": [2]}]})")),
            "\"evidence\" names sentence 2 of document 1, which has 2");
  EXPECT_EQ(reason("scifact", claim(R"({"2": [{"label": "SUPPORT", "sentences": [0]}]})")),
            "\"evidence\" names a document that is not in \"cited_doc_ids\"");
  EXPECT_EQ(reason("scifact", claim(R"({"1": [{"label": "MAYBE", "sentences": [0]}]})")),
            "\"evidence.1[0].label\" must be SUPPORT or CONTRADICT, got \"MAYBE\"");
  // Claims of the test set.
  EXPECT_EQ(reason("scifact", {{"id", 1}, {"claim", "c"}}), "key \"evidence\" is missing");
}

TEST_F(ReaderScienceTest, SciFactNeedsItsCorpus) {
  try {
    read_content("scifact", "{}");
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("corpus.jsonl"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace dsrsq
