// Records: plain, gzip and zstd lines, and the reader of question JSONL on top of them.
#include "dsrsq/core/files.h"
#include "dsrsq/data/readers.h"
#include "fuzz.h"

namespace dsrsq {
namespace {

constexpr size_t kLongestLine = 1 << 16;
constexpr uint64_t kMostUnpacked = 1 << 18;

void check_lines(const std::string& path) {
  int64_t last = 0;
  uint64_t bytes = 0;
  const auto line = [&](int64_t number, const std::string& text) {
    bytes += text.size() + 1;
    if (number != ++last || text.size() > kLongestLine || bytes > kMostUnpacked + 1 ||
        text.find('\n') != std::string::npos)
      std::abort();
  };
  for_each_line(path, line, {}, kLongestLine, kMostUnpacked);
}

void check_chunks(const std::string& path) {
  uint64_t bytes = 0;
  for_each_chunk(
      path,
      [&](const char*, size_t size) {
        bytes += size;
        return bytes < kMostUnpacked / 2;
      },
      {}, kMostUnpacked);
  if (bytes > kMostUnpacked) std::abort();
}

bool inside(const ByteSpan& span, const std::string& text) {
  return span.begin >= 0 && span.begin <= span.end && span.end <= static_cast<int64_t>(text.size());
}

void check_records(const std::string& path) {
  ReadOptions options;
  options.maximum_bad = 1000;
  read_jsonl(path, options, [](DocumentExample&& example) {
    for (const Question& question : example.questions) {
      for (const ByteSpan& span : question.evidence)
        if (!inside(span, example.document)) std::abort();
      for (const ByteSpan& span : question.answer_spans)
        if (!inside(span, example.document)) std::abort();
    }
  });
}

}  // namespace
}  // namespace dsrsq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const fuzz::MemoryFile memory(data, size);
  bool bounded = false;
  fuzz::expect_no_other_error([&] {
    check_lines(memory.path());
    bounded = true;
  });
  fuzz::expect_no_other_error([&] { check_chunks(memory.path()); });
  // The reader has the limits of real files, 64 MiB lines among them: too slow for a bomb.
  if (bounded) fuzz::expect_no_other_error([&] { check_records(memory.path()); });
  return 0;
}
