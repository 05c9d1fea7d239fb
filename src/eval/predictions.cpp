#include "dsrsq/eval/predictions.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/store.h"

namespace dsrsq {

namespace {

using nlohmann::json;

// Of a prediction or an answer, 50 000 words: ROUGE-L takes the product of two lengths in time.
constexpr size_t kMaximumText = size_t{256} << 10;
constexpr int kMaximumDepth = 32;            // of other systems' keys; ours need 2
constexpr int64_t kMaximumValues = 1000000;  // a line of "[],[],..." would take gigabytes

// A line of a file, with what messages need.
struct Line {
  json value;
  std::string where;  // file:line
};

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw DataError(where + ": " + what);
}

// Up to the first offending byte: what was read last may be a whole document.
std::string parse_problem(const std::string& what) {
  constexpr size_t kLongest = 100;
  const size_t column = what.find("column ");
  std::string text = what.substr(column == std::string::npos ? 0 : column, kLongest);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

json parse_line(const std::string& text, const std::string& where) {
  int64_t values = 0;
  const json::parser_callback_t limit = [&](int depth, json::parse_event_t, json&) {
    if (depth > kMaximumDepth) fail(where, concat("nested over ", kMaximumDepth, " levels"));
    if (++values > kMaximumValues) fail(where, concat("over ", kMaximumValues, " values"));
    return true;
  };
  json value;
  try {
    value = json::parse(text, limit);
  } catch (const json::exception& error) {
    fail(where,
         concat("expected a JSON object, got invalid JSON (", parse_problem(error.what()), ")"));
  }
  if (!value.is_object()) fail(where, concat("expected a JSON object, got ", value.type_name()));
  return value;
}

class LineReader {
 public:
  explicit LineReader(const std::map<std::string, std::string>& keys) : keys_(keys) {
    for (const auto& [field, name] : keys)
      if (field != "id" && field != "question" && field != "prediction" && field != "answers")
        throw ConfigError(concat("--key ", field, "=", name,
                                 ": expected id, question, prediction or "
                                 "answers before '='"));
  }

  std::string id(const Line& line) const {
    const json* value = find(line, "id");
    if (!value) fail(line.where, missing("id"));
    if (value->is_number_integer()) return value->dump();
    return string(*value, line, "id", "a string or an integer");
  }

  std::string prediction(const Line& line) const {
    const json* value = find(line, "prediction");
    if (!value) fail(line.where, missing("prediction"));
    return string(*value, line, "prediction", "a string");
  }

  std::string question(const Line& line) const {
    const json* value = find(line, "question");
    return value ? string(*value, line, "question", "a string") : "";
  }

  std::optional<std::vector<std::string>> answers(const Line& line) const {
    const json* value = find(line, "answers");
    if (!value) return std::nullopt;
    constexpr char kExpected[] = "a list of strings";
    if (value->is_string()) return std::vector{string(*value, line, "answers", kExpected)};
    if (!value->is_array()) wrong(*value, line, "answers", kExpected);
    std::vector<std::string> answers;
    for (const auto& answer : *value) answers.push_back(string(answer, line, "answers", kExpected));
    return answers;
  }

  std::string missing(const std::string& field) const {
    return concat("the key \"", name(field), "\" is missing; --key ", field,
                  "=NAME says that the file calls it otherwise");
  }

 private:
  const std::string& name(const std::string& field) const {
    const auto found = keys_.find(field);
    return found == keys_.end() ? field : found->second;
  }

  const json* find(const Line& line, const std::string& field) const {
    const auto found = line.value.find(name(field));
    return found == line.value.end() ? nullptr : &*found;
  }

  [[noreturn]] void wrong(const json& value, const Line& line, const std::string& field,
                          const std::string& expected) const {
    fail(line.where,
         concat("\"", name(field), "\" must be ", expected, ", got ", value.type_name()));
  }

  std::string string(const json& value, const Line& line, const std::string& field,
                     const std::string& expected) const {
    if (!value.is_string()) wrong(value, line, field, expected);
    const auto& text = value.get_ref<const std::string&>();
    if (text.size() > kMaximumText)
      fail(line.where, concat("\"", name(field), "\" has ", text.size(), " bytes, at most ",
                              kMaximumText, " are scored"));
    return text;
  }

  std::map<std::string, std::string> keys_;
};

// `on_line` for every line that is not white space; false where there was none.
bool for_each_object(const std::string& path, const std::function<void(const Line&)>& on_line) {
  bool any = false;
  for_each_line(path, [&](int64_t number, const std::string& text) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) return;
    any = true;
    Line line;
    line.where = concat(path, ":", number);
    line.value = parse_line(text, line.where);
    on_line(line);
  });
  return any;
}

struct Reference {
  std::string id;
  std::string question;
  std::vector<std::string> answers;
};

