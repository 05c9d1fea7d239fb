// Texts and code without questions, to predict (language modelling, D2).
#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_folder.h"

namespace dsrsq {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string::npos;
}

// Without what packs a file: "a.jsonl.gz" is "a.jsonl".
fs::path unpacked_name(const std::string& path) {
  const fs::path name = fs::path(path).filename();
  const bool packed = name.extension() == ".gz" || name.extension() == ".zst";
  return packed ? name.stem() : name;
}

// "Homarus gammarus" of " = Homarus gammarus = ", empty of any other line; "= = Part = =" is one of
// an article's own headings.
std::string article_title(const std::string& line) {
  const std::string text = trimmed(line);
  if (text.size() < 5 || !text.starts_with("= ") || !text.ends_with(" =")) return "";
  const std::string title = trimmed(text.substr(2, text.size() - 4));
  return title.starts_with("=") || title.ends_with("=") ? "" : title;
}

class TextReader {
 public:
  TextReader(const ReadContext& context, const ExampleSink& sink)
      : context_(context), sink_(sink) {}

  // A document; one of white space alone is none.
  void give(const std::string& id, const std::string& title, int64_t line, std::string&& text) {
    if (is_blank(text)) return;
    if (text.find('\0') != std::string::npos) throw BadRecord{"the text holds a zero byte"};
    if (!is_utf8(text)) throw BadRecord{"the text is not UTF-8"};
    DocumentExample example;
    example.title = title;
    example.split_keys = {text};  // every document has the same question: none
    example.document = std::move(text);
    Question none;
    none.id = id;
    none.source_line = line;
    example.questions.push_back(std::move(none));
    ++context_.report.records;
    sink_(std::move(example));
  }

  void read_folder() {
    for_each_text_file(context_.path, context_.options,
                       [this](const std::string& file, std::string&& text) {
                         give(file, file, 0, std::move(text));
                       });
  }

  void read_records() {
    read_json_lines(context_, [this](const json& value, const RecordPlace& place) {
      for (const char* key : {"text", "content", "code", "context"}) {
        if (!value.contains(key)) continue;
        const auto text_of = [&value](const char* name) {
          return value.contains(name) ? require_string(value[name], name) : std::string();
        };
        const std::string path = text_of("path"), title = text_of("title");
        std::string id = value.contains("id") ? require_id(value["id"], "id") : path;
        if (id.empty()) id = record_number(place);
        give(id, title.empty() ? path : title, place.line,
             std::string(require_string(value[key], key)));
        return;
      }
      throw BadRecord{"expected one of the keys \"text\", \"content\", \"code\" or \"context\""};
    });
  }

  // A heading between blank lines is known once the line after it has come.
  void read_file() {
    const std::string name = unpacked_name(context_.path).string();
    std::string text, heading;
    int64_t begin = 1;
    bool blank_before = true, too_long = false;
    const auto finish = [&](int64_t next_begin) {
      guard_record(context_, concat(context_.path, ":", begin), [&] {
        if (too_long)
          throw BadRecord{concat("the document is longer than ", kMaximumRecord, " bytes")};
        const std::string title = article_title(text.substr(0, text.find('\n')));
        give(concat(name, ":", begin), title.empty() ? name : title, begin, std::move(text));
      });
      text.clear();
      too_long = false;
      begin = next_begin;
    };
    const auto append = [&](const std::string& line) {
      too_long = too_long || text.size() + line.size() >= kMaximumRecord;
      if (!too_long) text += line + "\n";
    };
    const auto read_line = [&](int64_t number, const std::string& line) {
      const bool blank = is_blank(line);
      if (!heading.empty()) {
        if (blank) finish(number - 1);
        append(heading);
        heading.clear();
      }
      if (blank_before && !article_title(line).empty())
        heading = line;
      else
        append(line);
      blank_before = blank;
    };
    for_each_line(context_.path, read_line, context_.options.progress, kMaximumRecord);
    if (!heading.empty()) append(heading);
    finish(0);
  }

 private:
  const ReadContext& context_;
  const ExampleSink& sink_;
};

}  // namespace

ReadReport read_text(const std::string& path, const ReadOptions& options, const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  TextReader reader(context, sink);
  if (fs::is_directory(path))
    reader.read_folder();
  else if (unpacked_name(path).extension() == ".jsonl")
    reader.read_records();
  else
    reader.read_file();
  return report;
}

}  // namespace dsrsq
