#include "dsrsq/data/store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/small_disk.h"

namespace dsrsq {
namespace {

const std::vector<std::string> kWords = {"alpha", "beta", "gamma", "delta"};

Tokenizer make_tokenizer(const std::vector<std::string>& words = kWords) {
  return Tokenizer::from_json(build_word_tokenizer(words, {}), "test tokenizer");
}

Question make_question(const std::string& id, std::vector<ByteSpan> evidence,
                       std::vector<ByteSpan> answer_spans) {
  Question question;
  question.id = id;
  question.text = "question " + id + "?";
  question.answers = {"beta", "größer"};
  question.evidence = std::move(evidence);
  question.answer_spans = std::move(answer_spans);
  question.timestamp = "2026-11-24";
  question.source_line = 3;
  return question;
}

// " alpha beta gamma" with two questions, and a document of bytes (no word of it is a token).
std::vector<DocumentExample> two_documents() {
  DocumentExample words{
      " alpha beta gamma",
      "a title",
      {make_question("a", {{7, 11}}, {}), make_question("b", {{0, 6}, {11, 17}}, {{8, 10}})}};
  DocumentExample bytes{"Zoë", "", {make_question("c", {{2, 4}}, {{0, 1}})}};
  bytes.questions[0].answers.clear();
  return {words, bytes};
}

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              concat("dsrsq-store-", ::getpid(), "-",
                     ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    path_ = folder_ / "data.h5";
    ::setenv("SOURCE_DATE_EPOCH", "1700000000", 1);
  }
  void TearDown() override {
    ::unsetenv("SOURCE_DATE_EPOCH");
    std::filesystem::remove_all(folder_);
  }

  StoreWriter::Options options() const {
    return {"test source", "dsrsq-data prepare x --output y", {"train", "test"}};
  }

  void write_two(const std::string& path) {
    StoreWriter writer(path, tokenizer_, options());
    for (const DocumentExample& example : two_documents()) writer.add(example);
    writer.set_splits({1, 1, 0});
    writer.finish();
  }
  // Replaces the one place where the little-endian bytes of `from` stand in the file.
  template <typename T>
  void patch(const std::vector<T>& from, const std::vector<T>& to) {
    std::string content = read_file(path_);
    const std::string key(reinterpret_cast<const char*>(from.data()), from.size() * sizeof(T));
    const size_t at = content.find(key);
    ASSERT_NE(at, std::string::npos);
    ASSERT_EQ(content.find(key, at + 1), std::string::npos) << "the bytes stand twice";
    std::memcpy(content.data() + at, to.data(), to.size() * sizeof(T));
    write_file_atomic(path_, content);
    trust(path_);
  }
  // The checksum of what stands there now, so that what is behind it is looked at.
  static void trust(const std::string& path) {
    write_file_atomic(path + ".sha256", concat(sha256_file(path), "  data.h5\n"));
  }
  void expect_error(const std::function<void()>& action, const std::string& part) {
    try {
      action();
      ADD_FAILURE() << "no error, expected one with: " << part;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  size_t files_in_folder() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_),
                                             std::filesystem::directory_iterator()));
  }

  std::filesystem::path folder_;
  std::string path_;
  Tokenizer tokenizer_ = make_tokenizer();
};

