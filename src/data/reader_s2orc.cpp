// S2ORC (Lo et al. 2020): full texts of papers, in all forms in which they were released.
#include <algorithm>
#include <optional>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/core/json.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

const std::string kAbstractRequest = "What is the abstract of this paper?";
const std::string kTitleRequest = "What is the title of this paper?";

struct Paper {
  std::string id;
  std::string title;
  std::string abstract;
  std::string timestamp;
  std::string body;
};
using Metadata = std::unordered_map<std::string, Paper>;  // by id, without bodies

// A string that may be null or absent.
std::string optional_text(const json& object, const std::string& key,
                          const std::string& where = "") {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  return trimmed(require_string(*found, where + key));
}

// The member, where it is there and not null.
const json* find_value(const json& object, const std::string& key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string read_paper_id(const json& value) {
  const std::string key = value.contains("corpusid") ? "corpusid" : "paper_id";
  const std::string id = require_id(require_key(value, key), key);
  if (id.empty()) throw BadRecord{concat("\"", key, "\" is empty")};
  return id;
}

// 20200705 writes line breaks of abstracts as ":::".
std::string with_line_breaks(const std::string& text) {
  std::string out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(":::", begin), text.size());
    const std::string line = trimmed(text.substr(begin, end - begin));
    if (!line.empty()) out += (out.empty() ? "" : "\n") + line;
    begin = end + 3;
  }
  return out;
}

// A row of metadata: S2ORC's, or of the API's data sets "papers" and "abstracts".
Paper read_metadata(const json& value) {
  Paper paper;
  paper.id = read_paper_id(value);
  paper.title = optional_text(value, "title");
  paper.abstract = with_line_breaks(optional_text(value, "abstract"));
  paper.timestamp = read_timestamp(value, "publicationdate");
  if (paper.timestamp.empty()) paper.timestamp = read_timestamp(value, "year");
  return paper;
}

Metadata read_companion(const ReadContext& context) {
  Metadata rows;
  read_json_records(context, [&rows](const json& value, const RecordPlace&) {
    Paper row = read_metadata(value);
    // The abstract stands in the parse: most of a row's bytes are not kept.
    const json* parsed = find_value(value, "has_pdf_parsed_abstract");
    if (parsed != nullptr && require_bool(*parsed, "has_pdf_parsed_abstract")) row.abstract.clear();
    const std::string id = row.id;
    if (!rows.emplace(id, std::move(row)).second)
      throw BadRecord{concat("the id ", id.substr(0, 40), " stands twice")};
  });
  return rows;
}

// [{"text", "section"?}, ...]: headings and paragraphs of a body, or the lines of an abstract.
std::string read_paragraphs(const json& value, const std::string& name, bool is_body) {
  std::string text;
  std::string section;
  for (size_t i = 0; i < require_array(value, name).size(); ++i) {
    const std::string where = concat(name, "[", i, "].");
    const json& paragraph = require_object(value[i], concat(name, "[", i, "]"));
    const std::string body =
        trimmed(require_string(require_key(paragraph, "text", where), where + "text"));
    if (body.empty()) continue;
    if (!is_body) {
      text += (text.empty() ? "" : "\n") + body;
      continue;
    }
    const std::string heading = optional_text(paragraph, "section", where);
    append_paragraph(text, heading == section ? "" : heading, body);
    section = heading;
  }
  return text;
}

// "abstract" and "body_text" of a parse, wherever it stands.
void read_parse(const json& parse, const std::string& where, Paper& paper) {
  paper.body = read_paragraphs(require_key(parse, "body_text", where), where + "body_text", true);
  const json* abstract = find_value(parse, "abstract");
  if (abstract != nullptr && abstract->is_array())
    paper.abstract = read_paragraphs(*abstract, where + "abstract", false);
}

// An annotation of the API's form: a list of {"start", "end"} as JSON in a string, or null. Offsets
// are integers, in some releases as strings.
std::vector<ByteSpan> read_annotation(const json& annotations, const std::string& key,
                                      CodePoints& points) {
  const json* text = find_value(annotations, key);
  std::vector<ByteSpan> spans;
  if (text == nullptr) return spans;
  const std::string name = "content.annotations." + key;
  json list;
  try {
    list = parse_json(require_string(*text, name));
  } catch (const JsonError& error) {
    throw BadRecord{concat("\"", name, "\": ", error.what())};
  }
  for (size_t i = 0; i < require_array(list, name).size(); ++i) {
    const std::string where = concat(name, "[", i, "].");
    require_object(list[i], concat(name, "[", i, "]"));
    const auto offset = [&](const std::string& end) {
      const json& value = require_key(list[i], end, where);
      return require_integer(
          value.is_string() ? json::parse(value.get<std::string>(), nullptr, false) : value,
          where + end);
    };
    spans.push_back(points.bytes(offset("start"), offset("end"), concat(name, "[", i, "]")));
  }
  std::sort(spans.begin(), spans.end(),
            [](const ByteSpan& a, const ByteSpan& b) { return a.begin < b.begin; });
  return spans;
}

