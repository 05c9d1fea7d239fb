// dsrsq-data and dsrsq-eval as a user meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Program;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

ProgramResult data(const std::vector<std::string>& arguments) {
  std::vector<std::string> all{"dsrsq-data"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_program(all, project().folder() + "/output-data");
}

std::string jsonl() {
  std::string lines;
  for (int i = 0; i < 200; ++i)
    lines += R"({"question": "who is )" + std::to_string(i) +
             R"(", "context": "the answer is anna )" + std::to_string(i * 7919) +
             R"(", "answers": ["anna"]})" + "\n";
  return lines;
}

std::vector<std::string> prepare(const std::string& input, const std::string& output) {
  return {"prepare",  input, "--format", "jsonl", "--tokenizer", project().tokenizer(),
          "--output", output};
}

// A real gzip file, by the tool that everybody has; the test needs nothing of ours to make it.
std::string gzip(const std::string& name, const std::string& content) {
  auto path = project().folder() + "/" + name;
  write_bytes(path, content);
  if (std::system(("gzip -f -k '" + path + "'").c_str()) != 0)
    throw std::runtime_error("gzip failed");
  return path + ".gz";
}

TEST(Prepare, ReadsGzipAndTheDataSetValidates) {
  auto input = gzip("whole.jsonl", jsonl());
  auto output = project().folder() + "/whole.h5";
  auto made = data(prepare(input, output));
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("records           200"));
  EXPECT_EQ(data({"validate", output, "--tokenizer", project().tokenizer()}).code, 0);
}

TEST(Prepare, ATruncatedGzipFileIsADataErrorAndLeavesNothingBehind) {
  auto input = gzip("cut.jsonl", jsonl());
  auto bytes = read_bytes(input);
  write_bytes(input, bytes.substr(0, bytes.size() / 2));
  auto output = project().folder() + "/cut.h5";
  auto result = data(prepare(input, output));
  EXPECT_EQ(result.code, 3) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("cut.jsonl.gz"), HasSubstr("truncated")));
  for (const auto& entry : fs::directory_iterator(project().folder()))
    EXPECT_EQ(entry.path().filename().string().find("cut.h5"), std::string::npos) << entry.path();
}

TEST(Prepare, UsageErrorsHaveTheirCode) {
  EXPECT_EQ(data({}).code, 2);
  EXPECT_EQ(data({"prepare", "x.jsonl"}).code, 2);
  auto unknown = data({"prepare", project().config(), "--format", "squat", "--tokenizer",
                       project().tokenizer(), "--output", project().folder() + "/x.h5"});
  EXPECT_EQ(unknown.code, 2);
  ASSERT_EQ(unknown.errors().size(), 1u) << unknown.err;
  EXPECT_THAT(unknown.errors()[0],
              AllOf(HasSubstr("\"squat\""), HasSubstr("jsonl"), HasSubstr("did you mean squad")));
}

TEST(Prepare, ListsWhatIsLeftOutAndCountsWhatIsKept) {
  auto input = project().folder() + "/papers.json";
  write_bytes(input,
              R"({"data": [{"paragraphs": [{"context": "anna met otto, then anna left", "qas": [
      {"id": 1, "question": "who left", "answers": [{"text": "anna", "answer_start": 19}]},
      {"id": 1, "question": "who met", "answers": [{"text": "maria", "answer_start": 0}]},
      {"id": 2, "question": "when", "answers": [], "is_impossible": true},
      {"id": 3, "question": "where", "answers": [{"text": "anna", "answer_start": 300}]}]}]}]})");
  auto output = project().folder() + "/papers.h5";
  std::vector<std::string> command = {"prepare",  input,         "--format",
                                      "squad",    "--tokenizer", project().tokenizer(),
                                      "--output", output};
  auto strict = dsrsq::data(command);
  EXPECT_EQ(strict.code, 3) << strict.err;
  command.insert(command.end(), {"--maximum-bad", "1"});
  auto made = dsrsq::data(command);
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out,
              AllOf(HasSubstr("records           3\n"), HasSubstr("unanswerable      1\n"),
                    HasSubstr("bad records       1\n"), HasSubstr("repeated ids      1\n"),
                    HasSubstr("relocated answers 1\n"), HasSubstr("unlocated answers 1\n"),
                    HasSubstr("answer spans      1, 1 at their text (100 %)")));
  ASSERT_EQ(made.warnings().size(), 2u) << made.err;
  EXPECT_THAT(made.warnings()[0], AllOf(HasSubstr("papers.json:1 (data[0].paragraphs[0].qas[3])"),
                                        HasSubstr("is 300, the context has 29 code points")));
  EXPECT_THAT(made.warnings()[1], HasSubstr("1 records repeat the id of another"));
  auto valid = data({"validate", output, "--tokenizer", project().tokenizer()});
  EXPECT_EQ(valid.code, 0) << valid.err;
  EXPECT_THAT(valid.out, HasSubstr("answer spans      1, 1 at their text (100 %)"));
}

