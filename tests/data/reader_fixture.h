// Reading small files with any reader, and where the real data lies.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"

namespace dsrsq::testing {

inline std::string text_at(const DocumentExample& example, const ByteSpan& span) {
  return example.document.substr(span.begin, span.end - span.begin);
}

// Of real data that is not part of the project; a test that needs it skips where it is absent.
inline std::string shared_data(const std::string& file) {
  const char* variable = std::getenv("DSRSQ_SHARED_DATA");
  const std::string data =
      variable != nullptr ? variable : std::string(DSRSQ_SOURCE_DIR) + "/../shared/data";
  return data + "/" + file;
}

class ReaderFixture {
 public:
  ReaderFixture() {
    std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    for (char& c : name) c = c == '/' ? '-' : c;
    folder_ = std::filesystem::temp_directory_path() / concat("dsrsq-reader-", ::getpid(), name);
    std::filesystem::create_directories(folder_);
  }
  ~ReaderFixture() { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& content, const std::string& name = "input") const {
    const std::string path = folder_ / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  // Reads with every bad record allowed.
  const std::vector<DocumentExample>& read(const std::string& format, const std::string& path) {
    examples.clear();
    ReadOptions options;
    options.maximum_bad = 1'000'000;
    options.companion = companion;
    report = find_reader(format).read(
        path, options, [&](DocumentExample&& example) { examples.push_back(std::move(example)); });
    return examples;
  }
  const std::vector<DocumentExample>& read_content(const std::string& format,
                                                   const std::string& content) {
    return read(format, write(content));
  }
  // "where: reason" of the first bad record.
  std::string first_bad() const {
    return report.bad.empty() ? "no bad record" : report.bad[0].where + ": " + report.bad[0].reason;
  }
  int64_t questions() const {
    int64_t count = 0;
    for (const DocumentExample& example : examples)
      count += static_cast<int64_t>(example.questions.size());
    return count;
  }

  std::vector<DocumentExample> examples;
  ReadReport report;
  std::string companion;

 private:
  std::filesystem::path folder_;
};

}  // namespace dsrsq::testing
