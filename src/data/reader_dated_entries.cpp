// Dated streams: commits of a repository, entries of changelogs (readers.h).
#include <algorithm>
#include <map>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

constexpr size_t kEntries = 32;  // of a document
constexpr size_t kDay = 10;      // 2026-11-24

struct Entry {
  std::string date;
  std::string subject;  // of a commit; or
  std::string package, version;
  std::string id;  // of the source, or the line
  std::string heading;
  std::string text;
  int64_t line = 0;

  // What later entries bring news of.
  std::string topic() const { return package.empty() ? date.substr(0, kDay) : package; }
  const std::string& news() const { return package.empty() ? subject : version; }
};

std::string one_line(const json& value, const std::string& key) {
  const std::string& text = require_text_key(value, key);
  if (text.find('\n') != std::string::npos)
    throw BadRecord{concat("\"", key, "\" has several lines")};
  return text;
}

Entry read_entry(const json& value, int64_t line) {
  Entry entry;
  entry.line = line;
  entry.date = require_date(require_key(value, "date"), "date");
  if (entry.date.size() < kDay)
    throw BadRecord{concat("\"date\" must name a day, got \"", entry.date, "\"")};
  if (value.contains("package")) {
    entry.package = one_line(value, "package");
    entry.version = one_line(value, "version");
    entry.heading = concat(entry.date, " ", entry.package, " ", entry.version);
    entry.text = require_string(require_key(value, "text"), "text");
    entry.id = concat(entry.package, "_", entry.version);
  } else {
    entry.subject = one_line(value, "subject");
    entry.heading = concat(entry.date, " ", entry.subject);
    const auto body = value.find("body");
    if (body != value.end()) entry.text = require_string(*body, "body");
    const auto commit = value.find("commit");
    entry.id = commit == value.end() ? std::to_string(line) : require_string(*commit, "commit");
  }
  return entry;
}

// 32 entries of one kind, and a question for each topic that has more than one of them.
class EntryWindow {
 public:
  EntryWindow(const ReadContext& context, const ExampleSink& sink)
      : context_(context), sink_(sink) {}

  void add(Entry&& entry) {
    if (!entries_.empty() &&
        (entries_.size() == kEntries || entries_[0].package.empty() != entry.package.empty()))
      flush();
    entries_.push_back(std::move(entry));
  }

  void flush() {
    DocumentExample example;
    std::map<std::string, std::vector<size_t>> of_topic;
    for (size_t i = 0; i < entries_.size(); ++i) {
      append_passage(example, entries_[i].heading, entries_[i].text);
      of_topic[entries_[i].topic()].push_back(i);
    }
    example.split_keys = {example.document};  // the same question of another time is another one
    for (const auto& [topic, of] : of_topic) {
      if (of.size() > 1) example.questions.push_back(ask(example, topic, of.back()));
    }
    for (const Question& question : example.questions)
      count_question(context_.report, example.document, question);
    if (!example.questions.empty()) sink_(std::move(example));
    entries_.clear();
  }

 private:
  Question ask(const DocumentExample& example, const std::string& topic, size_t last) const {
    const Entry& entry = entries_[last];
    Question question;
    question.text = entry.package.empty()
                        ? concat("What is the subject of the last commit of ", topic, "?")
                        : concat("What is the latest version of ", topic, "?");
    question.id = entry.id;
    question.answers = {entry.news()};
    question.timestamp = entries_.back().date;
    question.source_line = entry.line;
    const ByteSpan& passage = example.passages[last];
    const int64_t end = passage.begin + static_cast<int64_t>(entry.heading.size());
    question.answer_spans = {{end - static_cast<int64_t>(entry.news().size()), end}};
    question.evidence = {passage};
    return question;
  }

  const ReadContext& context_;
  const ExampleSink& sink_;
  std::vector<Entry> entries_;
};

}  // namespace

ReadReport read_dated_entries(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  EntryWindow window(context, sink);
  read_json_records(context, [&](const json& value, const RecordPlace& place) {
    window.add(read_entry(value, place.line));
  });
  window.flush();
  return report;
}

}  // namespace dsrsq
