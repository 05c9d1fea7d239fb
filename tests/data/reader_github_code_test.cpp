// Questions that code answers: github_code of lines and folders, codesearchnet.
#include <gtest/gtest.h>

#include <set>

#include "dsrsq/data/splits.h"
#include "reader_fixture.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

class ReaderGithubCodeTest : public ::testing::Test, protected ReaderFixture {
 protected:
  // The questions whose id holds `kind`, with their documents.
  std::vector<std::pair<const DocumentExample*, const Question*>> of_kind(const std::string& kind) {
    std::vector<std::pair<const DocumentExample*, const Question*>> found;
    for (const DocumentExample& example : examples) {
      for (const Question& question : example.questions) {
        if (question.id.find("#" + kind) != std::string::npos)
          found.push_back({&example, &question});
      }
    }
    return found;
  }
};

std::string numbered_lines(int count) {
  std::string code;
  for (int i = 0; i < count; ++i) code += concat("  line(", i, ");  \r\n\n");
  return code;
}

json file(const std::string& path, const std::string& code, const std::string& repository = "r/r") {
  return {{"repo_name", repository}, {"path", path}, {"language", "X"}, {"code", code}};
}

TEST_F(ReaderGithubCodeTest, NextLineIsTheOneBehindTheDocument) {
  std::string lines;
  std::set<std::string> answers;
  const std::string code = numbered_lines(30);
  for (int i = 0; i < 40; ++i) lines += file(concat("f", i, ".cc"), code).dump() + "\n";
  read_content("github_code", lines);
  const auto found = of_kind("next_line");
  ASSERT_EQ(found.size(), 40u) << first_bad();
  for (const auto& [example, question] : found) {
    const std::string& answer = question->answers.at(0);
    EXPECT_EQ(code.substr(0, example->document.size()), example->document);
    EXPECT_EQ(code.substr(example->document.size(), answer.size() + 4), answer + "  \r\n");
    EXPECT_EQ(example->document.find(answer), std::string::npos);
    EXPECT_GE(std::count(example->document.begin(), example->document.end(), '\n'), 10);
    answers.insert(answer);
  }
  EXPECT_GT(answers.size(), 10u) << "the line depends on the path";
  EXPECT_EQ(found[7].second->text, "What is the next line of f7.cc?");
  const auto again = answers;
  read_content("github_code", lines);
  for (const auto& [example, question] : of_kind("next_line"))
    EXPECT_EQ(again.count(question->answers[0]), 1u);
  read_content("github_code", file("short.cc", numbered_lines(5)).dump());
  EXPECT_EQ(questions(), 0);
}

TEST_F(ReaderGithubCodeTest, DocstringsAreTakenOutOfTheDocument) {
  const std::string code =
      "def one():\n    \"\"\"Says one.\n    More.\"\"\"\n    return 1\n\n\nclass A:\n"
      "    def two(self):\n        'Repeats.'\n\n    def three(self):\n        '''Ärger.'''\n"
      "        return 3  # Repeats.\n\n    def same(self):\n        'First of two.'\n"
      "def same():\n    'Second of two.'\n";
  read_content("github_code", file("a.py", code).dump());
  ASSERT_EQ(examples.size(), 2u) << first_bad();
  const DocumentExample& example = examples[1];
  EXPECT_EQ(example.document,
            "def one():\n    return 1\n\n\nclass A:\n    def two(self):\n\n    def three(self):\n"
            "        return 3  # Repeats.\n\n    def same(self):\ndef same():\n");
  // Not of two (its line still stands there), nor of the two of one name.
  ASSERT_EQ(example.questions.size(), 2u);
  EXPECT_EQ(example.questions[0].text, "What does the docstring of one say in its first line?");
  EXPECT_EQ(example.questions[0].answers, Texts{"Says one."});
  EXPECT_EQ(text_at(example, example.questions[0].evidence.at(0)), "def one():\n    return 1\n");
  EXPECT_EQ(example.questions[1].answers, Texts{"Ärger."});
  EXPECT_EQ(text_at(example, example.questions[1].evidence.at(0)),
            "def three(self):\n        return 3  # Repeats.\n");
  EXPECT_EQ(example.title, "a.py");
  read_content("github_code", file("a.pyx", code).dump());
  EXPECT_TRUE(of_kind("docstring").empty());
}

