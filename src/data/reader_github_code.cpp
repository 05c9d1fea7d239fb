// Questions that source files answer by rules (readers.h), of JSONL or of a folder.
#include <algorithm>
#include <filesystem>
#include <set>

#include "code_text.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_folder.h"

namespace dsrsq {
namespace {

using nlohmann::json;

constexpr int64_t kLinesBefore = 10;  // of a line that is asked for
constexpr size_t kGroupFiles = 8;     // of a document of several files
constexpr size_t kGroupBytes = 96 * 1024;
constexpr size_t kShortestName = 3;
constexpr size_t kLargestPython = size_t{1} << 20;

struct SourceFile {
  std::string repository;
  std::string path;
  std::string text;
  int64_t line = 0;  // of the record

  std::string key() const { return repository + "/" + path; }
  // Copies of a file in other repositories are the same file.
  std::string split_key() const {
    return text.find_first_not_of(" \t\r\n") == std::string::npos
               ? key()
               : concat("text ", stable_hash(text));
  }
};

bool holds_letter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); });
}

Question make_question(const SourceFile& file, const std::string& kind, const std::string& text,
                       const std::string& answer) {
  Question question;
  question.id = concat(file.key(), "#", kind);
  question.text = text;
  question.answers = {answer};
  question.source_line = file.line;
  return question;
}

class GithubCodeReader {
 public:
  GithubCodeReader(const ReadContext& context, const ExampleSink& sink)
      : context_(context), sink_(sink) {}

  void add(SourceFile&& file) {
    const bool full = group_.size() == kGroupFiles || group_bytes_ + file.text.size() > kGroupBytes;
    if (!group_.empty() && (full || group_[0].repository != file.repository)) flush();
    if (asked("next_line")) ask_next_line(file);
    if (asked("docstring")) ask_docstrings(file);
    if (!asked("definition")) return;
    group_bytes_ += file.text.size();
    group_.push_back(std::move(file));
  }

  void flush() {
    ask_definitions();
    group_.clear();
    group_bytes_ = 0;
  }

 private:
  bool asked(const std::string& kind) const {
    const std::vector<std::string>& kinds = context_.options.questions;
    return kinds.empty() || std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
  }

