// Rows that an evaluation has finished, on disk: an evaluation of hours that was interrupted goes
// on with the next row.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "dsrsq/eval/answers.h"
#include "dsrsq/eval/report.h"

namespace dsrsq {

struct KeptRow {
  std::vector<ResultRecord> records;
  AnsweredRow row;
  std::string notes;
};

class KeptRows {
 public:
  // `folder`/<row>.json; empty: nothing is kept or found.
  explicit KeptRows(std::string folder) : folder_(std::move(folder)) {}
  // The row that was kept under this name and `key`: all that its numbers depend on, in words. A
  // file with another key, or one that is no such file, is no row.
  std::optional<KeptRow> find(const std::string& name, const std::string& key) const;
  void keep(const std::string& name, const std::string& key, const KeptRow& row) const;

 private:
  std::string path(const std::string& name) const;
  std::string folder_;
};

}  // namespace dsrsq
