#include "dsrsq/train/metrics_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

class MetricsLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/metrics-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    run_ = pattern;
  }
  void TearDown() override { fs::remove_all(run_); }

  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> lines;
    for_each_line(run_ + "/metrics.jsonl", [&](int64_t, const std::string& text) {
      lines.push_back(nlohmann::json::parse(text));
    });
    return lines;
  }
  std::vector<std::string> event_files() const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(run_ + "/tensorboard"))
      paths.push_back(entry.path().string());
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  std::string run_;
};

// Bit by bit, unlike the table of the writer.
uint32_t crc32c_bitwise(const std::string& bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
  }
  return crc ^ 0xffffffffu;
}

uint32_t masked(const std::string& bytes) {
  const uint32_t crc = crc32c_bitwise(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <typename T>
T read_raw(const std::string& bytes, size_t offset) {
  T value{};
  if (offset + sizeof(T) > bytes.size()) throw std::runtime_error("record is cut off");
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

std::vector<std::string> read_records(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t length = read_raw<uint64_t>(bytes, at);
    EXPECT_EQ(read_raw<uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(read_raw<uint32_t>(bytes, at + 12 + length), masked(data));
    records.push_back(data);
    at += 16 + length;
  }
  return records;
}

// A protobuf message: field number -> raw value (varint as uint64 bytes, else the bytes
// themselves).
std::multimap<int, std::string> parse_message(const std::string& bytes) {
  std::multimap<int, std::string> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes.at(at++));
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.size()) {
    const uint64_t key = varint();
    const uint64_t type = key & 7;
    std::string value;
    if (type == 0) {
      const uint64_t number = varint();
      value.assign(reinterpret_cast<const char*>(&number), sizeof(number));
    } else {
      const size_t size = type == 2 ? varint() : type == 1 ? 8 : 4;
      value = bytes.substr(at, size);
      EXPECT_EQ(value.size(), size);
      at += size;
    }
    fields.emplace(static_cast<int>(key >> 3), value);
  }
  return fields;
}

std::string only(const std::multimap<int, std::string>& fields, int number) {
  EXPECT_EQ(fields.count(number), 1u) << "field " << number;
  const auto found = fields.find(number);
  return found == fields.end() ? "" : found->second;
}

std::map<std::string, float> scalars(const std::multimap<int, std::string>& event) {
  std::map<std::string, float> values;
  const auto summary = parse_message(only(event, 5));
  for (auto [it, end] = summary.equal_range(1); it != end; ++it) {
    const auto value = parse_message(it->second);
    values[only(value, 1)] = read_raw<float>(only(value, 2), 0);
  }
  return values;
}

TEST_F(MetricsLogTest, WritesJsonLines) {
  MetricsLog log(run_, 0);
  log.write(12, {{"train/loss", 1.5}, {"train/rate", 0.1}});
  const auto written = lines();  // readable while the log is open
  ASSERT_EQ(written.size(), 1u);
  EXPECT_EQ(written[0].at("step"), 12);
  EXPECT_EQ(written[0].at("train/loss"), 1.5);
  EXPECT_EQ(written[0].at("train/rate").get<double>(), 0.1);
  EXPECT_GE(written[0].at("time").get<double>(), 0);
  EXPECT_EQ(read_file(run_ + "/metrics.jsonl").rfind("{\"step\":12,\"time\":", 0), 0u);
  EXPECT_THROW(log.write(13, {{"step", 1.0}}), Error);
}

TEST_F(MetricsLogTest, SpellsOutValuesThatAreNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  MetricsLog log(run_, 0);
  log.write(1, {{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}, {"d", 1e300}});
  const auto line = lines().at(0);
  EXPECT_EQ(line.at("a"), "NaN");
  EXPECT_EQ(line.at("b"), "Infinity");
  EXPECT_EQ(line.at("c"), "-Infinity");
  EXPECT_EQ(line.at("d"), 1e300);
  const auto values = scalars(parse_message(read_records(event_files().at(0)).at(2)));
  EXPECT_TRUE(std::isnan(values.at("a")));
  EXPECT_EQ(values.at("b"), infinity);
  EXPECT_EQ(values.at("c"), -infinity);
  EXPECT_EQ(values.at("d"), infinity);
}

TEST_F(MetricsLogTest, EventFilesHaveTensorBoardsFraming) {
  ASSERT_EQ(crc32c_bitwise("123456789"), 0xe3069283u);  // the check value of CRC-32C
  MetricsLog log(run_, 0);
  log.write(300, {{"train/loss", 1.5}, {std::string(200, 't'), -2.25}});
  ASSERT_EQ(event_files().size(), 1u);
  EXPECT_EQ(fs::path(event_files()[0]).filename().string().rfind("events.out.tfevents.", 0), 0u);
  const auto records = read_records(event_files()[0]);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(only(parse_message(records[0]), 3), "brain.Event:2");
  const auto event = parse_message(records[2]);
  EXPECT_GT(read_raw<double>(only(event, 1), 0), 1.6e9);
  EXPECT_EQ(read_raw<uint64_t>(only(event, 2), 0), 300u);
  const std::map<std::string, float> expected = {{"train/loss", 1.5f},
                                                 {std::string(200, 't'), -2.25f}};
  EXPECT_EQ(scalars(event), expected);
}

TEST_F(MetricsLogTest, ResumeDropsLaterLinesAndPurgesTensorBoard) {
  {
    MetricsLog log(run_, 0);
    for (int64_t step = 0; step < 6; ++step) log.write(step, {{"loss", static_cast<double>(step)}});
  }
  std::ofstream(run_ + "/metrics.jsonl", std::ios::app)
      << "{\"step\":6,\"ti";  // killed in the middle of a line
  {
    MetricsLog log(run_, 4);
    log.write(4, {{"loss", 40}});
  }
  std::vector<double> losses;
  for (const auto& line : lines()) losses.push_back(line.at("loss"));
  EXPECT_EQ(losses, (std::vector<double>{0, 1, 2, 3, 40}));
  ASSERT_EQ(event_files().size(), 2u) << "a new file, also within the same second";
  const auto records = read_records(event_files()[1]);  // TensorBoard reads in the order of names
  ASSERT_EQ(records.size(), 3u);
  const auto restart = parse_message(records[1]);
  EXPECT_EQ(read_raw<uint64_t>(only(restart, 2), 0), 4u);
  EXPECT_EQ(read_raw<uint64_t>(only(parse_message(only(restart, 7)), 1), 0), 1u)
      << "SessionLog.START";
  EXPECT_EQ(scalars(parse_message(records[2])).at("loss"), 40.0f);
}

TEST_F(MetricsLogTest, FailedWritesNameTheFile) {
  MetricsLog log(run_, 0);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit full{0, old.rlim_max};  // as on a full disk
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
  std::string message;
  try {
    log.write(1, {{"loss", 1.0}});
  } catch (const Error& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("metrics.jsonl: cannot be written"), std::string::npos) << message;
  EXPECT_THROW(MetricsLog(run_ + "/metrics.jsonl", 0), Error) << "a file where a folder is needed";
}

TEST_F(MetricsLogTest, AFullDiskLeavesWholeRecordsInBothFiles) {
  const dsrsq::testing::SmallDisk disk(256 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  run_ = disk.folder();
  std::string message;
  int64_t written = 0;
  {
    MetricsLog log(run_, 0);
    disk.fill(12 << 10);
    try {
      for (; written < 1000; ++written) log.write(written, {{std::string(200, 't'), 1.0}});
    } catch (const NoSpaceError& error) {
      message = error.what();
      EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
    }
  }
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_GT(written, 5);
  EXPECT_GE(static_cast<int64_t>(lines().size()), written);
  EXPECT_GE(static_cast<int64_t>(read_records(event_files().at(0)).size()), written);
  disk.empty();
  MetricsLog(run_, written).write(written, {{"loss", 2.0}});
  EXPECT_EQ(lines().back().at("step"), written) << "the log goes on where there is room again";
}

TEST_F(MetricsLogTest, ARemovedRunFolderIsNotedAtTheNextLine) {
  MetricsLog log(run_, 0);
  log.write(1, {{"loss", 1.0}});
  fs::remove_all(run_);
  try {
    log.write(2, {{"loss", 1.0}});
    ADD_FAILURE() << "the line went into a file that is gone";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
    EXPECT_NE(std::string(error.what()).find("metrics.jsonl: was removed or replaced"),
              std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(fs::exists(run_)) << "and is not made anew";
}

}  // namespace
}  // namespace dsrsq
