// Every reader against input that is damaged or made to harm: each fault is a bad record with its
// place, and nothing else is lost.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::ReaderFixture;

enum class Layout { kLines, kList, kData, kMembers };

// A good record of a format, with what has to hold of it.
struct Case {
  std::string name;
  std::string format;
  Layout layout;
  json record;
  int64_t questions;                   // of the record
  std::vector<std::string> required;   // pointers: absent or of a wrong type, nothing is read
  std::vector<std::string> positions;  // pointers to integers that must lie inside something
  std::string id;                      // pointer, or empty where the format has none
  std::string corpus = {};             // content of corpus.jsonl beside the file
  // Of a stream, whose questions are of several records together: as many of any two or more.
  bool stream = false;
  std::string file = "input";  // its name, where the format goes by it

  int64_t questions_of(int64_t records) const {
    return stream ? (records > 1 ? questions : 0) : records * questions;
  }
};

void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }

std::string file_of(const Case& test, const std::vector<std::string>& records) {
  std::string text;
  for (size_t i = 0; i < records.size(); ++i) {
    if (!text.empty()) text += test.layout == Layout::kLines ? "\n" : ",\n";
    if (test.layout == Layout::kMembers) text += concat("\"", 1000 + i, "\": ");
    text += records[i];
  }
  if (test.layout == Layout::kLines) return text + "\n";
  if (test.layout == Layout::kMembers) return "{" + text + "}";
  if (test.layout == Layout::kList) return "[" + text + "]";
  return "{\"version\": \"1\", \"data\": [" + text + "]}";
}

const std::string kCorpus =
    R"({"doc_id": 9007199254740993, "title": "t", "abstract": ["a.", "b."]})"
    "\n"
    R"({"doc_id": 8, "title": "u", "abstract": ["c."]})"
    "\n";

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&all](const std::string& name, const std::string& format, Layout layout,
                          int64_t questions, const std::string& record,
                          std::vector<std::string> required, std::vector<std::string> positions,
                          const std::string& id) {
    all.push_back({name, format, layout, json::parse(record), questions, std::move(required),
                   std::move(positions), id});
    if (format == "scifact") all.back().corpus = kCorpus;
  };
  add("NqSimplified", "nq_simplified", Layout::kLines, 1,
      R"({"document_text": "a b c", "question_text": "q", "example_id": 5, "document_url": "u",
          "annotations": [{"long_answer": {"start_token": 0, "end_token": 3},
                           "short_answers": [{"start_token": 1, "end_token": 2}],
                           "yes_no_answer": "NONE"}]})",
      {"/document_text", "/question_text", "/example_id", "/annotations", "/annotations/0",
       "/annotations/0/long_answer", "/annotations/0/short_answers",
       "/annotations/0/short_answers/0", "/annotations/0/yes_no_answer",
       "/annotations/0/long_answer/start_token"},
      {"/annotations/0/long_answer/end_token", "/annotations/0/short_answers/0/start_token",
       "/annotations/0/short_answers/0/end_token"},
      "/example_id");
  add("NaturalQuestions", "natural_questions", Layout::kLines, 1,
      R"({"example_id": 5, "question_text": "q", "document_title": "t", "document_html": "<P>a b",
          "document_tokens": [{"token": "<P>", "start_byte": 0, "end_byte": 3, "html_token": true},
                              {"token": "a", "start_byte": 3, "end_byte": 4, "html_token": false},
                              {"token": "b", "start_byte": 5, "end_byte": 6, "html_token": false}],
          "annotations": [{"long_answer": {"start_byte": 0, "end_byte": 6,
                                           "start_token": 0, "end_token": 3},
                           "short_answers": [{"start_byte": 3, "end_byte": 4,
                                              "start_token": 1, "end_token": 2}],
                           "yes_no_answer": "NONE"}]})",
      {"/question_text", "/example_id", "/document_html", "/document_tokens", "/document_tokens/1",
       "/document_tokens/1/token", "/document_tokens/1/start_byte", "/annotations",
       "/annotations/0/long_answer", "/annotations/0/short_answers",
       "/annotations/0/short_answers/0", "/annotations/0/yes_no_answer"},
      {"/document_tokens/1/start_byte", "/document_tokens/2/end_byte",
       "/annotations/0/long_answer/start_byte", "/annotations/0/long_answer/end_token",
       "/annotations/0/short_answers/0/start_byte"},
      "/example_id");
  add("NqOpen", "nq_open", Layout::kLines, 1, R"({"question": "q", "answer": ["a", "b"]})",
      {"/question", "/answer", "/answer/0"}, {}, "");
  add("LostInTheMiddle", "lost_in_the_middle", Layout::kLines, 1,
      R"({"question": "q", "answers": ["a"],
          "ctxs": [{"title": "t", "text": "x", "isgold": false},
                   {"title": "u", "text": "a", "isgold": true}]})",
      {"/question", "/answers", "/answers/0", "/ctxs", "/ctxs/1", "/ctxs/1/title", "/ctxs/1/text",
       "/ctxs/1/isgold"},
      {}, "");
  add("Qed", "qed", Layout::kLines, 1,
      R"({"example_id": 5, "title_text": "t", "question_text": "q", "paragraph_text": "a b c",
          "original_nq_answers": [[{"start": 2, "end": 3, "string": "b"}]],
          "annotation": {"selected_sentence": {"start": 0, "end": 5, "string": "a b c"}}})",
      {"/example_id", "/title_text", "/question_text", "/paragraph_text", "/original_nq_answers",
       "/original_nq_answers/0/0/start", "/original_nq_answers/0/0/end",
       "/original_nq_answers/0/0/string", "/annotation/selected_sentence/end"},
      {"/original_nq_answers/0/0/start", "/original_nq_answers/0/0/end",
       "/annotation/selected_sentence/end"},
      "/example_id");
  add("Squad", "squad", Layout::kData, 1,
      R"({"title": "t", "paragraphs": [{"context": "a b c", "qas": [
            {"id": 5, "question": "q", "answers": [{"text": "b", "answer_start": 2}]}]}]})",
      {"/paragraphs", "/paragraphs/0", "/paragraphs/0/context", "/paragraphs/0/qas",
       "/paragraphs/0/qas/0", "/paragraphs/0/qas/0/id", "/paragraphs/0/qas/0/question",
       "/paragraphs/0/qas/0/answers", "/paragraphs/0/qas/0/answers/0",
       "/paragraphs/0/qas/0/answers/0/text", "/paragraphs/0/qas/0/answers/0/answer_start"},
      {"/paragraphs/0/qas/0/answers/0/answer_start"}, "/paragraphs/0/qas/0/id");
  add("TimeQa", "timeqa", Layout::kLines, 1,
      R"({"idx": "i", "question": "q", "context": "a b c", "targets": ["b"], "from": [2],
          "end": [3], "paragraphs": [{"title": "t", "text": "a b c"}]})",
      {"/idx", "/question", "/context", "/targets", "/targets/0", "/from", "/end", "/from/0",
       "/end/0"},
      {"/from/0", "/end/0"}, "/idx");
  add("TimeQaAnnotated", "timeqa", Layout::kList, 1,
      R"({"index": "i", "questions": [["q", [{"para": 1, "from": 0, "end": 1, "answer": "b"}]]],
          "paras": ["a", "b c"]})",
      {"/index", "/questions", "/questions/0", "/questions/0/0", "/questions/0/1",
       "/questions/0/1/0", "/questions/0/1/0/para", "/questions/0/1/0/from",
       "/questions/0/1/0/answer", "/paras/1"},
      {"/questions/0/1/0/para", "/questions/0/1/0/from", "/questions/0/1/0/end"}, "");
  add("HotpotQa", "hotpotqa", Layout::kList, 1,
      R"({"_id": "i", "question": "q", "answer": "b", "context": [["t", ["a.", " b."]]],
          "supporting_facts": [["t", 1]]})",
      {"/_id", "/question", "/answer", "/context/0", "/context/0/0", "/context/0/1",
       "/context/0/1/0", "/supporting_facts", "/supporting_facts/0", "/supporting_facts/0/1"},
      {"/supporting_facts/0/1"}, "/_id");
  add("HotpotQaAdversarial", "hotpotqa", Layout::kList, 1,
      R"({"_id": "i", "question": "q", "answer": "b", "title_a": "t", "para_a": ["b."],
          "title_b": "u", "para_b": ["x.", " y."], "supporting_facts": [[0], [1]],
          "distractors": [["v", ["z."], 1.5]]})",
      {"/_id", "/question", "/answer", "/title_a", "/para_a", "/para_b/1", "/supporting_facts",
       "/supporting_facts/1", "/distractors", "/distractors/0", "/distractors/0/1"},
      {"/supporting_facts/0/0", "/supporting_facts/1/0"}, "/_id");
  add("CnnDailymail", "cnn_dailymail", Layout::kLines, 1,
      R"({"article": "a b c", "highlights": "b\nc", "id": "i"})",
      {"/article", "/highlights", "/id"}, {}, "/id");
  add("PubmedQa", "pubmedqa", Layout::kMembers, 1,
      R"({"QUESTION": "q", "CONTEXTS": ["a b", "c"], "LABELS": ["A", "B"], "YEAR": "2001",
          "final_decision": "maybe", "LONG_ANSWER": "x"})",
      {"/QUESTION", "/CONTEXTS", "/CONTEXTS/1", "/LABELS", "/LABELS/0", "/final_decision"}, {}, "");
  add("SciTldr", "scitldr", Layout::kLines, 1,
      R"({"source": ["a b.", "c."], "source_labels": [0, 1], "paper_id": "i", "target": ["x", "y"],
          "title": "t"})",
      {"/source", "/source/1", "/source_labels", "/source_labels/0", "/paper_id", "/target",
       "/target/1"},
      {"/source_labels/1"}, "/paper_id");
  add("S2orc20200705", "s2orc", Layout::kLines, 1,
      R"({"paper_id": "i", "abstract": [{"text": "a", "section": "Abstract"}],
          "body_text": [{"text": "b c", "section": "S"}, {"text": "d", "section": null}]})",
      {"/paper_id", "/abstract", "/abstract/0", "/abstract/0/text", "/body_text", "/body_text/1",
       "/body_text/1/text"},
      {}, "/paper_id");
  add("S2orc20190928", "s2orc", Layout::kLines, 1,
      R"({"paper_id": "i", "metadata": {"title": "t", "abstract": "a", "year": "2000"},
          "grobid_parse": {"abstract": [], "body_text": [{"text": "b c", "section": null}]}})",
      {"/paper_id", "/metadata/abstract", "/grobid_parse", "/grobid_parse/body_text/0/text"}, {},
      "/paper_id");
  add("S2orcContent", "s2orc", Layout::kLines, 1,
      R"({"corpusid": 5, "content": {"text": "t a h b c", "annotations": {
          "title": "[{\"start\":0,\"end\":1}]", "abstract": "[{\"start\":2,\"end\":3}]",
          "sectionheader": null, "paragraph": "[{\"start\":6,\"end\":9}]"}}})",
      {"/corpusid", "/content", "/content/text", "/content/annotations",
       "/content/annotations/abstract", "/content/annotations/paragraph"},
      {}, "/corpusid");
  add("S2orcMetadata", "s2orc", Layout::kLines, 1,
      R"({"paper_id": "i", "title": "t", "abstract": "a b", "year": 2001})",
      {"/paper_id", "/title", "/abstract"}, {}, "/paper_id");
  add("Qasper", "qasper", Layout::kMembers, 1,
      R"({"title": "t", "abstract": "a b", "full_text": [{"section_name": "S", "paragraphs": ["c d"]}],
          "qas": [{"question": "q", "question_id": "i", "answers": [{"answer": {
              "unanswerable": false, "extractive_spans": ["c"], "yes_no": null,
              "free_form_answer": "", "evidence": ["c d"]}}]}]})",
      {"/title", "/abstract", "/full_text", "/full_text/0", "/full_text/0/paragraphs",
       "/full_text/0/paragraphs/0", "/qas", "/qas/0", "/qas/0/question", "/qas/0/question_id",
       "/qas/0/answers", "/qas/0/answers/0", "/qas/0/answers/0/answer",
       "/qas/0/answers/0/answer/unanswerable", "/qas/0/answers/0/answer/extractive_spans",
       "/qas/0/answers/0/answer/free_form_answer", "/qas/0/answers/0/answer/evidence"},
      {}, "");
  add("SciFact", "scifact", Layout::kLines, 2,
      R"({"id": 5, "claim": "q", "cited_doc_ids": [9007199254740993, 8],
          "evidence": {"9007199254740993": [{"label": "SUPPORT", "sentences": [1]}]}})",
      {"/id", "/claim", "/cited_doc_ids", "/cited_doc_ids/0", "/evidence",
       "/evidence/9007199254740993/0", "/evidence/9007199254740993/0/label",
       "/evidence/9007199254740993/0/sentences"},
      {"/evidence/9007199254740993/0/sentences/0", "/cited_doc_ids/1"}, "/id");
  add("GithubCode", "github_code", Layout::kLines, 2,
      R"({"repo_name": "r", "path": "a.py", "license": "mit", "size": 5,
          "code": "def f():\n    'Says a.'\n    1\n2\n3\n4\n5\n6\n7\n8\n9\nx\n"})",
      {"/repo_name", "/path", "/code"}, {}, "");
  add("TheStack", "github_code", Layout::kLines, 1,
      R"({"max_stars_repo_name": "r", "max_stars_repo_path": "a.cc", "hexsha": "0",
          "content": "1\n2\n3\n4\n5\n6\n7\n8\n9\n0\nx\n"})",
      {"/max_stars_repo_name", "/max_stars_repo_path", "/content"}, {}, "");
  add("CodeSearchNet", "codesearchnet", Layout::kLines, 1,
      R"({"repo": "r", "path": "a.py", "func_name": "f", "language": "python", "docstring": "Says.",
          "original_string": "def f():\n    'Says.'\n    pass", "url": "u"})",
      {"/repo", "/path", "/func_name", "/docstring", "/original_string"}, {}, "/url");
  // Without "package" it is a commit.
  add("Changelog", "dated_entries", Layout::kLines, 1,
      R"({"date": "2001-02-03T04:05:06+00:00", "package": "p", "version": "1", "text": "t"})",
      {"/date", "/version", "/text"}, {}, "");
  all.back().stream = true;
  add("Commits", "dated_entries", Layout::kLines, 1,
      R"({"date": "2001-02-03T04:05:06+00:00", "commit": "c", "subject": "s", "body": "b"})",
      {"/date", "/subject"}, {}, "/commit");
  all.back().stream = true;
  add("LongBench", "longbench", Layout::kLines, 1,
      R"({"input": "q", "context": "a b c", "answers": ["b"], "length": 3, "dataset": "qasper",
          "language": "en", "all_classes": null, "_id": "i"})",
      {"/input", "/context", "/answers", "/answers/0", "/dataset", "/_id"}, {}, "/_id");
  add("LongBench2", "longbench", Layout::kLines, 1,
      R"({"_id": "i", "question": "q", "choice_A": "w", "choice_B": "x", "choice_C": "y",
          "choice_D": "z", "answer": "C", "context": "a b c"})",
      {"/_id", "/question", "/choice_A", "/choice_D", "/answer", "/context"}, {}, "/_id");
  add("Ruler", "ruler", Layout::kLines, 1,
      R"({"index": 5, "input": "Read.\na b c.\nWhat is b?", "outputs": ["b"], "length": 8})",
      {"/index", "/input", "/outputs", "/outputs/0"}, {}, "/index");
  add("BabiLong", "babilong", Layout::kLines, 1,
      R"({"input": "a b c.", "question": "q", "target": "b"})", {"/input", "/question", "/target"},
      {}, "");
  add("Quality", "quality", Layout::kLines, 1,
      R"({"article_id": "1", "set_unique_id": "1_A", "title": "t", "article": "<p>a b</p>",
          "questions": [{"question": "q", "options": ["w", "x", "y", "z"], "gold_label": 2}]})",
      {"/set_unique_id", "/title", "/article", "/questions", "/questions/0",
       "/questions/0/question", "/questions/0/options", "/questions/0/options/1",
       "/questions/0/gold_label"},
      {"/questions/0/gold_label"}, "/set_unique_id");
  add("QualityFlat", "quality", Layout::kLines, 1,
      R"({"article_id": 1, "unique_id": "1_A", "title": "t", "article": ["<p>\n", "a b"],
          "question1": "q", "question1option1": "w", "question1option2": "x",
          "question1option3": "y", "question1option4": "z", "question1_gold_label": 4})",
      {"/unique_id", "/title", "/article", "/article/0", "/question1", "/question1option2",
       "/question1_gold_label"},
      {"/question1_gold_label"}, "/unique_id");
  add("KvRetrieval", "kv_retrieval", Layout::kLines, 1,
      R"({"ordered_kv_records": [["a", "1"], ["b", "2"]], "key": "b", "value": "2"})",
      {"/ordered_kv_records", "/ordered_kv_records/0", "/ordered_kv_records/0/0",
       "/ordered_kv_records/1/1", "/key", "/value"},
      {}, "");
  add("TydiQa", "tydiqa", Layout::kLines, 1,
      R"({"example_id": 5, "question_text": "q", "document_plaintext": "a b c",
          "document_title": "t", "language": "english",
          "passage_answer_candidates": [{"plaintext_start_byte": 0, "plaintext_end_byte": 5}],
          "annotations": [{"annotation_id": 18446744073709551615, "yes_no_answer": "NONE",
              "passage_answer": {"candidate_index": 0},
              "minimal_answer": {"plaintext_start_byte": 2, "plaintext_end_byte": 3}}]})",
      {"/example_id", "/question_text", "/document_plaintext", "/document_title",
       "/passage_answer_candidates", "/passage_answer_candidates/0", "/annotations",
       "/annotations/0", "/annotations/0/passage_answer", "/annotations/0/minimal_answer",
       "/annotations/0/yes_no_answer", "/annotations/0/minimal_answer/plaintext_end_byte"},
      {"/passage_answer_candidates/0/plaintext_start_byte",
       "/passage_answer_candidates/0/plaintext_end_byte",
       "/annotations/0/passage_answer/candidate_index",
       "/annotations/0/minimal_answer/plaintext_start_byte",
       "/annotations/0/minimal_answer/plaintext_end_byte"},
      "/example_id");
  add("Jsonl", "jsonl", Layout::kLines, 1,
      R"({"question": "q", "context": "a b c", "answers": ["b"], "evidence": [[0, 5]],
          "answer_spans": [[2, 3]], "id": "i", "timestamp": "2026-11-24"})",
      {"/question", "/answers", "/answers/0", "/evidence/0", "/answer_spans/0"},
      {"/evidence/0/1", "/answer_spans/0/0", "/answer_spans/0/1"}, "/id");
  add("Text", "text", Layout::kLines, 1, R"({"text": "a b c", "title": "t", "id": "i"})", {"/text"},
      {}, "/id");
  all.back().file = "input.jsonl";
  return all;
}

