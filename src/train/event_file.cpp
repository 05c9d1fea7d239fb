#include "event_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "event files are little-endian");

constexpr const char* kPrefix = "events.out.tfevents.";

// tensorflow/core/util/event.proto and framework/summary.proto: field numbers.
constexpr int kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5,
              kEventSessionLog = 7;
constexpr int kSessionLogStatus = 1, kSessionLogStart = 1;
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimpleValue = 2;
enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

template <typename T>
std::string raw_bytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string field_key(int number, WireType type) {
  return varint(static_cast<uint64_t>(number) << 3 | type);
}
std::string varint_field(int number, int64_t value) {
  return field_key(number, kVarint) + varint(static_cast<uint64_t>(value));
}
std::string bytes_field(int number, const std::string& value) {
  return field_key(number, kBytes) + varint(value.size()) + value;
}

// The conversion of a double beyond the floats is undefined in C++.
float to_float(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (value > kLargest) return std::numeric_limits<float>::infinity();
  if (value < -kLargest) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(value);
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event(int64_t step, const std::string& payload) {
  return field_key(kEventWallTime, kFixed64) + raw_bytes(wall_time()) +
         varint_field(kEventStep, step) + payload;
}

// TensorBoard reads files in the order of their names, which begin with a time in seconds. A run
// that is resumed within the second, or on a machine whose clock is behind, must still come last.
int64_t file_time(const std::string& folder) {
  const std::string prefix = kPrefix;
  int64_t time = static_cast<int64_t>(wall_time());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string digits =
        name.substr(prefix.size(), name.find('.', prefix.size()) - prefix.size());
    const bool is_number =
        digits.size() == 10 &&
        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (is_number) time = std::max<int64_t>(time, std::stoll(digits) + 1);
  }
  return time;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "localhost";
  return name;
}

}  // namespace

uint32_t crc32c(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0u);
      entries[i] = crc;
    }
    return entries;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = table[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ crc >> 8;
  return ~crc;
}

uint32_t masked_crc32c(const std::string& bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

EventFile::EventFile(const std::string& folder, int64_t first_step) {
  std::string path;
  try {
    fs::create_directory(folder);
    path = concat(folder, "/", kPrefix, file_time(folder), ".", host_name(), ".", ::getpid());
  } catch (const fs::filesystem_error& error) {
    throw Error(ExitCode::kCheckpoint,
                concat(folder, ": cannot be created: ", error.code().message()));
  }
  file_ = std::make_unique<AppendFile>(path);
  write_record(event(0, bytes_field(kEventFileVersion, "brain.Event:2")));
  write_record(event(first_step, bytes_field(kEventSessionLog,
                                             varint_field(kSessionLogStatus, kSessionLogStart))));
}

void EventFile::write_scalars(int64_t step, const std::map<std::string, double>& values) {
  std::string summary;
  for (const auto& [tag, value] : values)
    summary += bytes_field(kSummaryValue, bytes_field(kValueTag, tag) +
                                              field_key(kValueSimpleValue, kFixed32) +
                                              raw_bytes(to_float(value)));
  write_record(event(step, bytes_field(kEventSummary, summary)));
}

void EventFile::write_record(const std::string& event) {
  const std::string length = raw_bytes(static_cast<uint64_t>(event.size()));
  // One write: a reader that follows the file sees whole records.
  file_->append(length + raw_bytes(masked_crc32c(length)) + event +
                raw_bytes(masked_crc32c(event)));
}

}  // namespace dsrsq