TEST(Prepare, AFolderOfSourceFilesIsAnInput) {
  auto folder = project().folder() + "/checkout";
  fs::create_directories(folder + "/.git");
  for (const char* name : {"/a.py", "/b.py", "/.git/c.py"})
    write_bytes(folder + name, "def anna():\n    'Says otto.'\n    return 1\n");
  auto output = project().folder() + "/checkout.h5";
  std::vector<std::string> command = {"prepare",     folder,
                                      "--format",    "github_code",
                                      "--tokenizer", project().tokenizer(),
                                      "--output",    output,
                                      "--questions", "docstring,definition"};
  auto made = dsrsq::data(command);
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("records           2\n"));
  EXPECT_EQ(data({"validate", output, "--tokenizer", project().tokenizer()}).code, 0);
  command.back() = "docstrings";
  auto unknown = dsrsq::data(command);
  EXPECT_EQ(unknown.code, 2);
  ASSERT_EQ(unknown.errors().size(), 1u) << unknown.err;
  EXPECT_THAT(unknown.errors()[0],
              AllOf(HasSubstr("\"docstrings\""), HasSubstr("next_line, docstring, definition")));
  command[3] = "squad";
  EXPECT_EQ(dsrsq::data(command).code, 2) << "a format without kinds";
  command.resize(8);
  auto not_code = dsrsq::data(command);
  EXPECT_EQ(not_code.code, 3);
  ASSERT_EQ(not_code.errors().size(), 1u) << not_code.err;
  EXPECT_THAT(not_code.errors()[0], HasSubstr("checkout: is a folder"));
}

// 30 questions over a passage each.
std::string passages() {
  nlohmann::json record;
  std::string lines;
  for (int i = 0; i < 30; ++i) {
    auto name = "name" + std::to_string(i);
    record = {{"question", "who is " + std::to_string(i)},
              {"answers", {name}},
              {"ctxs", nlohmann::json::array({{{"title", "Title " + std::to_string(i)},
                                               {"text", "it is " + name + " of course"},
                                               {"isgold", true}}})}};
    lines += record.dump() + "\n";
  }
  return lines;
}

std::vector<std::string> assemble(const std::string& output,
                                  const std::vector<std::string>& options) {
  auto input = project().folder() + "/passages.jsonl";
  write_bytes(input, passages());
  std::vector<std::string> command = {
      "prepare",  input, "--format", "lost_in_the_middle", "--tokenizer", project().tokenizer(),
      "--output", output};
  command.insert(command.end(), options.begin(), options.end());
  return command;
}

TEST(Prepare, AssemblesContextsOfOneSplitDeterministically) {
  auto first = project().folder() + "/first.h5", again = project().folder() + "/again.h5";
  const std::vector<std::string> options = {"--documents", "4",       "--gold", "middle",
                                            "--split",     "a=1,b=1", "--seed", "5"};
  auto made = data(assemble(first, options));
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, AllOf(HasSubstr("documents         30\n"),
                              HasSubstr("answer spans      30, 30 at their text (100 %)")));
  EXPECT_EQ(data({"validate", first, "--tokenizer", project().tokenizer()}).code, 0);
  // Nothing of the first pass is left.
  for (const auto& entry : fs::directory_iterator(project().folder()))
    EXPECT_EQ(entry.path().filename().string().find("passages-"), std::string::npos);
  ASSERT_EQ(data(assemble(again, options)).code, 0);
  auto show = [](const std::string& store) {
    return data({"inspect", store, "--records", "30", "--tokenizer", project().tokenizer()}).out;
  };
  auto records = show(first);
  EXPECT_EQ(records.substr(records.find("\nrecord 0")),
            show(again).substr(show(again).find("\nrecord 0")));
}