class ReadersHostileTest : public ::testing::TestWithParam<Case>, protected ReaderFixture {
 protected:
  std::string good() const { return GetParam().record.dump(); }
  ReadersHostileTest() {
    if (!GetParam().corpus.empty()) write(GetParam().corpus, "corpus.jsonl");
  }
  void read_bytes(const std::string& content) {
    read(GetParam().format, write(content, GetParam().file));
  }
  void read_records(const std::vector<std::string>& records) {
    read_bytes(file_of(GetParam(), records));
  }
  // The damaged record is one bad record with its place, and both neighbours are read.
  void expect_bad(const std::string& record, const std::string& what) {
    read_records({good(), record, good()});
    EXPECT_EQ(report.bad.size(), 1u) << what << ": " << first_bad();
    EXPECT_EQ(questions(), GetParam().questions_of(2)) << what;
    EXPECT_EQ(report.records, questions()) << what;
    EXPECT_NE(first_bad().find(GetParam().file + ":2"), std::string::npos)
        << what << ": " << first_bad();
    EXPECT_LT(first_bad().size(), 600u) << what;
  }
};

TEST_P(ReadersHostileTest, TheGoodRecordIsGood) {
  read_records({good(), good()});
  EXPECT_TRUE(report.bad.empty()) << first_bad();
  EXPECT_EQ(questions(), GetParam().questions_of(2));
  EXPECT_EQ(report.answer_spans, report.answer_spans_at_text);
}

