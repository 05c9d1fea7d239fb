// The tokenised data set: one HDF5 file that h5py reads (layout: data/README.md). Written as a
// stream in bounded memory, read by hyperslabs, so that neither side ever holds the file. HDF5 is
// not thread-safe: one reader, one thread.
//
//   /documents/tokens   int32 [sum of lengths]     /documents/offsets int64 [documents + 1]
//   /documents/titles_bytes uint8 [sum]                titles_offsets int64 [documents + 1]
//   /records/document   int64 [records]            index of the document; records of a document are
//   consecutive /records/split      uint8 [records]            index into the attribute `splits`
//   /records/{question,id,timestamp}               UTF-8: <name>_bytes uint8 [sum], <name>_offsets
//   int64 [records + 1] /records/answers_bytes, answers_offsets            over all answers;
//   answers_of int64 [records + 1] /records/{evidence,answer_spans}               int64 [spans, 2]
//   half-open TOKEN ranges of the document, <name>_of int64 [records + 1] attributes of / (text of
//   fixed length): format "dsrsq-dataset", version 1, tokenizer_sha256, vocabulary_size, source,
//   splits, command, created
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dsrsq/data/example.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

// Half-open range of token positions of the document.
struct TokenSpan {
  int64_t begin = 0;
  int64_t end = 0;
};

struct StoredRecord {
  int64_t document = 0;
  std::string id;
  std::string question;
  std::vector<std::string> answers;
  std::vector<TokenSpan> evidence;
  std::vector<TokenSpan> answer_spans;
  std::string timestamp;
};

struct StoreInfo {
  int64_t documents = 0;
  int64_t records = 0;
  int64_t tokens = 0;
  int64_t longest_document = 0;
  int64_t vocabulary_size = 0;
  std::string tokenizer_sha256;
  std::string source;
  std::string command;  // the command that made it
  std::string created;  // ISO 8601, UTC
  std::vector<std::string> splits;
  std::vector<int64_t> records_per_split;
};

// Byte spans become the tokens that overlap them. Writes `.tmp-<name>-<pid>` in the same folder
// (what killed processes left of it goes first); finish() renames it to `path` and writes its
// checksum into `<path>.sha256`. A full disk and other failed writes are Errors with
// ExitCode::kCheckpoint; what was there under `path` is then as it was.
class StoreWriter {
 public:
  struct Options {
    std::string source;  // provenance: format and file names
    std::string command;
    std::vector<std::string> splits = {"all"};
  };
  StoreWriter(const std::string& path, const Tokenizer& tokenizer, const Options& options);
  ~StoreWriter();  // without finish(): the temporary file is removed
  // `split` is the index into Options::splits of each question, all questions of a document alike;
  // may be changed by set_splits.
  void add(const DocumentExample& example, uint8_t split = 0);
  int64_t records() const;
  void set_splits(
      const std::vector<uint8_t>& split_of_record);  // all records at once, after the last add
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Store {
 public:
  // Reads the whole file once and compares it with `<path>.sha256` (sha256sum's format) before HDF5
  // sees a byte of it; a file without one is refused with the command that makes one. Throws
  // DataError: another checksum, not a data set, other version, dims that disagree (names the data
  // set).
  //
  // The file stays open: a run goes on when it is removed or replaced by another of its name.
  // record() and document_tokens() throw DataError once its own bytes were changed.
  explicit Store(const std::string& path);
  ~Store();
  const std::string& path() const;
  const StoreInfo& info() const;
  // Throws DataError, "was made with another tokenizer", giving both fingerprints and the command
  // that makes it anew.
  void require_tokenizer(const Tokenizer& tokenizer) const;
  std::vector<int64_t> records_of_split(
      const std::string& split) const;  // throws DataError naming the splits there are
  StoredRecord record(int64_t index) const;
  std::vector<int32_t> document_tokens(int64_t document) const;
  int64_t document_length(int64_t document) const;
  int64_t document_of(int64_t record) const;
  // Every span inside its document, offsets rising, ids below the vocabulary. Throws DataError at
  // the first violation.
  void validate() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsrsq
