#include "dsrsq/core/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "dsrsq/core/error.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-files-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  std::string put(const std::string& name, const std::string& content) const {
    std::ofstream(at(name), std::ios::binary) << content;
    return at(name);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder_))
      out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  std::string put_gzip(const std::string& name, const std::vector<std::string>& members) const {
    for (size_t i = 0; i < members.size(); ++i) {
      gzFile file = gzopen(at(name).c_str(), i == 0 ? "wb" : "ab");
      gzwrite(file, members[i].data(), static_cast<unsigned>(members[i].size()));
      gzclose(file);
    }
    return at(name);
  }

  fs::path folder_;
};

using Lines = std::vector<std::string>;

Lines lines_of(const std::string& path, size_t maximum = 1 << 20) {
  Lines lines;
  for_each_line(
      path,
      [&](int64_t number, const std::string& text) {
        lines.push_back(text);
        EXPECT_EQ(number, static_cast<int64_t>(lines.size()));
      },
      {}, maximum);
  return lines;
}

std::string data_error(const std::function<void()>& action) {
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

TEST_F(Files, Sha256KnownVectors) {  // FIPS 180-4 examples
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(sha256_file(put("million", std::string(1000000, 'a'))),
            sha256_hex(std::string(1000000, 'a')));
  const std::string big(3 * (1 << 20) + 77, 'x');  // over the chunk of the file reader
  EXPECT_EQ(sha256_file(put("big", big)), sha256_hex(big));
  EXPECT_THROW(sha256_file(at("absent")), DataError);
}

TEST_F(Files, ReadFile) {
  const std::string content("a\0b\xff\n", 5);
  EXPECT_EQ(read_file(put("a", content)), content);
  EXPECT_EQ(read_file(put("empty", "")), "");
  EXPECT_EQ(read_file(put("b", std::string(300000, 'q'))), std::string(300000, 'q'));
  EXPECT_EQ(read_file(at("b"), 300000).size(), 300000u);
  expect_contains(data_error([&] { read_file(at("b"), 299999); }), "larger than the 299999 bytes");
  expect_contains(data_error([&] { read_file(at("none")); }),
                  "none: cannot be opened: No such file");
  expect_contains(data_error([&] { read_file(folder_.string()); }), "is a folder");
}

TEST_F(Files, WriteFileAtomicReplacesAndLeavesNothingElse) {
  write_file_atomic(at("f"), "one");
  write_file_atomic(at("f"), "two");
  EXPECT_EQ(read_file(at("f")), "two");
  EXPECT_EQ(names(), (Lines{"f"}));
  EXPECT_THROW(write_file_atomic(at("no/f"), "x"), Error);
  fs::create_directory(at("d"));
  put("d/x", "");
  EXPECT_THROW(write_file_atomic(at("d"), "x"), Error);  // a folder stands there
  EXPECT_EQ(names(), (Lines{"d", "f"}));
}

TEST_F(Files, WriteFailureNamesThePath) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this machine";
  fs::create_symlink("/dev/full", at("full"));
  EXPECT_NO_THROW(
      write_file_atomic(at("full"), "x"));  // replaces the link, does not write through it
  EXPECT_FALSE(fs::is_symlink(at("full")));
}

TEST_F(Files, WriteFolderAtomicReplacesOnlyWhenComplete) {
  const auto fill = [](const std::string& text) {
    return [text](const std::string& folder) {
      fs::create_directory(folder + "/inner");
      std::ofstream(folder + "/inner/value") << text;
    };
  };
  write_folder_atomic(at("parent"), "step", fill("one"));
  EXPECT_EQ(read_file(at("parent/step/inner/value")), "one");
  put("parent/step/old-only", "");
  write_folder_atomic(at("parent"), "step", fill("two"));
  EXPECT_EQ(read_file(at("parent/step/inner/value")), "two");
  EXPECT_FALSE(fs::exists(at("parent/step/old-only")));
  EXPECT_THROW(write_folder_atomic(at("parent"), "step",
                                   [](const std::string& folder) {
                                     std::ofstream(folder + "/half") << "x";
                                     throw std::runtime_error("disk full");
                                   }),
               std::runtime_error);
  EXPECT_EQ(read_file(at("parent/step/inner/value")), "two");
  size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(at("parent"))) {
    EXPECT_EQ(entry.path().filename(), "step");
    ++entries;
  }
  EXPECT_EQ(entries, 1u);
  put("parent/file", "a file in the way");
  write_folder_atomic(at("parent"), "file", fill("three"));
  EXPECT_EQ(read_file(at("parent/file/inner/value")), "three");
  for (const char* name : {"", ".", "..", "a/b"})
    EXPECT_THROW(write_folder_atomic(at("parent"), name, fill("")), Error);
}

