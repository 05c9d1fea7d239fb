// The history of one stream on disk (D19): token ids and the retriever's unit vectors E_c, so that
// all of it can be searched at constant memory. Append-only; read through a shared mapping, which
// the kernel may drop at any time: it is no memory of the process's own.
//
//   header, 4096 bytes: "DSRSQHIS", version, width r, tokens of a block S, SHA-256 (hex) of the
//     weights that the vectors were made with, CRC-32 of all this
//   blocks, each as large as a full one: number, first token's place in the stream, document,
//     tokens (1 to S), CRC-32 of the rest of the block and of the header; ids int32 [S], vectors
//     fp32 [S, r]; little-endian, padded to 64 bytes
//
// A block that was cut off, or of which a bit has changed, is not read, nor is what stands behind
// it. So a crash while appending loses at most what was appended after the last sync().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace dsrsq {

struct HistoryLayout {
  int64_t width = 0;         // r
  int64_t block_tokens = 0;  // S, the most that a block holds
  std::string weights;       // 64 lower-case hex digits
};

// Points into the mapping: until the next call of append, truncate or the destructor.
struct HistoryBlock {
  int64_t first = 0;     // place of its first token in the stream, from 0
  int64_t document = 0;  // tokens of different documents are no neighbours
  int64_t tokens = 0;
  const int32_t* ids = nullptr;    // [tokens]
  const float* vectors = nullptr;  // [tokens, r]
};

class HistoryStore {
 public:
  // Opens the file for reading and appending, or makes it; verifies every block. Where one does not
  // verify, it and all behind it are cut off, and a warning says how many bytes and why.
  // Throws CheckpointError where the file is no store, its header is damaged, it was made with
  // another layout or other weights, or another process has it open; Error with
  // ExitCode::kCheckpoint where it cannot be written.
  HistoryStore(const std::string& path, const HistoryLayout& layout);
  ~HistoryStore();
  HistoryStore(const HistoryStore&) = delete;
  HistoryStore& operator=(const HistoryStore&) = delete;

  // One block of 1 to S tokens, which stand behind all that are held: ids [tokens], vectors
  // [tokens, r]. On a full disk nothing of it stays, and NoSpaceError is thrown.
  void append(int64_t first, int64_t document, const int32_t* ids, const float* vectors,
              int64_t tokens);
  void sync();  // to the disk
  // Drops the blocks that begin at or behind `place`: a stream goes on from an earlier state.
  void truncate(int64_t place);

  int64_t blocks() const;
  int64_t tokens() const;                    // in all blocks
  int64_t end() const;                       // place behind the last token that is held; 0: none
  uint64_t bytes() const;                    // of the file
  int64_t lost_bytes() const;                // cut off when it was opened
  HistoryBlock block(int64_t number) const;  // from 0
  const HistoryLayout& layout() const;
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsrsq
