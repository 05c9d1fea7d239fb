#include "dsrsq/bench/case_records.h"

#include <utility>

namespace dsrsq::bench {

CaseRecords::CaseRecords(std::string name, std::map<std::string, double> shape)
    : name_(std::move(name)), shape_(std::move(shape)) {}

ResultRecord& CaseRecords::add(const std::string& method, const std::string& metric, double value,
                               const std::string& unit,
                               const std::map<std::string, double>& shape) {
  ResultRecord record;
  record.case_name = name_;
  record.method = method;
  record.shape = shape_;
  record.shape.insert(shape.begin(), shape.end());
  record.metric = metric;
  record.value = value;
  record.unit = unit;
  all.push_back(std::move(record));
  return all.back();
}

}  // namespace dsrsq::bench