TEST(Prepare, ContextsThatCannotBeAssembledAreErrors) {
  auto output = project().folder() + "/none.h5";
  auto few = data(assemble(output, {"--documents", "31"}));
  EXPECT_EQ(few.code, 3);
  ASSERT_EQ(few.errors().size(), 1u) << few.err;
  EXPECT_THAT(few.errors()[0], HasSubstr("needs 30 other passages"));
  EXPECT_EQ(data(assemble(output, {"--documents", "3", "--gold", "3"})).code, 2);
  EXPECT_EQ(data(assemble(output, {"--documents", "0"})).code, 2);
  EXPECT_EQ(data(assemble(output, {"--gold", "first"})).code, 2);
  EXPECT_FALSE(fs::exists(output));
}

TEST(Prepare, OneFormatForEachInput) {
  auto open = project().folder() + "/open.jsonl", lines = project().folder() + "/lines.jsonl";
  write_bytes(open, R"({"question": "who is 3?", "answer": ["anna"]})");
  write_bytes(lines, jsonl());
  auto output = project().folder() + "/both.h5";
  auto with = [&](const std::string& formats) {
    return data({"prepare", open, lines, "--format", formats, "--tokenizer", project().tokenizer(),
                 "--output", output, "--split", "a=1,b=1"});
  };
  auto made = with("nq_open,jsonl");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("records           201"));
  EXPECT_EQ(data({"validate", output, "--tokenizer", project().tokenizer()}).code, 0);
  auto wrong = with("nq_open,jsonl,jsonl");
  EXPECT_EQ(wrong.code, 2);
  ASSERT_EQ(wrong.errors().size(), 1u) << wrong.err;
  EXPECT_THAT(wrong.errors()[0], HasSubstr("3 formats for 2 inputs"));
}

// News with days of publication, from stories of a folder to splits by time.
TEST(Prepare, AFolderOfStoriesWithItsCompanion) {
  auto folder = project().folder() + "/stories", days = project().folder() + "/days.tsv";
  auto output = project().folder() + "/news.h5";
  fs::create_directories(folder);
  std::string table = "id\tpublished\n";
  for (int i = 0; i < 10; ++i) {
    auto id = "story" + std::to_string(i);
    write_bytes(folder + "/" + id + ".story", "it was anna " + id + "\n\n@highlight\n\nanna\n");
    table += id + "\t2015-03-0" + std::to_string(1 + i / 2) + "\n";
  }
  write_bytes(days, table);
  auto with = [&](const std::vector<std::string>& more, const std::string& format) {
    std::vector<std::string> command{"prepare",     folder + "/",          "--format", format,
                                     "--tokenizer", project().tokenizer(), "--output", output};
    command.insert(command.end(), more.begin(), more.end());
    return data(std::move(command));
  };
  auto made = with({"--companion", days, "--split", "train=0.8,test=0.2", "--split-by", "time"},
                   "cnn_dailymail");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, AllOf(HasSubstr("split             train: 16 records"),
                              HasSubstr("split             test: 4 records"),
                              HasSubstr("answer spans      10, 10 at their text (100 %)")));
  EXPECT_EQ(data({"validate", output, "--tokenizer", project().tokenizer()}).code, 0);
  write_bytes(folder + "/later.story", "text\n\n@highlight\n\nanna\n");
  auto without_day = with({"--companion", days}, "cnn_dailymail");
  EXPECT_EQ(without_day.code, 3);
  ASSERT_EQ(without_day.errors().size(), 1u) << without_day.err;
  EXPECT_THAT(without_day.errors()[0],
              AllOf(HasSubstr("later.story:1"), HasSubstr("no publication day")));
  for (const auto& [more, reason] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--companion", days, "--companion", days}, "2 times for 1 inputs"},
           {{"--split-by", "time"}, "give both or neither"},
           {{"--split", "a=1,b=1", "--split-by", "time", "--documents", "3"},
            "does not go with"}}) {
    auto wrong = with(more, "cnn_dailymail");
    EXPECT_EQ(wrong.code, 2);
    ASSERT_EQ(wrong.errors().size(), 1u) << wrong.err;
    EXPECT_THAT(wrong.errors()[0], HasSubstr(reason));
  }
  EXPECT_EQ(with({"--companion", days}, "squad").code, 2);
  auto undated = with({"--split", "a=1,b=1", "--split-by", "time"}, "cnn_dailymail");
  EXPECT_EQ(undated.code, 3);
  EXPECT_THAT(undated.errors().at(0), HasSubstr("has no timestamp"));
  auto folder_of_others = with({}, "squad");
  EXPECT_EQ(folder_of_others.code, 3);
  EXPECT_EQ(folder_of_others.errors().size(), 1u) << folder_of_others.err;
}