  void ask_next_line(const SourceFile& file) {
    std::vector<ByteSpan> lines;  // that may be asked for
    int64_t number = 0;
    for (size_t begin = 0; begin < file.text.size(); ++number) {
      const size_t end = std::min(file.text.find('\n', begin), file.text.size());
      if (number >= kLinesBefore &&
          holds_letter(std::string_view(file.text).substr(begin, end - begin)))
        lines.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(end)});
      begin = end + 1;
    }
    if (lines.empty()) return;
    const ByteSpan line = lines[stable_hash(file.key()) % lines.size()];
    std::string answer = file.text.substr(line.begin, line.end - line.begin);
    answer.erase(answer.find_last_not_of(" \t\r\f\v") + 1);
    DocumentExample example;
    example.document = file.text.substr(0, line.begin);
    example.questions.push_back(make_question(
        file, "next_line", concat("What is the next line of ", file.path, "?"), answer));
    give(file, std::move(example));
  }

  void ask_docstrings(const SourceFile& file) {
    if (!file.path.ends_with(".py") || file.text.size() > kLargestPython) return;
    const std::vector<PythonFunction> functions = python_functions(file.text);
    std::vector<ByteSpan> docstrings;
    std::multiset<std::string> names;
    for (const PythonFunction& function : functions) {
      names.insert(function.name);
      if (function.docstring.end > 0) docstrings.push_back(function.docstring);
    }
    const CutText cut(file.text, docstrings);
    DocumentExample example;
    for (const PythonFunction& function : functions) {
      if (function.first_line.empty() || names.count(function.name) > 1 ||
          cut.text().find(function.first_line) != std::string::npos)
        continue;
      Question question = make_question(
          file, "docstring:" + function.name,
          concat("What does the docstring of ", function.name, " say in its first line?"),
          function.first_line);
      question.evidence.push_back(cut.moved(function.text));
      example.questions.push_back(std::move(question));
    }
    example.document = cut.text();
    give(file, std::move(example));
  }

  // One question a file: of its definitions with a name that nothing else in the group has and
  // that another file uses, the one whose hash is smallest.
  void ask_definitions() {
    if (group_.size() < 2) return;
    std::vector<std::vector<Definition>> definitions;
    std::multiset<std::string> names;
    for (const SourceFile& file : group_) {
      definitions.push_back(top_level_definitions(file.path, file.text));
      for (const Definition& definition : definitions.back()) names.insert(definition.name);
    }
    DocumentExample example;
    for (size_t i = 0; i < group_.size(); ++i) {
      const SourceFile& file = group_[i];
      const ByteSpan text = append_passage(example, file.path, file.text);
      example.split_keys.push_back(file.split_key());
      const Definition* chosen = nullptr;
      for (const Definition& definition : definitions[i]) {
        if (definition.name.size() < kShortestName || names.count(definition.name) > 1 ||
            !used_elsewhere(definition.name, i))
          continue;
        const auto rank = [&file](const Definition& d) {
          return stable_hash(concat(file.key(), "#", d.name));
        };
        if (chosen == nullptr || rank(definition) < rank(*chosen)) chosen = &definition;
      }
      if (chosen == nullptr) continue;
      Question question =
          make_question(file, "definition:" + chosen->name,
                        concat("In which file is ", chosen->name, " defined?"), file.path);
      const int64_t heading = example.passages.back().begin;
      question.answer_spans.push_back({heading, heading + static_cast<int64_t>(file.path.size())});
      question.evidence = {question.answer_spans[0],
                           {text.begin + chosen->line.begin, text.begin + chosen->line.end}};
      example.questions.push_back(std::move(question));
    }
    give(group_[0], std::move(example));
  }

  bool used_elsewhere(const std::string& name, size_t own) const {
    for (size_t i = 0; i < group_.size(); ++i) {
      if (i != own && holds_identifier(group_[i].text, name)) return true;
    }
    return false;
  }

  void give(const SourceFile& file, DocumentExample&& example) {
    if (example.questions.empty()) return;
    if (example.passages.empty()) {
      example.title = file.path;
      example.split_keys = {file.split_key()};
    }
    for (const Question& question : example.questions)
      count_question(context_.report, example.document, question);
    sink_(std::move(example));
  }

  const ReadContext& context_;
  const ExampleSink& sink_;
  std::vector<SourceFile> group_;
  size_t group_bytes_ = 0;
};

// The first of the keys that the record has.
const std::string& require_one_of(const json& value, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (value.contains(key)) return require_string(value[key], key);
  }
  throw BadRecord{concat("key \"", keys[0], "\" is missing")};
}

SourceFile read_record(const json& value, int64_t line) {
  SourceFile file;
  file.text = require_one_of(value, {"code", "content"});
  file.repository = require_one_of(value, {"repo_name", "max_stars_repo_name"});
  file.path = require_one_of(value, {"path", "max_stars_repo_path"});
  file.line = line;
  if (file.path.empty() || file.path.find('\n') != std::string::npos)
    throw BadRecord{"\"path\" is empty or of several lines"};
  return file;
}

}  // namespace

const std::vector<std::string>& github_code_questions() {
  static const std::vector<std::string> kinds = {"next_line", "docstring", "definition"};
  return kinds;
}

ReadReport read_github_code(const std::string& path, const ReadOptions& options,
                            const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  GithubCodeReader reader(context, sink);
  if (std::filesystem::is_directory(path)) {
    const std::filesystem::path whole = std::filesystem::canonical(path);
    for_each_text_file(path, options, [&](const std::string& file, std::string&& text) {
      reader.add({whole.filename().string(), file, std::move(text), 0});
    });
  } else {
    read_json_records(context, [&](const json& value, const RecordPlace& place) {
      reader.add(read_record(value, place.line));
    });
  }
  reader.flush();
  return report;
}

}  // namespace dsrsq
