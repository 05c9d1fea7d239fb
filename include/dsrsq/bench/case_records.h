// Records of one case of a suite: the same name and shape, one record a method and metric.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "dsrsq/eval/report.h"

namespace dsrsq::bench {

class CaseRecords {
 public:
  CaseRecords(std::string name, std::map<std::string, double> shape);

  // `shape` joins the case's own. The reference holds until the next call.
  ResultRecord& add(const std::string& method, const std::string& metric, double value,
                    const std::string& unit, const std::map<std::string, double>& shape = {});

  std::vector<ResultRecord> all;

 private:
  std::string name_;
  std::map<std::string, double> shape_;
};

}  // namespace dsrsq::bench