TEST_F(Files, StaleTemporariesGoLinksAreNotFollowed) {
  fs::create_directory(at("keep"));
  put("keep/precious", "x");
  fs::create_directory(at(".tmp-step-999999999"));  // over the largest process id
  fs::create_symlink(at("keep"), at(".tmp-step-999999999/link"));
  fs::create_directory(at(".tmp-broken"));
  fs::create_symlink(at("keep"), at(".tmp-link"));
  fs::create_directory(at(".tmp-own-" + std::to_string(getpid())));
  fs::create_directory(at(".tmp-parent-" + std::to_string(getppid())));  // alive
  put(".tmp-file-0-999999999", "x");
  remove_stale_temporaries(folder_.string());
  EXPECT_EQ(names(), (Lines{".tmp-link", ".tmp-parent-" + std::to_string(getppid()), "keep"}));
  EXPECT_EQ(read_file(at("keep/precious")), "x");
  EXPECT_NO_THROW(remove_stale_temporaries(at("absent")));
}

TEST_F(Files, OnlyTheStaleTemporariesOfOneFileGoWhereItIsNamed) {
  put(".tmp-nq.h5-999999999", "x");
  put(".tmp-other.h5-999999999", "x");
  put(concat(".tmp-nq.h5-", getppid()), "alive");
  remove_stale_temporaries(folder_.string(), "nq.h5");
  EXPECT_EQ(names(), (Lines{concat(".tmp-nq.h5-", getppid()), ".tmp-other.h5-999999999"}));
  EXPECT_EQ(temporary_path(at("nq.h5")), at(concat(".tmp-nq.h5-", getpid())));
}

// Killed between the two renames of a file system that cannot exchange names.
TEST_F(Files, WhatWasSetAsideGetsItsNameBackUnlessSomethingStandsThere) {
  fs::create_directory(at(".old-step-00000001-999999999"));
  put(".old-step-00000001-999999999/model", "one");
  fs::create_directory(at(".old-step-00000002-999999999"));
  fs::create_directory(at("step-00000002"));
  put("step-00000002/model", "newer");
  const std::string living = concat(".old-step-00000003-", getppid());
  fs::create_directory(at(living));
  remove_stale_temporaries(folder_.string());
  EXPECT_EQ(names(), (Lines{living, "step-00000001", "step-00000002"}));
  EXPECT_EQ(read_file(at("step-00000001/model")), "one");
  EXPECT_EQ(read_file(at("step-00000002/model")), "newer");
}

std::string write_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint) << error.what();
    return error.what();
  }
  return "no error";
}

TEST_F(Files, AFullDiskLeavesTheOldFileAndNothingHalfWritten) {
  const testing::SmallDisk disk(128 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  EXPECT_EQ(disk.free(), 128u << 10);
  const std::string path = disk.folder() + "/results.json";
  write_file_atomic(path, "old");
  disk.fill(8 << 10);
  EXPECT_EQ(free_bytes(disk.folder() + "/no/such/folder"), disk.free());
  EXPECT_THROW(write_file_atomic(path, std::string(20 << 10, 'n')), NoSpaceError);
  const std::string message =
      write_error([&] { write_file_atomic(path, std::string(20480, 'n')); });
  EXPECT_EQ(message, path + ": the disk is full: 20 kB are needed, " + bytes_text(disk.free()) +
                         " are free; make room and run the same command again");
  EXPECT_EQ(read_file(path), "old");
  EXPECT_THROW(write_folder_atomic(disk.folder(), "step",
                                   [](const std::string& folder) {
                                     write_file_atomic(folder + "/a", std::string(4096, 'a'));
                                     write_file_atomic(folder + "/b", std::string(16384, 'b'));
                                   }),
               NoSpaceError);
  size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(disk.folder())) {
    EXPECT_TRUE(entry.path().filename() == "results.json" || entry.path().filename() == "filler")
        << entry.path();
    ++entries;
  }
  EXPECT_EQ(entries, 2u);
  disk.empty();
  write_file_atomic(path, std::string(20 << 10, 'n'));
  EXPECT_EQ(read_file(path).size(), 20u << 10);
}