// "content" of the API: one text and where its parts lie.
void read_content(const json& content, Paper& paper) {
  const std::string& text =
      require_string(require_key(content, "text", "content."), "content.text");
  const json& annotations =
      require_object(require_key(content, "annotations", "content."), "content.annotations");
  CodePoints points(text);
  const auto at = [&text](const ByteSpan& span) {
    return trimmed(text.substr(span.begin, span.end - span.begin));
  };
  const std::vector<ByteSpan> abstracts = read_annotation(annotations, "abstract", points);
  const auto in_abstract = [&abstracts](const ByteSpan& span) {
    return std::any_of(abstracts.begin(), abstracts.end(), [&span](const ByteSpan& abstract) {
      return abstract.begin <= span.begin && span.begin < abstract.end;
    });
  };
  for (const ByteSpan& span : abstracts)
    paper.abstract += (paper.abstract.empty() ? "" : "\n") + at(span);
  const std::vector<ByteSpan> titles = read_annotation(annotations, "title", points);
  if (!titles.empty()) paper.title = at(titles[0]);  // the others are those of other pages
  const std::vector<ByteSpan> headings = read_annotation(annotations, "sectionheader", points);
  auto heading = headings.begin();
  for (const ByteSpan& span : read_annotation(annotations, "paragraph", points)) {
    std::string above;  // the nearest headings, each a line
    for (; heading != headings.end() && heading->begin < span.begin; ++heading)
      above += (above.empty() ? "" : "\n") + at(*heading);
    const std::string body = at(span);
    if (!body.empty() && !in_abstract(span)) append_paragraph(paper.body, above, body);
  }
}

// Nothing where the value is a row of metadata.
std::optional<Paper> read_full_text(const json& value) {
  Paper paper;
  if (const json* content = find_value(value, "content")) {
    read_content(require_object(*content, "content"), paper);
  } else if (value.contains("body_text")) {
    read_parse(value, "", paper);
  } else {
    const auto parses = {"grobid_parse", "pdf_parse", "latex_parse"};
    const auto parse = std::find_if(parses.begin(), parses.end(), [&value](const char* key) {
      return find_value(value, key) != nullptr;
    });
    if (parse == parses.end()) return std::nullopt;
    read_parse(require_object(value[*parse], *parse), concat(*parse, "."), paper);
  }
  paper.id = read_paper_id(value);
  if (paper.body.empty()) throw BadRecord{"the paper has no text"};
  // Beside the parse: doc2json's own members, the other generations' "metadata".
  const json* metadata = find_value(value, "metadata");
  const json& beside = metadata == nullptr ? value : require_object(*metadata, "metadata");
  const std::string where = metadata == nullptr ? "" : "metadata.";
  if (paper.title.empty()) paper.title = optional_text(beside, "title", where);
  const json* abstract = find_value(beside, "abstract");
  if (paper.abstract.empty() && abstract != nullptr && abstract->is_string())
    paper.abstract = optional_text(beside, "abstract", where);
  paper.timestamp = read_timestamp(beside, "year", where);
  return paper;
}

void add_metadata(const Metadata& rows, Paper& paper) {
  const auto row = rows.find(paper.id);
  if (row == rows.end())
    throw BadRecord{concat("paper ", paper.id.substr(0, 40), " has no row in the companion")};
  const auto take = [](const std::string& from, std::string& to) {
    if (!from.empty()) to = from;
  };
  take(row->second.title, paper.title);
  take(row->second.timestamp, paper.timestamp);
  if (paper.abstract.empty()) paper.abstract = row->second.abstract;
}

DocumentExample request(const std::string& words, const std::string& document,
                        const std::string& answer, const Paper& paper) {
  DocumentExample example;
  example.document = document;
  example.split_keys = {document};  // the request joins nothing
  Question question;
  question.id = paper.id;
  question.text = words;
  question.answers = {answer};
  question.timestamp = paper.timestamp;
  example.questions.push_back(std::move(question));
  return example;
}

DocumentExample read_record(const json& value, const Metadata* rows) {
  std::optional<Paper> paper = read_full_text(value);
  if (!paper) {
    const Paper row = read_metadata(value);
    if (row.abstract.empty() || row.title.empty())
      throw BadRecord{"neither a full text nor a row of metadata with \"title\" and \"abstract\""};
    return request(kTitleRequest, row.abstract, row.title, row);
  }
  if (rows != nullptr) add_metadata(*rows, *paper);
  if (paper->abstract.empty()) throw BadRecord{"the paper has no abstract to ask for"};
  DocumentExample example = request(kAbstractRequest, paper->body, paper->abstract, *paper);
  example.title = paper->title;
  return example;
}

}  // namespace

ReadReport read_s2orc(const std::string& path, const ReadOptions& options,
                      const ExampleSink& sink) {
  ReadReport report;
  Metadata rows;
  const bool companion = !options.companion.empty();
  if (companion) rows = read_companion({options.companion, options_of_companion(options), report});
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    DocumentExample example = read_record(value, companion ? &rows : nullptr);
    example.questions[0].source_line = place.line;
    count_question(report, example.document, example.questions[0]);
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
