#include "eval_kept_rows.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"

namespace dsrsq {

namespace {

using nlohmann::json;

json question_json(const QuestionResult& q) {
  return {{"id", q.id},
          {"question", q.question},
          {"prediction", q.prediction},
          {"answers", q.answers},
          {"evidence_recall", q.evidence_recall},
          {"answer_recall", q.answer_recall},
          {"place", int(q.place)},
          {"retained", q.retained},
          {"selected_tokens", q.selected_tokens},
          {"context_tokens", q.context_tokens}};
}

QuestionResult parse_question(const json& item) {
  QuestionResult q;
  item.at("id").get_to(q.id);
  item.at("question").get_to(q.question);
  item.at("prediction").get_to(q.prediction);
  item.at("answers").get_to(q.answers);
  score_answer(q);
  item.at("evidence_recall").get_to(q.evidence_recall);
  item.at("answer_recall").get_to(q.answer_recall);
  q.place = AnswerPlace(item.at("place").get<int>());
  item.at("retained").get_to(q.retained);
  item.at("selected_tokens").get_to(q.selected_tokens);
  item.at("context_tokens").get_to(q.context_tokens);
  return q;
}

}  // namespace

std::string KeptRows::path(const std::string& name) const {
  std::string file;
  for (char c : name) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 c == '_' || c == '-' || c == '@' || c == '%' || c == '.';
    file += plain ? c : '+';
  }
  return concat(folder_, "/", file, ".json");
}

std::optional<KeptRow> KeptRows::find(const std::string& name, const std::string& key) const {
  if (folder_.empty() || !std::filesystem::exists(path(name))) return std::nullopt;
  try {
    auto file = json::parse(read_file(path(name)));
    if (file.at("row") != name || file.at("key") != key) return std::nullopt;
    KeptRow kept;
    kept.records = parse_results(file, path(name));
    kept.row.case_name = file.at("case").get<std::string>();
    kept.row.row = name;
    for (const auto& item : file.at("questions"))
      kept.row.questions.push_back(parse_question(item));
    file.at("notes").get_to(kept.notes);
    return kept;
  } catch (const std::exception& error) {
    log_warning(path(name), ": not a row of dsrsq-eval (", error.what(), "); it is evaluated anew");
    return std::nullopt;
  }
}

void KeptRows::keep(const std::string& name, const std::string& key, const KeptRow& row) const {
  if (folder_.empty()) return;
  std::filesystem::create_directories(folder_);
  auto file = results_json(json::object(), row.records);
  file["row"] = name;
  file["key"] = key;
  file["case"] = row.row.case_name;
  file["notes"] = row.notes;
  file["questions"] = json::array();
  for (const auto& question : row.row.questions)
    file["questions"].push_back(question_json(question));
  write_file_atomic(path(name), file.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace dsrsq