TEST_F(Files, AReadOnlyFolderIsAnErrorAlsoForRoot) {
  write_file_atomic(at("f"), "old");
  const testing::ReadOnlyFolder frozen(folder_.string());
  if (!frozen.mounted()) GTEST_SKIP() << frozen.reason();
  expect_contains(write_error([&] { write_file_atomic(at("f"), "new"); }), "Read-only file system");
  expect_contains(
      write_error([&] { write_folder_atomic(folder_.string(), "d", [](const std::string&) {}); }),
      "Read-only file system");
  EXPECT_EQ(read_file(at("f")), "old");
}

TEST_F(Files, AVanishedParentIsNotMadeAnew) {
  expect_contains(
      write_error([&] { write_folder_atomic(at("run/checkpoints"), "d", [](const auto&) {}); }),
      "No such file or directory");
  EXPECT_EQ(names(), Lines{});
}

TEST_F(Files, AppendedRecordsAreWholeOrAbsent) {
  const testing::SmallDisk disk(64 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  const std::string path = disk.folder() + "/log";
  AppendFile log(path);
  log.append("one\n");
  EXPECT_EQ(read_file(path), "one\n") << "readable while it is open";
  disk.fill(0);
  std::string written = "one\n";
  const std::string message = write_error([&] {
    for (int i = 0; i < 10; ++i) {
      log.append(std::string(3000, static_cast<char>('0' + i)));
      written += std::string(3000, static_cast<char>('0' + i));
    }
  });
  expect_contains(message, "log: cannot be written: No space left on device");
  EXPECT_EQ(read_file(path), written);
  disk.empty();
  log.append("two\n");
  EXPECT_EQ(read_file(path), written + "two\n");
  AppendFile(path).append("three\n");
  EXPECT_EQ(read_file(path), written + "two\nthree\n") << "goes on behind what is there";
}

TEST_F(Files, AppendingToARemovedOrReplacedFileIsAnError) {
  AppendFile log(at("log"));
  log.append("one\n");
  fs::rename(at("log"), at("moved"));
  expect_contains(write_error([&] { log.append("two\n"); }), "log: was removed or replaced");
  put("log", "another");
  expect_contains(write_error([&] { log.append("two\n"); }), "log: was removed or replaced");
  EXPECT_EQ(read_file(at("moved")), "one\n");
  EXPECT_EQ(read_file(at("log")), "another");
  expect_contains(write_error([&] { AppendFile(at("no/log")); }), "cannot be opened");
}

TEST(BytesText, HasAUnit) {
  EXPECT_EQ(bytes_text(17), "17 bytes");
  EXPECT_EQ(bytes_text(410999), "410 kB");
  EXPECT_EQ(bytes_text(12345678), "12.3 MB");
}

TEST_F(Files, PlainLines) {
  EXPECT_EQ(lines_of(put("a", "one\ntwo\r\n\nlast")), (Lines{"one", "two", "", "last"}));
  EXPECT_EQ(lines_of(put("b", "one\n")), (Lines{"one"}));
  EXPECT_EQ(lines_of(put("c", "")), Lines{});
  EXPECT_EQ(lines_of(put("d", "\n\n")), (Lines{"", ""}));
  EXPECT_EQ(lines_of(put("e", "a\r\r\nb\rc")), (Lines{"a\r", "b\rc"}));
  EXPECT_EQ(lines_of(put("f", std::string("a\0b\n", 4))), (Lines{std::string("a\0b", 3)}));
  EXPECT_EQ(lines_of(put("g", "\x1f")), (Lines{"\x1f"}));  // half of the gzip magic
  const std::string wide(700000, 'w');                     // over two chunks
  EXPECT_EQ(lines_of(put("h", wide + "\n" + wide)), (Lines{wide, wide}));
  expect_contains(data_error([&] { lines_of(at("absent")); }), "absent: cannot be opened");
}

TEST_F(Files, LineLimitNamesTheLine) {
  EXPECT_EQ(lines_of(put("a", "ok\n12345\n"), 5).size(), 2u);
  expect_contains(data_error([&] { lines_of(put("b", "ok\n123456\n"), 5); }),
                  "b:2: the line is longer than 5 bytes");
  expect_contains(data_error([&] { lines_of(put("c", std::string(600000, 'x')), 1000); }),
                  "c:1: the line is longer");
  expect_contains(
      data_error([&] { lines_of(put_gzip("d.gz", {"a\n" + std::string(600000, 'x')}), 1000); }),
      "d.gz:2: ");
}

TEST_F(Files, GzipLines) {
  EXPECT_EQ(lines_of(put_gzip("a.gz", {"one\ntwo\r\nlast"})), (Lines{"one", "two", "last"}));
  EXPECT_EQ(lines_of(put_gzip("b.gz", {"one\ntw", "", "o\n", "three"})),
            (Lines{"one", "two", "three"}));
  EXPECT_EQ(lines_of(put_gzip("c.gz", {""})), Lines{});
  std::string many;
  for (int i = 0; i < 200000; ++i) many += "line " + std::to_string(i * 7919) + "\n";
  put_gzip("d", {many});  // found by its magic, not by its name
  const Lines lines = lines_of(at("d"));
  ASSERT_EQ(lines.size(), 200000u);
  EXPECT_EQ(lines[199999], "line " + std::to_string(199999 * 7919));
  std::ofstream(at("a.gz"), std::ios::binary | std::ios::app) << std::string(512, '\0');
  EXPECT_EQ(lines_of(at("a.gz")).size(), 3u);  // padding
}

TEST_F(Files, DamagedGzip) {
  std::string many;
  for (int i = 0; i < 100000; ++i) many += "line " + std::to_string(i * 7919 % 104729) + "\n";
  put_gzip("whole.gz", {many});
  const std::string whole = read_file(at("whole.gz"));
  ASSERT_GT(whole.size(), 200000u);
  // A cut anywhere: in the header, the data, the checksum, the length.
  for (const size_t size :
       {size_t{3}, size_t{9}, size_t{12}, whole.size() / 2, whole.size() - 8, whole.size() - 1}) {
    put("cut.gz", whole.substr(0, size));
    expect_contains(data_error([&] { lines_of(at("cut.gz")); }),
                    "the gzip file ends too early; it is truncated");
  }
  expect_contains(data_error([&] { lines_of(put("half.gz", whole + whole.substr(0, 1000))); }),
                  "half.gz:10");
  std::string flipped = whole;
  flipped[whole.size() - 6] ^= 1;  // the checksum
  expect_contains(data_error([&] { lines_of(put("crc.gz", flipped)); }),
                  "the gzip data is corrupt (incorrect data check)");
  expect_contains(data_error([&] { lines_of(put("tail.gz", whole + "garbage")); }),
                  "goes on with other data");
  expect_contains(
      data_error([&] { lines_of(put("tail0.gz", whole + std::string(3, '\0') + "x")); }),
      "other data");
  expect_contains(
      data_error([&] { lines_of(put("method.gz", "\x1f\x8b\x07" + std::string(30, '\1'))); }),
      "corrupt");
}

TEST_F(Files, ProgressReachesTheTotalAndCallbacksMayThrow) {
  put_gzip("a.gz", {std::string(5000, 'a') + "\nb\n"});
  int64_t last = 0, size = 0;
  for_each_line(
      at("a.gz"), [](int64_t, const std::string&) {},
      [&](int64_t done, int64_t total) {
        EXPECT_GE(done, last);
        last = done;
        size = total;
      });
  EXPECT_EQ(last, static_cast<int64_t>(fs::file_size(at("a.gz"))));
  EXPECT_EQ(size, last);
  EXPECT_THROW(
      for_each_line(at("a.gz"), [](int64_t, const std::string&) { throw DataError("stop"); }),
      DataError);
}

}  // namespace
}  // namespace dsrsq