class References {
 public:
  References(const PredictionRequest& request, const LineReader& reader)
      : path_(request.references), given_(!request.references.empty()) {
    if (!given_) return;
    if (is_hdf5(path_)) {
      read_store(request.split);
    } else {
      read_lines(reader);
    }
    if (list_.empty()) fail(path_, "no references in it");
  }

  bool given() const { return given_; }
  const std::string& path() const { return path_; }
  const std::vector<Reference>& list() const { return list_; }
  const Reference* find(const std::string& id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &list_[found->second];
  }

 private:
  static bool is_hdf5(const std::string& path) {
    constexpr std::string_view kMagic("\x89HDF\r\n\x1a\n", 8);
    std::string head(kMagic.size(), '\0');
    std::ifstream(path, std::ios::binary).read(head.data(), std::streamsize(head.size()));
    return head == kMagic;
  }

  void add(Reference&& reference, const std::string& where) {
    if (!by_id_.emplace(reference.id, list_.size()).second)
      fail(where, concat("the id \"", reference.id, "\" stands twice among the references"));
    list_.push_back(std::move(reference));
  }

  void read_lines(const LineReader& reader) {
    for_each_object(path_, [&](const Line& line) {
      auto answers = reader.answers(line);
      if (!answers) fail(line.where, reader.missing("answers"));
      add({reader.id(line), reader.question(line), std::move(*answers)}, line.where);
    });
  }

  void read_store(const std::string& split) {
    const Store store(path_);
    for (const auto index : store.records_of_split(split)) {
      auto record = store.record(index);
      add({record.id, record.question, record.answers}, concat(path_, ", split ", split));
    }
  }

  std::string path_;
  bool given_;
  std::vector<Reference> list_;
  std::unordered_map<std::string, size_t> by_id_;
};

// The rows of one file.
class FileRows {
 public:
  FileRows(const std::string& path, const LineReader& reader, const References& references)
      : path_(path), reader_(reader), references_(references) {
    if (!for_each_object(path, [&](const Line& line) { add(line); }))
      fail(path, "no predictions in it; expected lines of {\"id\", \"prediction\", \"answers\"}");
  }

  // Names the rows, and adds or reports the questions without a prediction.
  std::vector<AnsweredRow> finish(const std::string& name, const PredictionRequest& request) {
    for (auto& row : rows_) {
      if (references_.given()) find_missing(row, request.missing);
      for (auto& question : row.questions) score_answer(question);
      row.case_name = request.split;
      if (row.row.empty() || (!name.empty() && rows_.size() == 1))
        row.row = name.empty() ? std::filesystem::path(path_).stem().string() : name;
      else if (!name.empty())
        row.row = name + ":" + row.row;
    }
    return std::move(rows_);
  }

 private:
  void add(const Line& line) {
    std::string row;
    if (const auto found = line.value.find("row"); found != line.value.end()) {
      if (!found->is_string() || found->get_ref<const std::string&>().empty())
        fail(line.where, "\"row\" must be a string that is not empty");
      row = found->get<std::string>();
    }
    if (!rows_.empty() && row.empty() != rows_[0].row.empty())
      fail(line.where, "some lines have the key \"row\" and some have not; expected all or none");
    const auto [place, is_new] = index_.emplace(row, rows_.size());
    if (is_new) rows_.push_back({"", row, {}});
    auto question = read(line);
    const auto [first, fresh] = seen_.emplace(std::pair{place->second, question.id}, line.where);
    if (!fresh)
      fail(line.where,
           concat("the id \"", question.id, "\" stands twice, first at ", first->second));
    rows_[place->second].questions.push_back(std::move(question));
  }

  QuestionResult read(const Line& line) const {
    QuestionResult question;
    question.id = reader_.id(line);
    question.prediction = reader_.prediction(line);
    question.question = reader_.question(line);
    auto answers = reader_.answers(line);
    if (!references_.given()) {
      if (!answers) fail(line.where, reader_.missing("answers") + ", --references FILE has them");
      question.answers = std::move(*answers);
      return question;
    }
    const Reference* reference = references_.find(question.id);
    if (!reference)
      fail(line.where, concat("the id \"", question.id, "\" is not in ", references_.path()));
    if (answers && *answers != reference->answers)
      fail(line.where, concat("the answers differ from those of ", references_.path(),
                              "; drop one of the two"));
    question.answers = reference->answers;
    if (question.question.empty()) question.question = reference->question;
    return question;
  }

  void find_missing(AnsweredRow& row, MissingPrediction missing) const {
    std::set<std::string> predicted;
    for (const auto& question : row.questions) predicted.insert(question.id);
    int64_t count = 0;
    std::string first;
    for (const auto& reference : references_.list()) {
      if (predicted.count(reference.id)) continue;
      if (count++ == 0) first = reference.id;
      if (missing != MissingPrediction::kEmpty) continue;
      QuestionResult question;
      question.id = reference.id;
      question.question = reference.question;
      question.answers = reference.answers;
      row.questions.push_back(std::move(question));
    }
    if (count > 0 && missing == MissingPrediction::kError)
      fail(path_, concat(row.row.empty() ? "" : "row " + row.row + ": ", "no prediction for ",
                         count, " of the ", references_.list().size(), " questions of ",
                         references_.path(), " (first: \"", first,
                         "\"); add them, or choose --missing empty (they count as an empty answer) "
                         "or --missing skip"));
  }

  const std::string& path_;
  const LineReader& reader_;
  const References& references_;
  std::vector<AnsweredRow> rows_;
  std::unordered_map<std::string, size_t> index_;               // row -> place
  std::map<std::pair<size_t, std::string>, std::string> seen_;  // (row, id) -> file:line
};

// Rows are compared question by question: one id is one question.
void check_same_answers(const std::vector<AnsweredRow>& rows) {
  std::unordered_map<std::string, std::pair<const AnsweredRow*, const QuestionResult*>> first;
  for (const auto& row : rows) {
    for (const auto& question : row.questions) {
      const auto [found, fresh] = first.emplace(question.id, std::pair{&row, &question});
      if (!fresh && found->second.second->answers != question.answers)
        throw DataError(concat("rows ", found->second.first->row, " and ", row.row, ": the id \"",
                               question.id,
                               "\" has other answers in one than in the other; score "
                               "both against one --references FILE"));
    }
  }
}

}  // namespace

namespace {
// Those of answer_metrics that no score of the answer gives.
std::vector<AnswerMetric> found_metrics() {
  return {{"score", &QuestionResult::score},
          {"evidence_recall", &QuestionResult::evidence_recall},
          {"answer_recall", &QuestionResult::answer_recall},
          {"answer_held", &QuestionResult::answer_held},
          {"answer_loss", &QuestionResult::answer_loss}};
}
}  // namespace

nlohmann::ordered_json question_json(const QuestionResult& q) {
  nlohmann::ordered_json item{
      {"id", q.id}, {"question", q.question}, {"prediction", q.prediction}, {"answers", q.answers}};
  if (q.context_tokens <= 0) return item;  // made elsewhere
  item["place"] = place_name(q.place);
  item["tokens_read"] = q.selected_tokens;
  item["context_tokens"] = q.context_tokens;
  item["retained"] = q.retained;
  if (q.depth >= 0) item["depth"] = q.depth;
  for (const auto& metric : found_metrics())
    if (q.*metric.value >= 0) item[std::string(metric.name)] = q.*metric.value;
  return item;
}

QuestionResult parse_question_json(const nlohmann::json& item) {
  QuestionResult q;
  item.at("id").get_to(q.id);
  item.at("question").get_to(q.question);
  item.at("prediction").get_to(q.prediction);
  item.at("answers").get_to(q.answers);
  score_answer(q);
  if (!item.contains("place")) return q;
  for (auto place :
       {AnswerPlace::kNotChosen, AnswerPlace::kExact, AnswerPlace::kLatent, AnswerPlace::kMixed})
    if (item["place"] == place_name(place)) q.place = place;
  item.at("tokens_read").get_to(q.selected_tokens);
  item.at("context_tokens").get_to(q.context_tokens);
  item.at("retained").get_to(q.retained);
  q.depth = item.value("depth", -1.0);
  for (const auto& metric : found_metrics())
    q.*metric.value = item.value(std::string(metric.name), -1.0);
  return q;
}

std::string question_lines(const AnsweredRow& row) {
  std::string lines;
  for (const auto& q : row.questions) {
    nlohmann::ordered_json line{{"row", row.row}};
    line.update(question_json(q));
    for (const auto& metric : answer_metrics())
      if (q.*metric.value >= 0) line[std::string(metric.name)] = q.*metric.value;
    line["sentence_bleu"] = q.sentence_bleu;
    lines += line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }
  return lines;
}

std::vector<AnsweredRow> read_predictions(const PredictionRequest& request) {
  const LineReader reader(request.keys);
  const References references(request, reader);
  std::vector<AnsweredRow> rows;
  std::set<std::string> names;
  for (const auto& input : request.inputs) {
    const size_t equals = input.find('=');
    const std::string name = equals == std::string::npos ? "" : input.substr(0, equals);
    const std::string path = equals == std::string::npos ? input : input.substr(equals + 1);
    for (auto& row : FileRows(path, reader, references).finish(name, request)) {
      if (!names.insert(row.row).second)
        throw ConfigError(concat("--input ", input, ": two rows are called '", row.row,
                                 "'; name them: ROW=FILE"));
      rows.push_back(std::move(row));
    }
  }
  check_same_answers(rows);
  return rows;
}

}  // namespace dsrsq
