#include "eval_kept_rows.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/eval/predictions.h"

namespace dsrsq {

using nlohmann::json;

std::string KeptRows::path(const std::string& name) const {
  std::string file;
  for (char c : name) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 c == '_' || c == '-' || c == '@' || c == '%' || c == '.';
    file += plain ? c : '+';
  }
  return concat(folder_, "/", file, ".json");
}

RowClaim::RowClaim(const std::string& file) {
  if (file.empty()) return;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path());
  descriptor_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  granted_ = descriptor_ >= 0 && flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
  if (descriptor_ < 0 || (!granted_ && errno != EWOULDBLOCK))
    throw Error(ExitCode::kInternal, concat(file, ": cannot be locked: ", std::strerror(errno)));
}

RowClaim::~RowClaim() {
  if (descriptor_ >= 0) close(descriptor_);
}

std::string KeptRows::claim_file(const std::string& name) const {
  if (folder_.empty()) return "";
  auto file = path(name);
  return file.substr(0, file.size() - std::string(".json").size()) + ".lock";
}

std::optional<KeptRow> KeptRows::find(const std::string& name, const std::string& key) const {
  if (folder_.empty() || !std::filesystem::exists(path(name))) return std::nullopt;
  try {
    std::string own;
    auto kept = read(path(name), own);
    if (kept.row.row == name && own == key) return kept;
  } catch (const std::exception& error) {
    log_warning(path(name), ": not a row of dsrsq-eval (", error.what(), "); it is evaluated anew");
  }
  return std::nullopt;
}

KeptRow KeptRows::read(const std::string& path, std::string& key) {
  auto file = json::parse(read_file(path));
  file.at("key").get_to(key);
  KeptRow kept;
  kept.records = parse_results(file, path);
  kept.costs = parse_results(file.at("costs"), path);
  file.at("case").get_to(kept.row.case_name);
  file.at("row").get_to(kept.row.row);
  for (const auto& item : file.at("questions"))
    kept.row.questions.push_back(parse_question_json(item));
  file.at("notes").get_to(kept.notes);
  file.at("device").get_to(kept.device);
  file.at("seed").get_to(kept.seed);
  return kept;
}

void KeptRows::keep(const std::string& name, const std::string& key, const KeptRow& row) const {
  if (folder_.empty()) return;
  std::filesystem::create_directories(folder_);
  auto file = results_json(json::object(), row.records);
  file["costs"] = results_json(json::object(), row.costs);
  file["row"] = name;
  file["key"] = key;
  file["case"] = row.row.case_name;
  file["notes"] = row.notes;
  file["device"] = row.device;
  file["seed"] = row.seed;
  file["questions"] = json::array();
  for (const auto& question : row.row.questions)
    file["questions"].push_back(json(question_json(question)));
  write_file_atomic(path(name), file.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace dsrsq
