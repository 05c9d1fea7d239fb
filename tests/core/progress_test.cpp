#include "dsrsq/core/progress.h"

#include <gtest/gtest.h>

#include "dsrsq/core/logging.h"

namespace dsrsq {
namespace {

TEST(Progress, Line) {
  const Progress progress("step", 100);
  EXPECT_EQ(progress.line(12, 4, "loss 1.2"), "step 12/100 12% | loss 1.2 | 3.0/s | ETA 00:30");
  EXPECT_EQ(progress.line(0, 4, ""), "step 0/100 0%");
  EXPECT_EQ(progress.line(12, 0, ""), "step 12/100 12%");
  EXPECT_EQ(progress.line(100, 50, ""), "step 100/100 100% | 2.0/s | ETA 00:00");
  EXPECT_EQ(progress.line(99, 1e5, ""), "step 99/100 99% | 0.001/s | ETA 16:51");
  EXPECT_EQ(progress.line(120, 10, ""), "step 120/100 100% | 12.0/s | ETA 00:00");
}

TEST(Progress, UnknownTotalHasNoEta) {
  EXPECT_EQ(Progress("read", 0).line(50, 10, ""), "read 50 | 5.0/s");
}

TEST(Progress, ResumedRunCountsOnlyItsOwnWork) {
  const Progress progress("step", 1000, 900);
  EXPECT_EQ(progress.line(900, 10, ""), "step 900/1000 90%");
  EXPECT_EQ(progress.line(910, 10, ""), "step 910/1000 91% | 1.0/s | ETA 01:30");
}

TEST(Progress, LargeNumbers) {
  const Progress bytes("bytes", 8'000'000'000);
  EXPECT_EQ(bytes.line(4'000'000'000, 1000, ""),
            "bytes 4000000000/8000000000 50% | 4.0M/s | ETA 16:40");
  EXPECT_EQ(bytes.line(80'000'000, 100, ""),
            "bytes 80000000/8000000000 1% | 800.0k/s | ETA 2:45:00");
  EXPECT_EQ(bytes.line(8'000'000, 1000, ""), "bytes 8000000/8000000000 0% | 8000/s | ETA 11d 13h");
}

TEST(Progress, NoControlCharacters) {
  EXPECT_EQ(Progress("a\nb", 0).line(1, 0, "x\r\x1b[K"), "a b 1 | x  [K");
}

// Standard error is not a terminal under the test's capture: plain lines, at the given pace.
TEST(Progress, PlainLinesAtTheirPace) {
  testing::internal::CaptureStderr();
  {
    Progress slow("slow", 10, 0, 3600);
    for (int i = 0; i <= 10; ++i) slow.update(i);
    Progress fast("fast", 3, 0, 0);
    for (int i = 1; i <= 3; ++i) fast.update(i, "loss 2");
    fast.finish("saved");
    fast.finish("twice");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("slow"), std::string::npos) << text;
  EXPECT_NE(text.find("fast 2/3 66% | loss 2"), std::string::npos) << text;
  EXPECT_NE(text.find("fast done in 00:0"), std::string::npos) << text;
  EXPECT_NE(text.find("| saved\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("twice"), std::string::npos) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos) << text;
}

TEST(Progress, QuietUnderAHigherLogLevel) {
  set_log_level(LogLevel::kWarning);
  testing::internal::CaptureStderr();
  Progress progress("step", 2, 0, 0);
  progress.update(1);
  progress.finish();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  set_log_level(LogLevel::kInfo);
}

}  // namespace
}  // namespace dsrsq
