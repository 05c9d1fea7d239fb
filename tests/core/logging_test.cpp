#include "dsrsq/core/logging.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

class Logging : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-logging-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    log_ = (folder_ / "log.txt").string();
  }
  void TearDown() override {
    set_log_file("");
    set_log_level(LogLevel::kInfo);
    fs::remove_all(folder_);
  }
  fs::path folder_;
  std::string log_;
};

TEST_F(Logging, Levels) {
  EXPECT_EQ(parse_log_level("debug"), LogLevel::kDebug);
  EXPECT_EQ(parse_log_level("warning"), LogLevel::kWarning);
  EXPECT_THROW(parse_log_level("warn"), ConfigError);
  testing::internal::CaptureStderr();
  log_debug("hidden");
  log_info("seen {} %s ", 1, " ", 2.5);  // braces are text, not a format
  set_log_level(LogLevel::kError);
  log_warning("hidden");
  log_error("bad");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("hidden"), std::string::npos) << text;
  EXPECT_NE(text.find("info seen {} %s 1 2.5\n"), std::string::npos) << text;
  EXPECT_NE(text.find("error bad\n"), std::string::npos) << text;
}

TEST_F(Logging, FileIsAppendedAndFlushed) {
  testing::internal::CaptureStderr();
  set_log_file(log_);
  log_info("one");
  EXPECT_NE(read_file(log_).find("info one\n"),
            std::string::npos);  // at once: a killed run keeps its log
  set_log_file((folder_ / "other.txt").string());
  log_info("two");
  set_log_file(log_);
  log_warning("three");
  set_log_file("");
  log_info("four");
  testing::internal::GetCapturedStderr();
  const std::string text = read_file(log_);
  EXPECT_NE(text.find("one\n"), std::string::npos);
  EXPECT_EQ(text.find("two"), std::string::npos);
  EXPECT_NE(text.find("warning three\n"), std::string::npos);
  EXPECT_EQ(text.find("four"), std::string::npos);
  EXPECT_THROW(set_log_file(folder_.string()), ConfigError);
}

TEST_F(Logging, LinesOfThreadsStayWhole) {
  testing::internal::CaptureStderr();
  set_log_file(log_);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i)
        log_info("thread ", t, " ", std::string(100, static_cast<char>('a' + t)), " end");
    });
  }
  for (std::thread& thread : threads) thread.join();
  set_log_file("");
  testing::internal::GetCapturedStderr();
  size_t lines = 0;
  for_each_line(log_, [&](int64_t, const std::string& line) {
    ++lines;
    EXPECT_EQ(line.substr(line.size() - 4), " end");
    EXPECT_EQ(std::count(line.begin(), line.end(), ':'), 2) << line;  // one time stamp
  });
  EXPECT_EQ(lines, 800u);
}

}  // namespace
}  // namespace dsrsq
