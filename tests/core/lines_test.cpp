// zstd input of for_each_line (declared in core/files.h; plain and gzip: files_test.cpp). The
// streams are made by libzstd and by the `zstd` program, and taken apart by hand.
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

constexpr uint64_t kNoLimit = uint64_t{1} << 38;

class ZstdLines : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-lines-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string put(const std::string& name, const std::string& content) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  fs::path folder_;
};

Lines lines_of(const std::string& path, size_t longest = 1 << 20, uint64_t most = kNoLimit) {
  Lines lines;
  for_each_line(
      path, [&](int64_t, const std::string& text) { lines.push_back(text); }, {}, longest, most);
  return lines;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
}

std::string frame(const std::string& text, int window_log = 0, bool checksum = true) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum ? 1 : 0);
  if (window_log > 0) ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  ZSTD_inBuffer none{nullptr, 0, 0}, from{text.data(), text.size(), 0};
  // Flushed empty first, so that the frame does not know its size and keeps the window asked for.
  ZSTD_compressStream2(context, &to, &none, ZSTD_e_flush);
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &from, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

std::string skippable(const std::string& content) {  // RFC 8878, 3.1.2
  std::string out = "\x5a\x2a\x4d\x18";
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(content.size() >> shift);
  return out + content;
}

std::string many_lines(int count) {
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += "line " + std::to_string(i * 7919 % 104729) + "\n";
  return out;
}

// A frame of `blocks` run-length blocks of 128 KiB of the same byte: 4 bytes each.
std::string bomb(int blocks, char byte) {
  std::string out("\x28\xb5\x2f\xfd\x00\x58", 6);  // window 2^21, no size, no checksum
  for (int i = 0; i < blocks; ++i) {
    const uint32_t header = (uint32_t{128 << 10} << 3) | (1 << 1) | (i + 1 == blocks ? 1 : 0);
    for (int shift = 0; shift < 24; shift += 8) out += static_cast<char>(header >> shift);
    out += byte;
  }
  return out;
}

TEST_F(ZstdLines, FramesAreOneText) {
  EXPECT_EQ(lines_of(put("a.zst", frame("one\ntwo\r\nlast"))), (Lines{"one", "two", "last"}));
  EXPECT_EQ(lines_of(put("b.zst", frame("one\ntw") + frame("") + frame("o\n") + frame("three"))),
            (Lines{"one", "two", "three"}));
  EXPECT_EQ(lines_of(put("c.zst", frame(""))), Lines{});
  const std::string text = many_lines(200000);
  const Lines plain = lines_of(put("plain", text));
  EXPECT_EQ(lines_of(put("by magic, not by name", frame(text))), plain);
  EXPECT_EQ(lines_of(put("d", skippable("seek table") + frame(text) + skippable("") + frame("x"))),
            [&] {
              Lines out = plain;
              out.push_back("x");
              return out;
            }());
}

// Magics, headers and blocks that fall on the reader's chunk boundary, at every offset.
TEST_F(ZstdLines, FramesAcrossChunks) {
  constexpr size_t kChunk = size_t{1} << 18;
  for (size_t before = kChunk - 24; before <= kChunk + 1; ++before) {
    const std::string path =
        put("x", skippable(std::string(before - 8, 's')) + frame("one\ntw") + frame("o"));
    ASSERT_EQ(lines_of(path), (Lines{"one", "two"})) << before;
  }
}