TEST_F(StoreTest, WhatIsWrittenIsRead) {
  write_two(path_);
  const Store store(path_);
  const StoreInfo& info = store.info();
  EXPECT_EQ(info.documents, 2);
  EXPECT_EQ(info.records, 3);
  EXPECT_EQ(info.tokens, 3 + 4);
  EXPECT_EQ(info.longest_document, 4);
  EXPECT_EQ(info.vocabulary_size, tokenizer_.vocabulary_size());
  EXPECT_EQ(info.source, "test source");
  EXPECT_EQ(info.command, "dsrsq-data prepare x --output y");
  EXPECT_EQ(info.created, "2023-11-14T22:13:20Z");
  EXPECT_EQ(info.splits, (std::vector<std::string>{"train", "test"}));
  EXPECT_EQ(info.records_per_split, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(store.records_of_split("test"), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(store.records_of_split("train"), (std::vector<int64_t>{2}));

  EXPECT_EQ(store.document_tokens(0), tokenizer_.encode(" alpha beta gamma"));
  EXPECT_EQ(store.document_tokens(1), tokenizer_.encode("Zoë"));
  EXPECT_EQ(store.document_length(1), 4);
  const StoredRecord record = store.record(1);
  EXPECT_EQ(record.document, 0);
  EXPECT_EQ(record.id, "b");
  EXPECT_EQ(record.question, "question b?");
  EXPECT_EQ(record.answers, (std::vector<std::string>{"beta", "größer"}));
  EXPECT_EQ(record.timestamp, "2026-11-24");
  EXPECT_EQ(store.document_of(2), 1);
  EXPECT_TRUE(store.record(2).answers.empty());
  EXPECT_TRUE(store.record(0).answer_spans.empty());
  store.validate();
  store.require_tokenizer(tokenizer_);
}

TEST_F(StoreTest, ByteSpansBecomeTheTokensThatOverlapThem) {
  write_two(path_);
  const Store store(path_);
  const auto span_of = [](const TokenSpan& span) { return std::pair(span.begin, span.end); };
  // " alpha" is [0, 6), " beta" [6, 11), " gamma" [11, 17).
  EXPECT_EQ(span_of(store.record(0).evidence.at(0)), std::pair(int64_t{1}, int64_t{2}));
  ASSERT_EQ(store.record(1).evidence.size(), 2u);
  EXPECT_EQ(span_of(store.record(1).evidence[0]), std::pair(int64_t{0}, int64_t{1}));
  EXPECT_EQ(span_of(store.record(1).evidence[1]), std::pair(int64_t{2}, int64_t{3}));
  EXPECT_EQ(span_of(store.record(1).answer_spans.at(0)), std::pair(int64_t{1}, int64_t{2}));
  EXPECT_EQ(span_of(store.record(2).evidence.at(0)),
            std::pair(int64_t{2}, int64_t{4}));  // both bytes of the e
}

TEST_F(StoreTest, ALongCommandIsCutVisibly) {
  StoreWriter::Options long_options = options();
  long_options.command = std::string(29999, 'x') + std::string("\u00e4") + std::string(100000, 'y');
  StoreWriter writer(path_, tokenizer_, long_options);
  writer.add(two_documents()[0]);
  writer.finish();
  EXPECT_EQ(Store(path_).info().command, std::string(29999, 'x') + " ... (cut)");
}

TEST_F(StoreTest, EqualInputGivesEqualBytes) {
  write_two(path_);
  const std::string first = read_file(path_);
  std::filesystem::remove(path_);
  write_two(path_);
  EXPECT_EQ(sha256_hex(first), sha256_file(path_));
}

TEST_F(StoreTest, ManyRecordsCrossTheBuffers) {
  constexpr int64_t kDocuments = 40000;  // over several chunks of every column
  {
    StoreWriter writer(path_, tokenizer_, options());
    for (int64_t i = 0; i < kDocuments; ++i) {
      DocumentExample example{i % 3 == 0 ? " alpha beta" : " gamma beta delta",
                              "",
                              {make_question(std::to_string(i), {{6, 11}}, {})}};
      writer.add(example, static_cast<uint8_t>(i % 2));
    }
    EXPECT_EQ(writer.records(), kDocuments);
    writer.finish();
    EXPECT_EQ(writer.records(), kDocuments);
  }
  const Store store(path_);
  store.validate();
  for (const int64_t i :
       {int64_t{0}, int64_t{4095}, int64_t{4096}, int64_t{32767}, int64_t{32768}, kDocuments - 1}) {
    EXPECT_EQ(store.record(i).id, std::to_string(i));
    EXPECT_EQ(store.document_tokens(i),
              tokenizer_.encode(i % 3 == 0 ? " alpha beta" : " gamma beta delta"));
    EXPECT_EQ(store.record(i).evidence.at(0).begin, 1);
  }
  EXPECT_EQ(store.records_of_split("test").size(), size_t{kDocuments / 2});
}

TEST_F(StoreTest, NothingIsLeftWithoutFinish) {
  {
    StoreWriter writer(path_, tokenizer_, options());
    writer.add(two_documents()[0]);
    EXPECT_EQ(files_in_folder(), 1u);
  }
  EXPECT_EQ(files_in_folder(), 0u);
  write_two(path_);
  EXPECT_EQ(files_in_folder(), 2u) << "the data set and its checksum";
  {  // an unfinished second writer leaves the finished file as it is
    StoreWriter writer(path_, tokenizer_, options());
  }
  EXPECT_EQ(Store(path_).info().records, 3);
}

TEST_F(StoreTest, BadInputToTheWriterIsAnError) {
  StoreWriter writer(path_, tokenizer_, options());
  DocumentExample example = two_documents()[0];
  example.questions[1].evidence = {{5, 18}};
  expect_error([&] { writer.add(example); }, "line 3 (id b): span [5, 18)");
  example.questions[1].evidence = {{5, 5}};
  expect_error([&] { writer.add(example); }, "span [5, 5)");
  expect_error([&] { writer.add({"", "", {}}); }, "the document is empty");
  writer.add(two_documents()[0]);  // the failed calls left nothing behind
  EXPECT_EQ(writer.records(), 2);
  expect_error([&] { writer.set_splits({0}); }, "1 splits were given for 2 records");
  writer.set_splits({0, 1});
  expect_error([&] { writer.finish(); }, "another split");
  writer.set_splits({2, 2});
  expect_error([&] { writer.finish(); }, "has split 2");
  writer.set_splits({1, 1});
  writer.finish();
  Store(path_).validate();
  expect_error([&] { writer.add(two_documents()[0]); }, "finished");
  try {
    StoreWriter(folder_ / "absent" / "x.h5", tokenizer_, options());
    ADD_FAILURE() << "the folder is missing";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
    EXPECT_NE(std::string(error.what()).find("cannot create the file"), std::string::npos);
  }
}

TEST_F(StoreTest, AnotherTokenizerIsRefused) {
  write_two(path_);
  const Tokenizer other = make_tokenizer({"alpha", "beta"});
  expect_error([&] { Store(path_).require_tokenizer(other); }, "was made with another tokenizer");
  expect_error([&] { Store(path_).require_tokenizer(other); }, other.fingerprint());
  expect_error([&] { Store(path_).require_tokenizer(other); }, tokenizer_.fingerprint());
  expect_error([&] { Store(path_).require_tokenizer(other); }, "dsrsq-data prepare x --output y");
}

TEST_F(StoreTest, WrongRequestsNameWhatThereIs) {
  write_two(path_);
  const Store store(path_);
  expect_error([&] { store.records_of_split("dev"); }, "no split \"dev\"; it has train, test");
  expect_error([&] { store.record(3); }, "no record 3, it has 3");
  expect_error([&] { store.record(-1); }, "no record -1");
  expect_error([&] { store.document_tokens(2); }, "no document 2, it has 2");
}

TEST_F(StoreTest, FilesThatAreNoDataSetAreRefused) {
  expect_error([&] { Store(folder_ / "absent.h5"); }, "no such data set");
  write_file_atomic(path_, "not HDF5 at all");
  trust(path_);
  expect_error([&] { Store store(path_); }, "not an HDF5 file");
  std::filesystem::remove(path_);
  write_two(path_);
  // Cut at any place it is an error, never a crash and never a smaller data set.
  constexpr uintmax_t kStep = 1997;
  for (uintmax_t length = std::filesystem::file_size(path_) - 1; length > kStep; length -= kStep) {
    std::filesystem::resize_file(path_, length);
    trust(path_);
    EXPECT_THROW(Store(path_).validate(), DataError) << length;
  }
}

TEST_F(StoreTest, DamagedContentIsFoundByValidate) {
  write_two(path_);
  const std::vector<int32_t> tokens = tokenizer_.encode(" alpha beta gamma");
  patch<int32_t>(tokens, {tokens[0], 1 << 30, tokens[2]});
  expect_error([&] { Store(path_).validate(); }, "/documents/tokens: row 1 is id 1073741824");
  write_two(path_);
  patch<int64_t>({0, 3, 7}, {0, 8, 7});
  expect_error([&] { Store store(path_); }, "/documents/offsets: row 2 is 7 after 8");
  write_two(path_);
  patch<int64_t>({1, 2, 0, 1, 2, 3, 2, 4}, {1, 2, 0, 1, 2, 9, 2, 4});
  expect_error([&] { Store(path_).validate(); },
               "/records/evidence: record 1 has span [2, 9) in a document of 3 tokens");
  write_two(path_);
  patch<int64_t>({0, 0, 1, 0}, {0, 9, 1, 0});  // the column and the zeros behind it
  expect_error([&] { Store(path_).document_of(1); },
               "/records/document: row 1 is 9, there are 2 documents");
}

TEST_F(StoreTest, TheChecksumFileIsThatOfSha256sum) {
  write_two(path_);
  EXPECT_EQ(read_file(path_ + ".sha256"), sha256_file(path_) + "  data.h5\n");
  if (std::system("command -v sha256sum >/dev/null") != 0)
    GTEST_SKIP() << "no sha256sum on this machine";
  const std::string in_folder = concat("cd '", folder_.string(), "' && ");
  EXPECT_EQ(std::system((in_folder + "sha256sum --quiet -c data.h5.sha256").c_str()), 0);
  std::filesystem::remove(path_ + ".sha256");
  ASSERT_EQ(std::system((in_folder + "sha256sum -b data.h5 > data.h5.sha256").c_str()), 0);
  EXPECT_EQ(Store(path_).info().records, 3);
}

TEST_F(StoreTest, WithoutItsChecksumItIsNotOpened) {
  write_two(path_);
  const std::string line = read_file(path_ + ".sha256");
  std::filesystem::remove(path_ + ".sha256");
  expect_error([&] { Store store(path_); }, "has no checksum file");
  expect_error([&] { Store store(path_); }, "&& sha256sum 'data.h5' > 'data.h5.sha256')");
  for (const std::string& text : std::vector<std::string>{
           "", "\n", line.substr(0, 63), line.substr(0, 64), line.substr(0, 64) + " data.h5\n",
           "A" + line.substr(1), line + line, line + "\n", std::string(10000, 'a'),
           std::string("\0", 1) + line}) {
    write_file_atomic(path_ + ".sha256", text);
    expect_error([&] { Store store(path_); }, "data.h5.sha256: ");
  }
  write_file_atomic(path_ + ".sha256", std::string(64, '0') + "  data.h5\n");
  expect_error([&] { Store store(path_); }, "its SHA-256 is " + sha256_file(path_));
  write_file_atomic(path_ + ".sha256", line);
  std::string content = read_file(path_);
  content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 1);
  write_file_atomic(path_, content);
  expect_error([&] { Store store(path_); }, "damaged, cut off or changed; make it anew");
  write_two(path_);
  EXPECT_EQ(Store(path_).info().records, 3) << "a new file brings its own checksum";
}

TEST_F(StoreTest, AnOpenOneGoesOnWhenItIsRemovedOrReplaced) {
  write_two(path_);
  const Store store(path_);
  const std::vector<int32_t> tokens = store.document_tokens(0);
  std::filesystem::remove(path_);
  EXPECT_EQ(store.document_tokens(0), tokens);
  {
    StoreWriter writer(path_, tokenizer_, options());
    writer.add(two_documents()[1]);
    writer.finish();
  }
  EXPECT_EQ(store.document_tokens(0), tokens);
  EXPECT_EQ(store.record(1).question, "question b?");
  EXPECT_EQ(Store(path_).info().records, 1);
}

TEST_F(StoreTest, AnOpenOneWhoseBytesChangeIsAnError) {
  const auto overwrite = [&](const std::string& text, std::ios::openmode mode) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary | mode);
    file.seekp(100);
    file << text;
  };
  write_two(path_);
  {
    const Store store(path_);
    overwrite("x", {});
    expect_error([&] { store.document_tokens(0); }, "data.h5: was changed while it was in use");
    expect_error([&] { store.record(0); }, "was changed while it was in use");
  }
  write_two(path_);
  {
    const Store store(path_);
    std::filesystem::resize_file(path_, 50);
    expect_error([&] { store.document_tokens(0); }, "50 now");
    expect_error([&] { store.record(0); }, "put the verified file back");
  }
}

