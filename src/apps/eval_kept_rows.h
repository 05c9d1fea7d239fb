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
  std::vector<ResultRecord> records;  // of the answers
  std::vector<ResultRecord> costs;    // empty: not measured yet
  AnsweredRow row;
  std::string notes;
  std::string device;
  int64_t seed = 0;
  bool answered() const { return !records.empty(); }
};

// A row that this process works at: no other gets it until this is gone, the process's end
// included.
class RowClaim {
 public:
  explicit RowClaim(const std::string& file);  // empty: granted without a file
  ~RowClaim();
  RowClaim(const RowClaim&) = delete;
  RowClaim& operator=(const RowClaim&) = delete;
  explicit operator bool() const { return granted_; }

 private:
  int descriptor_ = -1;
  bool granted_ = true;
};

class KeptRows {
 public:
  // `folder`/<row>.json; empty: nothing is kept or found.
  explicit KeptRows(std::string folder) : folder_(std::move(folder)) {}
  // The row that was kept under this name and `key`: all that its numbers depend on, in words. A
  // file with another key, or one that is no such file, is no row.
  std::optional<KeptRow> find(const std::string& name, const std::string& key) const;
  void keep(const std::string& name, const std::string& key, const KeptRow& row) const;
  // Every row of `file`, whatever its key, which `key` gets. Throws on a file that is none.
  static KeptRow read(const std::string& file, std::string& key);
  // The file that RowClaim of these rows takes.
  std::string claim_file(const std::string& name) const;

 private:
  std::string path(const std::string& name) const;
  std::string folder_;
};

}  // namespace dsrsq
