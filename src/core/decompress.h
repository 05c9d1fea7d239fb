// Internal: gzip and zstd streams, unpacked piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace dsrsq {

enum class Compression { kNone, kGzip, kZstd };

constexpr size_t kMagicBytes = 4;  // what compression_of needs to see; fewer at the end of a file
Compression compression_of(std::string_view head);

// Where unpacked bytes go. `where` names the place that they have reached, for messages.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual void add(const char* bytes, size_t size) = 0;
  virtual std::string where() const = 0;
  virtual bool done() const { return false; }  // wants no more
};

// Gzip members or zstd frames (and skippable frames), one after another. Every method throws
// DataError that begins with the sink's place.
class Decompressor {
 public:
  virtual ~Decompressor() = default;
  virtual void add(const char* bytes, size_t size) = 0;
  virtual void finish() = 0;  // the file's end: a stream that is still open is an error
};

// The sink gets at most `maximum_bytes`; more is an error. Nullptr for kNone.
std::unique_ptr<Decompressor> make_decompressor(Compression compression, ByteSink& sink,
                                                uint64_t maximum_bytes);

}  // namespace dsrsq
