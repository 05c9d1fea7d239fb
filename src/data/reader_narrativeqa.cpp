// NarrativeQA (Kocisky et al. 2018): questions over stories, or over their summaries.
#include <filesystem>
#include <unordered_map>

#include "csv_records.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/readers.h"
#include "html_text.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

// Columns of qaps.csv, in the order in which they are asked for.
enum Column { kDocument, kQuestion, kAnswer1, kAnswer2 };

// One column of a file beside the questions, by document_id. A document that stands twice is a bad
// record.
std::unordered_map<std::string, std::string> read_column(const ReadContext& context,
                                                         const std::string& file,
                                                         const std::string& column) {
  const std::string path = (fs::path(context.path).parent_path() / file).string();
  ReadOptions options;
  options.maximum_bad = context.options.maximum_bad;
  std::unordered_map<std::string, std::string> values;
  read_csv_records({path, options, context.report}, {"document_id", column},
                   [&values](const std::vector<std::string>& fields, int64_t) {
                     if (!values.emplace(fields[0], trimmed(fields[1])).second)
                       throw BadRecord{concat("document_id \"", fields[0], "\" stands twice")};
                   });
  return values;
}

// The texts that are asked about. The one that was asked for last is kept: questions of a document
// stand together.
class Texts {
 public:
  Texts(const ReadContext& context, bool stories)
      : folder_(fs::path(context.path).parent_path() / "tmp"), stories_(stories) {
    if (!stories) summaries_ = read_column(context, "summaries.csv", "summary");
  }

  const std::string& of(const std::string& document) {
    if (document == last_) return text_;
    last_.clear();
    text_ = stories_ ? read_story(document) : find_summary(document);
    if (text_.empty()) throw BadRecord{concat("document \"", document, "\" has no text")};
    last_ = document;
    return text_;
  }

 private:
  std::string find_summary(const std::string& document) const {
    const auto found = summaries_.find(document);
    if (found == summaries_.end())
      throw BadRecord{concat("document \"", document, "\" is not in summaries.csv")};
    return found->second;
  }

  std::string read_story(const std::string& document) const {
    if (document.find('/') != std::string::npos)
      throw BadRecord{concat("document_id \"", document, "\" is no file name")};
    const fs::path path = folder_ / (document + ".content");
    if (!fs::is_regular_file(path))
      throw BadRecord{concat("the story ", path.string(),
                             " is not there; NarrativeQA's download_stories.sh fetches it")};
    const std::string story = read_file(path.string(), kMaximumRecord);
    if (!is_utf8(story))
      throw BadRecord{concat("the story ", path.string(), " is not UTF-8; convert it")};
    return looks_like_html(story) ? html_text(story) : trimmed(story);
  }

  fs::path folder_;
  bool stories_;
  std::unordered_map<std::string, std::string> summaries_;
  std::string last_;
  std::string text_;
};

Question read_question(const std::vector<std::string>& fields, int64_t line,
                       const std::string& document) {
  Question question;
  question.id = std::to_string(line);
  question.source_line = line;
  question.text = trimmed(fields[kQuestion]);
  if (question.text.empty()) throw BadRecord{"\"question\" is empty"};
  for (const Column column : {kAnswer1, kAnswer2}) {
    const std::string answer = trimmed(fields[column]);
    if (answer.empty()) continue;
    add_once(question.answers, answer);
    if (const auto span = find_only(document, answer)) add_once(question.answer_spans, *span);
  }
  if (question.answers.empty()) throw BadRecord{"both answers are empty"};
  return question;
}

ReadReport read_questions(const std::string& path, const ReadOptions& options,
                          const ExampleSink& sink, bool stories) {
  ReadReport report;
  const ReadContext context{path, options, report};
  Texts texts(context, stories);
  std::unordered_map<std::string, std::string> titles;
  if (fs::exists(fs::path(path).parent_path() / "documents.csv"))
    titles = read_column(context, "documents.csv", "wiki_title");
  DocumentGatherer gatherer(sink);
  read_csv_records(context, {"document_id", "question", "answer1", "answer2"},
                   [&](const std::vector<std::string>& fields, int64_t line) {
                     DocumentExample example;
                     example.document = texts.of(fields[kDocument]);
                     const auto title = titles.find(fields[kDocument]);
                     if (title != titles.end()) example.title = title->second;
                     example.questions.push_back(read_question(fields, line, example.document));
                     count_question(report, example.document, example.questions[0]);
                     gatherer.add(std::move(example));
                   });
  gatherer.flush();
  return report;
}

}  // namespace

ReadReport read_narrativeqa(const std::string& path, const ReadOptions& options,
                            const ExampleSink& sink) {
  return read_questions(path, options, sink, false);
}

ReadReport read_narrativeqa_stories(const std::string& path, const ReadOptions& options,
                                    const ExampleSink& sink) {
  return read_questions(path, options, sink, true);
}

}  // namespace dsrsq