TEST(Validate, AnotherTokenizerIsADataError) {
  auto folder = project().folder() + "/words";
  ASSERT_EQ(data({"synth", "--output", folder, "--name", "needle", "--set", "task=needle", "--set",
                  "facts=1", "--set", "question_pairs=0", "--set", "context_tokens=32", "--set",
                  "train_documents=2"})
                .code,
            0);
  auto result = data({"validate", project().store(), "--tokenizer", folder + "/tokenizer.json"});
  EXPECT_EQ(result.code, 3);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], HasSubstr("another tokenizer"));
}

TEST(Validate, AnswerSpansBesideTheirTextAreADataError) {
  auto input = project().folder() + "/one.json", output = project().folder() + "/one.h5";
  write_bytes(input, R"({"data": [{"paragraphs": [{"context": "it was anna", "qas": [
      {"id": 1, "question": "who", "answers": [{"text": "anna", "answer_start": 7}]}]}]}]})");
  ASSERT_EQ(data({"prepare", input, "--format", "squad", "--tokenizer", project().tokenizer(),
                  "--output", output})
                .code,
            0);
  auto validate = [&] { return data({"validate", output, "--tokenizer", project().tokenizer()}); };
  EXPECT_EQ(validate().code, 0);
  // The document is tokens: the text stands in the file once, as the answer.
  auto bytes = read_bytes(output);
  auto at = bytes.find("anna");
  ASSERT_NE(at, std::string::npos);
  write_bytes(output, bytes.replace(at, 4, "otto"));
  auto sum = "cd '" + project().folder() + "' && sha256sum one.h5 > one.h5.sha256";
  ASSERT_EQ(std::system(sum.c_str()), 0);
  auto result = validate();
  EXPECT_EQ(result.code, 3);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("1 of 1 answer spans are not at their text"),
                                        HasSubstr("record 0 (id 1)"), HasSubstr("anna")));
  EXPECT_EQ(data({"validate", output}).code, 0);  // without a tokenizer nothing can be compared
}

class Evaluation : public ::testing::Test {
 protected:
  static std::string run() {
    static const std::string folder = [] {
      auto trained =
          run_program(project().train("evaluated"), project().folder() + "/output-evaluated");
      if (trained.code != 0) throw std::runtime_error("training failed: " + trained.err);
      return project().run_folder("evaluated");
    }();
    return folder;
  }
  static ProgramResult eval(const std::vector<std::string>& more) {
    std::vector<std::string> all{"dsrsq-eval", "--checkpoint", "full=" + run()};
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all, project().folder() + "/output-eval");
  }
};

