// CNN/DailyMail (Hermann et al. 2015, See et al. 2017): stories with highlights, and with days of
// publication a dated stream.
#include <algorithm>
#include <filesystem>

#include "csv_records.h"
#include "dated_articles.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kHighlightsRequest = "What are the highlights of this article?";
const std::string kDayRequest = "When was this article published?";
const std::string kHighlight = "@highlight";
const std::string kStory = ".story";

using ArticleSink = std::function<void(Article&& article)>;

// The lines that hold text, each once.
std::string clean_highlights(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = trimmed(text.substr(begin, end - begin));
    if (!line.empty()) add_once(lines, line);
    begin = end + 1;
  }
  std::string joined;
  for (const std::string& line : lines) joined += (joined.empty() ? "" : "\n") + line;
  return joined;
}

void require_article(const Article& article) {
  if (!is_utf8(article.id) || !is_utf8(article.text) || !is_utf8(article.highlights))
    throw BadRecord{"invalid UTF-8"};
  if (article.id.empty()) throw BadRecord{"\"id\" is empty"};
  if (trimmed(article.text).empty()) throw BadRecord{"the article is empty"};
  if (article.highlights.empty()) throw BadRecord{"the article has no highlights"};
}

// Paragraphs, then "@highlight" before each highlight; a line each, with blank lines in between.
Article read_story(const std::string& path) {
  Article article;
  article.id = fs::path(path).stem().string();
  article.line = 1;
  bool in_highlights = false;
  std::string highlights;
  size_t size = 0;
  const auto read_line = [&](int64_t, const std::string& line) {
    size += line.size();
    if (size > kMaximumRecord)
      throw BadRecord{concat("the story is longer than ", kMaximumRecord, " bytes")};
    const std::string text = trimmed(line);
    if (text == kHighlight) {
      in_highlights = true;
    } else if (in_highlights) {
      highlights += text + "\n";
    } else if (!text.empty()) {
      append_paragraph(article.text, "", text);
    }
  };
  for_each_line(path, read_line, {}, kMaximumRecord);
  article.highlights = clean_highlights(highlights);
  return article;
}

void read_json(const ReadContext& context, const ArticleSink& sink) {
  read_json_records(context, [&sink](const json& value, const RecordPlace& place) {
    Article article;
    article.id = require_text_key(value, "id");
    article.text = require_string(require_key(value, "article"), "article");
    article.highlights =
        clean_highlights(require_string(require_key(value, "highlights"), "highlights"));
    article.line = place.line;
    sink(std::move(article));
  });
}

void read_csv(const ReadContext& context, const ArticleSink& sink) {
  read_csv_records(context, {"id", "article", "highlights"},
                   [&sink](const std::vector<std::string>& fields, int64_t line) {
                     sink({fields[0], fields[1], clean_highlights(fields[2]), line, ""});
                   });
}

std::vector<std::string> stories_of(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == kStory) paths.push_back(entry.path().string());
  }
  if (error) throw DataError(concat(folder, ": cannot be read: ", error.message()));
  std::sort(paths.begin(), paths.end());
  return paths;
}

void read_stories(const ReadContext& context, const std::vector<std::string>& paths,
                  const ArticleSink& sink) {
  int64_t done = 0;
  for (const std::string& path : paths) {
    guard_record(context, concat(path, ":1"), [&] { sink(read_story(path)); });
    std::error_code error;  // progress alone
    done += std::max<int64_t>(0, static_cast<int64_t>(fs::file_size(path, error)));
    if (context.options.progress) context.options.progress(done, done);
  }
}

void read_articles(const ReadContext& context, const ArticleSink& sink) {
  if (fs::is_directory(context.path)) return read_stories(context, stories_of(context.path), sink);
  if (fs::path(context.path).extension() == kStory)
    return read_stories(context, {context.path}, sink);
  const bool csv = layout_of(context.path) == FileLayout::kNoJson;
  return csv ? read_csv(context, sink) : read_json(context, sink);
}

Question request(const std::string& id, const std::string& words, const std::string& answer,
                 const Article& article) {
  Question question;
  question.id = id;
  question.text = words;
  question.answers = {answer};
  question.timestamp = article.published;
  question.source_line = article.line;
  return question;
}

DocumentExample write_example(const Article& article) {
  DocumentExample example;
  const std::string& day = article.published;
  if (!day.empty()) example.document = concat("[", day, "]\n");
  example.document += article.text;
  example.split_keys = {article.text};  // the requests join nothing
  example.questions.push_back(request(article.id, kHighlightsRequest, article.highlights, article));
  if (day.empty()) return example;
  Question when = request(article.id + "#published", kDayRequest, day, article);
  const int64_t end = static_cast<int64_t>(day.size()) + 1;
  when.evidence = {{0, end + 1}};
  when.answer_spans = {{1, end}};
  example.questions.push_back(std::move(when));
  return example;
}

}  // namespace

ReadReport read_cnn_dailymail(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  const auto emit = [&](const Article& article) {
    DocumentExample example = write_example(article);
    for (const Question& question : example.questions)
      count_question(report, example.document, question);
    sink(std::move(example));
  };
  if (options.companion.empty()) {
    read_articles(context, [&emit](Article&& article) {
      require_article(article);
      emit(article);
    });
    return report;
  }
  const PublicationDays days({options.companion, options_of_companion(options), report});
  ArticleSorter sorter;
  read_articles(context, [&](Article&& article) {
    require_article(article);
    article.published = days.of(article.id);
    sorter.add(article);
  });
  sorter.for_each(emit);
  return report;
}

}  // namespace dsrsq