TEST_F(ZstdLines, TheProgramsFilesAreRead) {
  if (std::system("zstd --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no zstd program here";
  const std::string text = many_lines(50000);
  const std::string path = put("t", text);
  const Lines expected = lines_of(path);
  for (const char* options : {"-1", "-19", "--long=27", "--no-check", "--ultra -22"}) {
    const std::string packed = path + ".zst";
    ASSERT_EQ(std::system(concat("zstd -q -f ", options, " ", path, " -o ", packed).c_str()), 0);
    EXPECT_EQ(lines_of(packed), expected) << options;
  }
}

TEST_F(ZstdLines, TruncationAnywhereIsAnError) {
  const std::string whole = frame("one\ntwo\n") + frame("three\n");
  const size_t first = frame("one\ntwo\n").size();
  for (size_t size = 4; size < whole.size(); ++size) {
    const std::string error = error_of([&] { lines_of(put("cut.zst", whole.substr(0, size))); });
    if (size == first) {
      EXPECT_EQ(error, "no error");  // the first frame, whole
    } else {
      expect_contains(error, "the zstd file ends too early; it is truncated");
    }
  }
  const std::string large = frame(many_lines(300000));
  for (const size_t size : {large.size() / 2, large.size() - 4, large.size() - 1}) {
    const std::string error = error_of([&] { lines_of(put("large.zst", large.substr(0, size))); });
    expect_contains(error, "large.zst:");
    expect_contains(error, "truncated");
  }
}

TEST_F(ZstdLines, DamageIsAnError) {
  std::string broken = frame(many_lines(100000));
  broken[broken.size() - 2] ^= 1;
  const std::string error = error_of([&] { lines_of(put("sum.zst", broken)); });
  expect_contains(error, "the zstd data is corrupt (");
  expect_contains(error, "checksum");
  const std::string whole = frame("one\n");
  for (const std::string& tail :
       {std::string("garbage"), std::string(512, '\0'), std::string("\x1f\x8b\x08\x00", 4)}) {
    expect_contains(error_of([&] { lines_of(put("tail.zst", whole + tail)); }),
                    "tail.zst:2: the zstd file goes on with other data");
  }
  // Frames of zstd 0.4 to 0.7, which Debian's library would unpack by code of 2016.
  for (const char version : {'\x24', '\x25', '\x26', '\x27'}) {
    const std::string old = std::string(1, version) + "\xb5\x2f\xfd" + std::string(20, '\0');
    expect_contains(error_of([&] { lines_of(put("old.zst", whole + old)); }), "other data");
  }
  std::string reserved = bomb(1, 'x');
  reserved[4] = 0x08;  // RFC 8878, 3.1.1.1.1.4: must be zero
  expect_contains(error_of([&] { lines_of(put("reserved.zst", reserved)); }), "is corrupt (");
}

TEST_F(ZstdLines, WindowIsLimited) {
  const std::string text = "a line\n";
  EXPECT_EQ(lines_of(put("27.zst", frame(text, 27))), (Lines{"a line"}));
  expect_contains(error_of([&] { lines_of(put("28.zst", frame(text, 28))); }),
                  "28.zst:1: the zstd data needs a window of more than 128 MiB; pack it again with "
                  "--long=27 or less");
  std::string widest = bomb(1, 'x');
  widest[5] = '\xff';  // 3.75 TiB
  expect_contains(error_of([&] { lines_of(put("widest.zst", widest)); }), "window of more than");
}

TEST_F(ZstdLines, LineLimitNamesTheLine) {
  expect_contains(error_of([&] { lines_of(put("a.zst", frame("ok\n123456\n")), 5); }),
                  "a.zst:2: the line is longer than 5 bytes");
  expect_contains(error_of([&] { lines_of(put("b.zst", bomb(100000, 'x'))); }),
                  "b.zst:1: the line is longer than 1048576 bytes");  // 12.8 GB from 400 KB
}

TEST_F(ZstdLines, UnpackedBytesAreLimited) {
  const std::string text = "12345\n1234\n";
  EXPECT_EQ(lines_of(put("a.zst", frame(text)), 100, text.size()).size(), 2u);
  const std::string error =
      error_of([&] { lines_of(put("a.zst", frame(text)), 100, text.size() - 1); });
  expect_contains(error, "a.zst:1: the zstd data unpacks to more than 10 bytes");
  // Frames and members add up; 400 KB that would give 12.8 GB of empty lines stop at the limit.
  expect_contains(error_of([&] { lines_of(put("b.zst", frame("ab\n") + frame("cd\n")), 100, 5); }),
                  "b.zst:2: the zstd data unpacks to more than 5 bytes");
  int64_t lines = 0;
  expect_contains(error_of([&] {
                    for_each_line(
                        put("bomb.zst", bomb(100000, '\n')),
                        [&](int64_t, const std::string&) { ++lines; }, {}, 100, 1 << 20);
                  }),
                  "unpacks to more than 1048576 bytes");
  EXPECT_EQ(lines, 1 << 20);
  const std::string gzip = (folder_ / "c.gz").string();
  gzFile file = gzopen(gzip.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  EXPECT_EQ(lines_of(gzip, 100, text.size()).size(), 2u);
  expect_contains(error_of([&] { lines_of(gzip, 100, text.size() - 1); }),
                  "c.gz:1: the gzip data unpacks to more than 10 bytes");
  EXPECT_EQ(lines_of(put("plain", text), 100, 1).size(), 2u);
}

TEST_F(ZstdLines, ChunksAreTheSameBytes) {
  const std::string text = many_lines(200000);
  for (const std::string& content : {text, frame(text), frame(text) + frame("")}) {
    std::string all;
    for_each_chunk(put("x", content), [&](const char* bytes, size_t size) {
      all.append(bytes, size);
      return true;
    });
    EXPECT_EQ(all, text);
  }
  expect_contains(error_of([&] {
                    for_each_chunk(put("y", frame(text) + "z"),
                                   [](const char*, size_t) { return true; });
                  }),
                  "y: the zstd file ends too early");
}

TEST_F(ZstdLines, ChunksEndWhereTheReceiverHasEnough) {
  int chunks = 0;
  uint64_t bytes = 0;
  for_each_chunk(put("bomb", bomb(100000, 'x')), [&](const char*, size_t size) {
    bytes += size;
    return ++chunks < 3;
  });
  EXPECT_EQ(chunks, 3);
  EXPECT_LE(bytes, uint64_t{1} << 20);
}

}  // namespace
}  // namespace dsrsq