TEST_P(ReadersHostileTest, MissingAndMistypedFields) {
  for (const std::string& name : GetParam().required) {
    const json::json_pointer pointer(name);
    const std::vector<json> wrongs = {
        nullptr, 1.5, json::array({json::object()}), {{"x", json::array()}}};
    for (const json& wrong : wrongs) {
      json record = GetParam().record;
      record[pointer] = wrong;
      expect_bad(record.dump(), concat(name, " = ", wrong.dump()));
    }
    if (!GetParam().record[pointer.parent_pointer()].is_object()) continue;
    json record = GetParam().record;
    record[pointer.parent_pointer()].erase(pointer.back());
    expect_bad(record.dump(), name + " erased");
  }
}

TEST_P(ReadersHostileTest, OffsetsOutOfRange) {
  for (const std::string& name : GetParam().positions) {
    for (const char* wrong : {"-7", "1000", "9223372036854775807", "-9223372036854775808",
                              "18446744073709551615", "1e300"}) {
      json record = GetParam().record;
      record[json::json_pointer(name)] = json::parse(wrong);
      expect_bad(record.dump(), concat(name, " = ", wrong));
    }
  }
}

// Whatever single value is put anywhere, the reader says yes or no and goes on.
TEST_P(ReadersHostileTest, AnyValueAnywhere) {
  const json flat = GetParam().record.flatten();
  const std::vector<json> values = {
      nullptr, true, -1, std::string(100000, 'x'), "", json::array(), 2.5, "\x01", json::object()};
  for (const auto& [pointer, old] : flat.items()) {
    for (const json& value : values) {
      json record = GetParam().record;
      record[json::json_pointer(pointer)] = value;
      read_records({good(), record.dump(), good()});
      EXPECT_LE(report.bad.size(), 1u) << pointer << " = " << value.type_name();
      EXPECT_GE(questions(), GetParam().questions_of(2)) << pointer << " = " << value.type_name();
      EXPECT_EQ(report.records, questions());
    }
  }
}