TEST_F(Evaluation, FillsEveryRowAndTheTable) {
  auto folder = project().folder() + "/report";
  auto result = eval({"--methods", "random,question_only,oracle_evidence,bm25", "--probes",
                      "dense_read,random_routing,latents_masked", "--output-dir", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  auto results = nlohmann::json::parse(read_bytes(folder + "/results.json"));
  for (const char* key : {"commit", "command", "date", "device", "versions", "seeds"})
    EXPECT_TRUE(results.at("provenance").contains(key)) << key;
  std::map<std::string, std::set<std::string>> metrics;
  for (const auto& record : results.at("records"))
    metrics[record.at("method")].insert(record.at("metric").get<std::string>());
  auto table = read_bytes(folder + "/table.md");
  for (const std::string row : {"full", "random", "question_only", "oracle_evidence", "bm25",
                                "full:dense_read", "full:random_routing", "full:latents_masked"}) {
    EXPECT_THAT(table, HasSubstr("| " + row));
    for (const std::string metric :
         {"em", "f1", "tokens_read", "bytes_held", "throughput", "latency_p50", "latency_p95",
          "flops", "peak_memory", "token_efficiency"})
      EXPECT_TRUE(metrics[row].count(metric)) << row << " " << metric;
  }
  EXPECT_THAT(result.out, HasSubstr("| full"));
}

TEST_F(Evaluation, ARowABudgetAndRowsThatAreThereAreNotReadAgain) {
  auto folder = project().folder() + "/budgets";
  std::vector<std::string> command{"--methods", "snapkv,random", "--budget",
                                   "25%,50%",   "--output-dir",  folder};
  auto result = eval(command);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, ::testing::Not(HasSubstr("taken from")));
  std::map<std::string, std::map<std::string, double>> values, shares;
  auto first = nlohmann::json::parse(read_bytes(folder + "/results.json"));
  for (const auto& record : first.at("records")) {
    values[record.at("method")][record.at("metric")] = record.at("value");
    shares[record.at("method")][record.at("metric")] = record.at("shape").value("budget_share", 0.);
  }
  for (const std::string row : {"full@25%", "full@50%", "snapkv@25%", "snapkv@50%", "random@25%"})
    for (const std::string metric : {"f1", "bytes_held", "prefill_bytes", "budget_bytes"}) {
      ASSERT_TRUE(values[row].count(metric)) << row << " " << metric;
      EXPECT_EQ(shares[row][metric], row.find("25%") != std::string::npos ? 0.25 : 0.5) << row;
    }
  EXPECT_LT(values["snapkv@25%"]["bytes_held"], values["snapkv@50%"]["bytes_held"]);
  EXPECT_LT(values["snapkv@50%"]["bytes_held"], values["snapkv@50%"]["prefill_bytes"]);
  EXPECT_EQ(values["snapkv@50%"]["budget_bytes"], 2 * values["snapkv@25%"]["budget_bytes"]);

  // Again, with a method more: what is there is taken, number by number.
  command[1] = "snapkv,random,streaming_llm";
  auto again = eval(command);
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("row snapkv@25%: taken from"));
  EXPECT_THAT(again.err, ::testing::Not(HasSubstr("row streaming_llm@25%: taken from")));
  auto second = nlohmann::json::parse(read_bytes(folder + "/results.json"));
  EXPECT_GT(second.at("records").size(), first.at("records").size());
  for (size_t i = 0; i < first.at("records").size(); ++i)
    EXPECT_EQ(second.at("records")[i], first.at("records")[i]) << i;
  command.insert(command.end(), {"--resume", "never"});
  EXPECT_THAT(eval(command).err, ::testing::Not(HasSubstr("taken from")));
}

// Answers by two processes side by side, then costs by one, then the table without a model: the
// same answers as all at once.
TEST_F(Evaluation, AnswersAndCostsAtDifferentTimesMakeTheSameRows) {
  auto folder = project().folder() + "/parts", whole = project().folder() + "/whole";
  const std::vector<std::string> methods{"--methods", "snapkv,quest,random,question_only",
                                         "--budget", "25%,50%"};
  auto part = [&](const std::string& what) {
    auto command = methods;
    command.insert(command.end(), {"--output-dir", folder, "--measure", what});
    return command;
  };
  std::vector<std::string> all{"dsrsq-eval", "--checkpoint", "full=" + run()};
  auto answers = part("answers");
  all.insert(all.end(), answers.begin(), answers.end());
  {
    Program one(all, project().folder() + "/output-one"),
        other(all, project().folder() + "/output-other");
    auto first = one.wait(), second = other.wait();
    ASSERT_EQ(first.code, 0) << first.err;
    ASSERT_EQ(second.code, 0) << second.err;
  }
  // What the two skipped because the other was at it is there by now, or is done here.
  ASSERT_EQ(eval(answers).code, 0);
  EXPECT_FALSE(fs::exists(folder + "/results.json"));
  EXPECT_EQ(eval(part("costs")).code, 0);
  auto collected = run_program({"dsrsq-eval", "--collect", folder + "/rows", "--baseline",
                                "full@25%", "--output-dir", folder},
                               project().folder() + "/output-collect");
  ASSERT_EQ(collected.code, 0) << collected.err;
  auto together = methods;
  together.insert(together.end(), {"--output-dir", whole, "--baseline", "full@25%"});
  ASSERT_EQ(eval(together).code, 0);
  auto values = [](const std::string& of) {
    std::map<std::string, double> found;
    auto results = nlohmann::json::parse(read_bytes(of + "/results.json"));
    for (const auto& record : results.at("records"))
      found[record.at("method").get<std::string>() + " " + record.at("metric").get<std::string>()] =
          record.at("value");
    return found;
  };
  auto apart = values(folder), at_once = values(whole);
  ASSERT_EQ(apart.size(), at_once.size());
  for (const auto& [name, value] : at_once) {
    ASSERT_TRUE(apart.count(name)) << name;
    bool timed = name.find("latency") != std::string::npos ||
                 name.find("throughput") != std::string::npos ||
                 name.find("peak_memory") != std::string::npos;
    if (!timed) {
      EXPECT_NEAR(apart[name], value, 1e-9 * std::abs(value)) << name;
    }
  }
  auto table = read_bytes(folder + "/table.md");
  EXPECT_LT(table.find("| full@25%"), table.find("| random@25%"));
  EXPECT_LT(table.find("| snapkv@25%"), table.find("| snapkv@50%"));
  auto none = run_program({"dsrsq-eval", "--collect", folder + "/nothing"},
                          project().folder() + "/output-collect");
  EXPECT_EQ(none.code, 3) << none.err;
  EXPECT_EQ(none.errors().size(), 1u) << none.err;
}

TEST_F(Evaluation, AuditsMethods) {
  auto result = eval({"--audit", "snapkv,full"});
  EXPECT_EQ(result.code, 2);  // not a method
  result = eval({"--audit", "snapkv,dsrsq"});
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("audit of snapkv: passed"));
  EXPECT_THAT(result.out, HasSubstr("passed  budget 12%"));
  EXPECT_THAT(result.out, HasSubstr("audit of dsrsq: passed"));
}

TEST_F(Evaluation, UnknownNamesAreUsageErrors) {
  auto method = eval({"--methods", "oracle_evidense"});
  EXPECT_EQ(method.code, 2);
  ASSERT_EQ(method.errors().size(), 1u) << method.err;
  EXPECT_THAT(method.errors()[0],
              AllOf(HasSubstr("oracle_evidense"), HasSubstr("'oracle_evidence'")));
  EXPECT_EQ(eval({"--probes", "dense"}).code, 2);
  EXPECT_EQ(eval({"--budget", "many"}).code, 2);
  auto twice = eval({"--methods", "snapkv", "--budget", "5%,5%"});
  EXPECT_EQ(twice.code, 2);
  ASSERT_EQ(twice.errors().size(), 1u) << twice.err;
  EXPECT_THAT(twice.errors()[0], HasSubstr("--budget"));
}

TEST_F(Evaluation, AFolderThatIsNoRunIsACheckpointError) {
  auto result = run_program({"dsrsq-eval", "--checkpoint", project().folder() + "/data"},
                            project().folder() + "/output-eval");
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_EQ(result.errors().size(), 1u) << result.err;
}

// Records as text, and a data set made of that text.
TEST(DataCli, PrepareWritesJsonl) {
  const auto input = project().folder() + "/of-any-format.jsonl.in";
  const auto text = project().folder() + "/text.jsonl";
  write_bytes(input, jsonl());
  ASSERT_EQ(data({"prepare", input, "--format", "jsonl", "--output", text}).code, 0);
  const auto lines = read_bytes(text);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 200);
  const auto first = nlohmann::json::parse(lines.substr(0, lines.find('\n')));
  EXPECT_EQ(first.at("answers"), nlohmann::json({"anna"}));
  EXPECT_EQ(first.at("answer_spans"), nlohmann::json::parse("[[14, 18]]"));
  const auto direct = project().folder() + "/direct.h5", again = project().folder() + "/again.h5";
  ASSERT_EQ(data(prepare(input, direct)).code, 0);
  ASSERT_EQ(data(prepare(text, again)).code, 0);
  const auto show = [&](const std::string& store) {
    const auto shown =
        data({"inspect", store, "--records", "200", "--tokenizer", project().tokenizer()}).out;
    return shown.substr(shown.find("who is 0"));
  };
  EXPECT_EQ(show(direct), show(again));

  const auto with = data({"prepare", input, "--format", "jsonl", "--tokenizer",
                          project().tokenizer(), "--output", text});
  EXPECT_EQ(with.code, 2);
  EXPECT_THAT(with.errors()[0], HasSubstr("--tokenizer"));
  const auto without = data({"prepare", input, "--format", "jsonl", "--output", direct});
  EXPECT_EQ(without.code, 2);
  EXPECT_THAT(without.errors()[0], HasSubstr("--tokenizer"));
}

}  // namespace
}  // namespace dsrsq
