// What the Python packages make of pairs of a prediction and references. Included by the tests of
// the metrics alone.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace dsrsq::testing {

constexpr double kMetricTolerance = 1e-6;

inline nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

// 500 random pairs, stems and corpora: scripts/make_metric_pairs.py.
inline const nlohmann::json& metric_pairs() {
  static const nlohmann::json json =
      read_json(std::string(DSRSQ_SOURCE_DIR) + "/tests/text/metric_pairs.json");
  return json;
}

// metrics_golden/golden.json of the shared data, where it is there.
inline std::filesystem::path shared_golden() {
  const char* folder = std::getenv("DSRSQ_SHARED_DATA");
  const std::filesystem::path root =
      folder != nullptr ? folder : std::string(DSRSQ_SOURCE_DIR) + "/../shared/data";
  return root / "metrics_golden" / "golden.json";
}

}  // namespace dsrsq::testing