TEST_P(ReadersHostileTest, TruncatedAnywhere) {
  const std::string whole = file_of(GetParam(), {good(), good()});
  for (size_t size = 0; size < whole.size(); ++size) {
    read_bytes(whole.substr(0, size));
    EXPECT_LE(questions(), GetParam().questions_of(2)) << size;
    EXPECT_LE(report.bad.size(), 1u) << size;
    // An empty file holds no record; lines are whole after each of them.
    const bool whole_lines =
        GetParam().layout == Layout::kLines &&
        (size == good().size() || size == good().size() + 1 || size + 1 == whole.size());
    const bool nothing =
        size == 0 && (GetParam().layout == Layout::kLines || GetParam().layout == Layout::kList);
    EXPECT_EQ(report.bad.size(), whole_lines || nothing ? 0u : 1u) << size;
  }
}

TEST_P(ReadersHostileTest, NoByteMayBeAnything) {
  const std::string record = good();
  const size_t string_at = record.find(":\"") + 2;  // inside a string
  for (const char* bytes : {"\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf"}) {
    std::string damaged = record;
    damaged.insert(string_at, bytes);
    expect_bad(damaged, "bytes that are no UTF-8");
    EXPECT_NE(first_bad().find("invalid UTF-8"), std::string::npos) << first_bad();
  }
  for (size_t at = 0; at < record.size(); ++at) {
    std::string damaged = record;
    damaged[at] = '\xff';
    read_records({good(), damaged});
    EXPECT_GE(report.bad.size(), 1u) << at;
    EXPECT_LE(questions(), GetParam().questions_of(2)) << at;
  }
}