TEST_F(StoreTest, WhatKilledWritersLeftGoesAtTheNextStart) {
  write_file_atomic(folder_ / ".tmp-data.h5-999999999", "left by a killed process");
  write_file_atomic(folder_ / ".tmp-other.h5-999999999", "of another data set");
  const std::string alive = folder_ / concat(".tmp-data.h5-", ::getppid());
  write_file_atomic(alive, "of a process that runs");
  StoreWriter writer(path_, tokenizer_, options());
  EXPECT_FALSE(std::filesystem::exists(folder_ / ".tmp-data.h5-999999999"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / ".tmp-other.h5-999999999"));
  EXPECT_TRUE(std::filesystem::exists(alive));
}

TEST_F(StoreTest, AFullDiskLeavesTheOldDataSetAndNothingHalfWritten) {
  const dsrsq::testing::SmallDisk disk(4 << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.reason();
  const std::string path = disk.folder() + "/data.h5";
  write_two(path);
  const std::string before = sha256_file(path);
  std::string message;
  try {
    StoreWriter writer(path, tokenizer_, options());
    for (int i = 0; i < 200000; ++i) writer.add(two_documents()[0]);
    writer.finish();
  } catch (const NoSpaceError& error) {
    message = error.what();
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
  }
  EXPECT_NE(message.find(path + ": cannot "), std::string::npos) << message;
  EXPECT_NE(message.find("the disk is full ("), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_EQ(sha256_file(path), before);
  EXPECT_EQ(Store(path).info().records, 3);
  for (const auto& entry : std::filesystem::directory_iterator(disk.folder()))
    EXPECT_EQ(entry.path().filename().string().rfind("data.h5", 0), 0u) << entry.path();
}

}  // namespace
}  // namespace dsrsq
