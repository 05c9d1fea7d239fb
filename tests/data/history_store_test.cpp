#include "dsrsq/data/history_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 3, kTokens = 5;
constexpr size_t kHeader = 4096;
constexpr size_t kBlock = 192;  // 64 + 5 ids + 15 numbers, in units of 64 bytes

class HistoryStoreTest : public ::testing::Test {
 protected:
  HistoryStoreTest() {
    std::string pattern = ::testing::TempDir() + "/dsrsq-history-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    folder_ = pattern;
    path_ = folder_ + "/history";
  }
  ~HistoryStoreTest() override { fs::remove_all(folder_); }

  static HistoryLayout layout(char digit = 'a') {
    return {kWidth, kTokens, std::string(64, digit)};
  }
  static int32_t id(int64_t place) { return int32_t(100 + place); }
  static float number(int64_t place, int64_t i) { return 0.25f * float(place) - float(i); }
  // Tokens [first, first + count), ids and numbers of their places.
  static void append(HistoryStore& store, int64_t first, int64_t count, int64_t document = 0) {
    std::vector<int32_t> ids;
    std::vector<float> vectors;
    for (auto place = first; place < first + count; ++place) {
      ids.push_back(id(place));
      for (int64_t i = 0; i < kWidth; ++i) vectors.push_back(number(place, i));
    }
    store.append(first, document, ids.data(), vectors.data(), count);
  }
  // Four blocks: three full ones and one of two tokens, 17 in all.
  void fill() {
    HistoryStore store(path_, layout());
    for (int64_t first : {0, 5, 10}) append(store, first, kTokens);
    append(store, 15, 2, 1);
  }
  static void expect_tokens(const HistoryStore& store, int64_t blocks) {
    ASSERT_EQ(store.blocks(), blocks);
    for (int64_t i = 0; i < blocks; ++i) {
      auto block = store.block(i);
      EXPECT_EQ(block.first, i * kTokens);
      EXPECT_EQ(block.tokens, i < 3 ? kTokens : 2);
      EXPECT_EQ(block.document, i < 3 ? 0 : 1);
      for (int64_t t = 0; t < block.tokens; ++t) {
        EXPECT_EQ(block.ids[t], id(block.first + t));
        for (int64_t w = 0; w < kWidth; ++w)
          EXPECT_EQ(block.vectors[t * kWidth + w], number(block.first + t, w));
      }
    }
  }
  std::string bytes() const { return read_file(path_); }
  void write(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }
  void flip(size_t byte, int bit) const {
    auto all = bytes();
    all.at(byte) = char(all[byte] ^ (1 << bit));
    write(all);
  }
  std::string refusal(const HistoryLayout& wanted) const {
    try {
      HistoryStore store(path_, wanted);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }

  std::string folder_, path_;
};

TEST_F(HistoryStoreTest, HoldsWhatWasAppended) {
  fill();
  EXPECT_EQ(fs::file_size(path_), kHeader + 4 * kBlock);
  HistoryStore store(path_, layout());
  expect_tokens(store, 4);
  EXPECT_EQ(store.tokens(), 17);
  EXPECT_EQ(store.end(), 17);
  EXPECT_EQ(store.bytes(), kHeader + 4 * kBlock);
  EXPECT_EQ(store.lost_bytes(), 0);
  append(store, 20, 3, 2);  // a gap is none of its business
  EXPECT_EQ(store.block(4).first, 20);
  EXPECT_EQ(store.end(), 23);
  EXPECT_THROW(append(store, 22, 1), Error) << "not behind the others";
  EXPECT_THROW(append(store, 30, kTokens + 1), Error);
  EXPECT_THROW(append(store, 30, 0), Error);
}

TEST_F(HistoryStoreTest, GrowsBeyondItsFirstMapping) {
  // 64 MiB are mapped at first.
  HistoryLayout wide{1 << 12, 1 << 10, std::string(64, 'b')};
  std::vector<int32_t> ids(1 << 10);
  std::vector<float> vectors(size_t(1) << 22);
  HistoryStore store(path_, wide);
  for (int64_t i = 0; i < 6; ++i) {
    ids.assign(ids.size(), int32_t(i));
    vectors.assign(vectors.size(), float(i));
    store.append(i << 10, 0, ids.data(), vectors.data(), 1 << 10);
    for (int64_t j = 0; j <= i; ++j) {
      auto block = store.block(j);
      EXPECT_EQ(block.ids[1023], j);
      EXPECT_EQ(block.vectors[(int64_t(1) << 22) - 1], float(j));
    }
  }
}

// Cut at every byte: what was whole stays, nothing half is read, and it can be appended to again.
TEST_F(HistoryStoreTest, ACutOffFileKeepsItsWholeBlocks) {
  fill();
  auto whole = bytes();
  for (size_t size = kHeader; size < whole.size(); size += 13) {
    write(whole.substr(0, size));
    auto kept = int64_t((size - kHeader) / kBlock);
    {
      HistoryStore store(path_, layout());
      expect_tokens(store, kept);
      EXPECT_EQ(store.lost_bytes(), int64_t((size - kHeader) % kBlock)) << size;
      append(store, 15, 2, 1);
    }
    HistoryStore again(path_, layout());
    EXPECT_EQ(again.blocks(), kept + 1);
    EXPECT_EQ(again.lost_bytes(), 0);
  }
}

TEST_F(HistoryStoreTest, AFlippedBitEndsTheGoodPrefix) {
  fill();
  auto whole = bytes();
  for (size_t byte = kHeader; byte < whole.size(); byte += 7) {
    write(whole);
    flip(byte, int(byte % 8));
    auto damaged = int64_t((byte - kHeader) / kBlock);
    ::testing::internal::CaptureStderr();
    HistoryStore store(path_, layout());
    auto said = ::testing::internal::GetCapturedStderr();
    expect_tokens(store, damaged);
    EXPECT_EQ(store.lost_bytes(), int64_t((size_t(4 - damaged)) * kBlock));
    EXPECT_THAT(said, HasSubstr("block " + std::to_string(damaged)));
    EXPECT_THAT(said, HasSubstr("are lost"));
  }
}

TEST_F(HistoryStoreTest, ADamagedHeaderIsRefused) {
  fill();
  auto whole = bytes();
  for (size_t byte = 0; byte < 8 + 12 + 64 + 4; ++byte) {
    write(whole);
    flip(byte, int(byte % 8));
    EXPECT_THAT(refusal(layout()), HasSubstr(path_)) << byte;
    EXPECT_EQ(bytes().size(), whole.size()) << "nothing is cut off a file that cannot be judged";
  }
  write("text");
  EXPECT_THAT(refusal(layout()), HasSubstr("is no history store"));
}

TEST_F(HistoryStoreTest, BlocksOfAnotherPlaceOrStoreAreNotTaken) {
  fill();
  auto whole = bytes();
  auto swapped = whole.substr(0, kHeader) + whole.substr(kHeader + kBlock, kBlock) +
                 whole.substr(kHeader, kBlock);
  write(swapped);
  expect_tokens(HistoryStore(path_, layout()), 0);
  fs::remove(path_);
  { HistoryStore other(path_, layout('c')); }
  write(bytes() + whole.substr(kHeader));
  EXPECT_EQ(HistoryStore(path_, layout('c')).blocks(), 0);
}

TEST_F(HistoryStoreTest, OfOtherWeightsOrShapesIsRefused) {
  fill();
  auto whole = bytes();
  EXPECT_THAT(refusal(layout('f')), HasSubstr("other weights"));
  auto wider = layout();
  wider.width = 4;
  EXPECT_THAT(refusal(wider), HasSubstr("dsr.width 3, this model has 4"));
  auto longer = layout();
  longer.block_tokens = 8;
  EXPECT_THAT(refusal(longer), HasSubstr("segments of 5, this model has 8"));
  EXPECT_EQ(bytes(), whole);
  EXPECT_EQ(CheckpointError("").exit_code(), ExitCode::kCheckpoint);
}

TEST_F(HistoryStoreTest, OneProcessAtATime) {
  HistoryStore store(path_, layout());
  EXPECT_THAT(refusal(layout()), HasSubstr("used by another process"));
}

TEST_F(HistoryStoreTest, GoesBackToAnEarlierState) {
  fill();
  HistoryStore store(path_, layout());
  store.truncate(100);
  expect_tokens(store, 4);
  store.truncate(10);
  expect_tokens(store, 2);
  EXPECT_EQ(store.tokens(), 10);
  EXPECT_EQ(fs::file_size(path_), kHeader + 2 * kBlock);
  append(store, 10, kTokens);
  expect_tokens(store, 3);
  store.truncate(0);
  EXPECT_EQ(store.end(), 0);
}

TEST_F(HistoryStoreTest, AFullDiskLosesOnlyWhatDidNotFit) {
  const testing::SmallDisk disk(256 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  auto path = disk.folder() + "/history";
  int64_t kept = 0;
  {
    HistoryStore store(path, layout());
    EXPECT_THROW(
        while (true) {
          append(store, kept * kTokens, kTokens);
          ++kept;
        },
        NoSpaceError);
    EXPECT_GT(kept, 100);
    EXPECT_EQ(store.blocks(), kept);
  }
  HistoryStore store(path, layout());
  EXPECT_EQ(store.blocks(), kept);
  EXPECT_EQ(store.lost_bytes(), 0);
}

}  // namespace
}  // namespace dsrsq