TEST_P(ReadersHostileTest, DeepAndManyValues) {
  const auto with_extra = [this](const std::string& value) {
    std::string record = good();
    return record.replace(0, 1, "{\"extra\": " + value + ", ");
  };
  expect_bad(with_extra(std::string(100000, '[') + std::string(100000, ']')), "deep");
  EXPECT_NE(first_bad().find("nested over 32"), std::string::npos) << first_bad();
  std::string many = "[0";
  for (int i = 0; i < 4'100'000; ++i) many += ",0";
  expect_bad(with_extra(many + "]"), "many");
  EXPECT_NE(first_bad().find("over 4000000 values"), std::string::npos) << first_bad();
}

TEST_P(ReadersHostileTest, RepeatedRecordsAndIdsAreKept) {
  json other = GetParam().record;
  if (!GetParam().id.empty()) {
    other[json::json_pointer(GetParam().id)] = GetParam().record[json::json_pointer(GetParam().id)];
  }
  read_records({good(), other.dump(), good()});
  EXPECT_EQ(questions(), GetParam().questions_of(3));
  EXPECT_TRUE(report.bad.empty()) << first_bad();
}

TEST_P(ReadersHostileTest, FilesThatAreSomethingElse) {
  for (const std::string& content :
       {std::string(), std::string("\0\0\0", 3), std::string("\x1f\x8b garbage"),
        std::string("\x28\xb5\x2f\xfd garbage"), std::string("null"), std::string("\"x\""),
        std::string("[[[["), std::string("{\"data\": 5}"), std::string("question,answer\na,b\n"),
        std::string(300000, '{')}) {
    try {
      read_bytes(content);
      EXPECT_EQ(questions(), 0);
      if (!content.empty()) {
        EXPECT_FALSE(report.bad.empty()) << content.substr(0, 20);
      }
    } catch (const DataError& error) {  // compressed data that cannot be read
      EXPECT_NE(std::string(error.what()).find("input"), std::string::npos) << error.what();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ReadersHostileTest, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// A reader without a case here would go untested; those of CSV are in tests of their own.
TEST(ReadersHostileTable, EveryFormatHasACase) {
  const std::set<std::string> of_csv = {"narrativeqa", "narrativeqa_stories"};
  for (const ReaderEntry& entry : reader_table()) {
    const std::vector<Case> all = cases();
    EXPECT_NE(std::any_of(all.begin(), all.end(),
                          [&](const Case& test) { return test.format == entry.name; }),
              of_csv.count(entry.name) == 1)
        << entry.name;
  }
}

}  // namespace
}  // namespace dsrsq