TEST_F(ReaderGithubCodeTest, DefinitionsAreAskedOfSeveralFiles) {
  const std::string lines =
      file("src/cache.h", "// run\nclass EXPORT Cache {\n  void get();\n};\nclass Other;\n")
          .dump() +
      "\n" + file("src/main.py", "def main():\n    Cache()\ndef helper():\n    pass\n").dump() +
      "\n" + file("src/run.py", "def run_it():\n    main()\ndef main():\n    pass\n").dump() +
      "\n" + file("src/far.py", "Cache = helper()\n", "another/repository").dump();
  read_content("github_code", lines);
  const auto found = of_kind("definition");
  ASSERT_EQ(found.size(), 1u) << first_bad();  // helper is used by no file of its repository
  const auto& [example, question] = found[0];
  EXPECT_EQ(question->text, "In which file is Cache defined?");
  EXPECT_EQ(question->answers, Texts{"src/cache.h"});
  EXPECT_EQ(question->answer_spans.at(0).begin, 0);
  EXPECT_EQ(text_at(*example, question->answer_spans[0]), "src/cache.h");
  ASSERT_EQ(question->evidence.size(), 2u);
  EXPECT_EQ(text_at(*example, question->evidence[1]), "class EXPORT Cache {");
  EXPECT_EQ(example->passages.size(), 3u);
  EXPECT_EQ(text_at(*example, example->passages[1]).substr(0, 24), "src/main.py\ndef main():\n");
  EXPECT_EQ(example->split_keys.size(), 3u);
}

TEST_F(ReaderGithubCodeTest, KindsOfQuestionsCanBeChosen) {
  const std::string path =
      write(file("a.py", "def f():\n    'Says.'\n" + numbered_lines(9)).dump());
  for (const std::string& kind : github_code_questions()) {
    ReadOptions options;
    options.questions = {kind};
    int64_t others = 0, made = 0;
    read_github_code(path, options, [&](DocumentExample&& example) {
      for (const Question& question : example.questions)
        ++(question.id.find("#" + kind) == std::string::npos ? others : made);
    });
    EXPECT_EQ(others, 0) << kind;
    EXPECT_EQ(made, kind == "definition" ? 0 : 1) << kind;
  }
}

// What is made of one file stays together, and the files that a document joins do.
TEST_F(ReaderGithubCodeTest, NoFileIsInTwoSplits) {
  std::string lines;
  for (int i = 0; i < 90; ++i) {
    const std::string code = concat("def name_", i, "():\n    '''Says ", i, ".'''\n    name_",
                                    i - 1, "()\n", numbered_lines(i % 7 + 6));
    lines += file(concat("f", i, ".py"), code, concat("r", i / 10)).dump() + "\n";
  }
  read_content("github_code", lines);
  SplitAssigner assigner(parse_splits("train=0.6,test=0.4"), 1);
  for (const DocumentExample& example : examples) assigner.add(example);
  const std::vector<uint8_t> splits = assigner.assign();
  std::map<std::string, std::set<int>> splits_of_file;
  size_t i = 0;
  for (const DocumentExample& example : examples) {
    for (size_t j = 0; j < example.questions.size(); ++j, ++i) {
      for (const std::string& key : example.split_keys) splits_of_file[key].insert(splits.at(i));
    }
  }
  EXPECT_EQ(splits_of_file.size(), 90u);
  const std::string copied = numbered_lines(40);
  read_content("github_code", file("a.cc", copied, "one/repository").dump() + "\n" +
                                  file("lib/b.cc", copied, "another/repository").dump());
  ASSERT_EQ(examples.size(), 2u);
  EXPECT_NE(examples[0].document, examples[1].document);
  EXPECT_EQ(examples[0].split_keys, examples[1].split_keys) << "a copy is the same file";
  std::set<int> used;
  for (const auto& [key, of_file] : splits_of_file) {
    EXPECT_EQ(of_file.size(), 1u) << key;
    used.insert(of_file.begin(), of_file.end());
  }
  EXPECT_EQ(used.size(), 2u) << "the same question over other files joins nothing";
}

TEST_F(ReaderGithubCodeTest, AFolderIsReadInTheOrderOfItsPaths) {
  const std::filesystem::path folder = write("") + "-folder/checkout";
  const auto put = [&folder](const std::string& path, const std::string& content) {
    std::filesystem::create_directories((folder / path).parent_path());
    std::ofstream(folder / path, std::ios::binary) << content;
  };
  put("b.py", "def f():\n    'Says b.'\n    pass\n");
  put("a/z.py", "def g():\n    'Says z.'\n    pass\n");
  put(".git/config.py", "def f():\n    'Hidden.'\n    pass\n");
  put("a/.hidden.py", "def f():\n    'Hidden.'\n    pass\n");
  put("binary.py", std::string("def f():\n    'Says \0.'\n", 21));
  put("latin1.py", "def f():\n    'Says \xE4.'\n    pass\n");
  put("large.py", "def f():\n    'Large.'\n    pass\n#" + std::string(1 << 20, 'x'));
  std::filesystem::create_symlink(folder / "b.py", folder / "link.py");
  std::filesystem::create_directory_symlink(folder, folder / "loop");
  read("github_code", folder.string() + "/");
  Texts ids;
  for (const auto& [example, question] : of_kind("docstring")) ids.push_back(question->id);
  EXPECT_EQ(ids, (Texts{"checkout/a/z.py#docstring:g", "checkout/b.py#docstring:f"}));
  const int64_t bytes = input_bytes(folder);
  EXPECT_GT(bytes, 1 << 20);
  EXPECT_LT(bytes, (1 << 20) + 400);
  std::filesystem::create_directories(folder / "empty");
  EXPECT_THROW(read("github_code", (folder / "empty").string()), DataError);
  EXPECT_THROW(read("squad", folder.string()), DataError);
  EXPECT_THROW(input_bytes((folder / "none").string()), DataError);
}

json function(const std::string& language, const std::string& code, const std::string& docstring) {
  return {{"repo", "o/r"},          {"path", "a"},          {"func_name", "A.f"},
          {"language", language},   {"code", code},         {"original_string", code},
          {"docstring", docstring}, {"url", "https://x#L1"}};
}

TEST_F(ReaderGithubCodeTest, CodeSearchNetDocumentsHoldNoDocstring) {
  // The docstring column is not indented as the function is.
  read_content(
      "codesearchnet",
      function("python", "def f(a):\n    \"\"\"\n    Adds.\n\n    a: b\n    \"\"\"\n    return a",
               "Adds.\n\na: b")
              .dump() +
          "\n" + function("go", "// Adds one.\nfunc f(a int) {}", "Adds one.").dump() + "\n" +
          function("go", "Adds a.", "Adds a.").dump());
  ASSERT_EQ(examples.size(), 2u) << first_bad();
  EXPECT_EQ(examples[0].document, "def f(a):\n    return a");
  EXPECT_EQ(examples[0].questions[0].answers, Texts{"Adds.\n\na: b"});
  EXPECT_EQ(examples[0].questions[0].text, "What does the docstring of A.f say?");
  EXPECT_EQ(examples[0].questions[0].id, "https://x#L1");
  EXPECT_EQ(examples[1].document, "// \nfunc f(a int) {}");
  EXPECT_NE(first_bad().find("input:3: \"original_string\" is nothing but the docstring"),
            std::string::npos)
      << first_bad();
}

}  // namespace
}  // namespace dsrsq
