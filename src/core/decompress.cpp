#include "decompress.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

constexpr size_t kChunk = size_t{1} << 16;
// The window is memory that a frame's header asks for. 2^27 = 128 MiB is what `zstd -d` grants
// without being asked; only `zstd --long=28` and more exceed it.
constexpr int kMaximumWindowLog = 27;

bool is_zstd_magic(std::string_view head) {
  const bool frame = head == "\x28\xb5\x2f\xfd";
  const bool skippable = (static_cast<unsigned char>(head[0]) & 0xf0) == 0x50 &&
                         head.substr(1) == "\x2a\x4d\x18";  // RFC 8878, 3.1.2
  return frame || skippable;
}

// What both formats share: the output buffer, the limit and the messages.
class Unpacker : public Decompressor {
 public:
  Unpacker(const char* format, ByteSink& sink, uint64_t maximum)
      : format_(format), sink_(sink), maximum_(maximum), out_(kChunk, '\0') {}

 protected:
  void deliver(size_t size) {
    if (size > maximum_ - unpacked_) {
      throw DataError(concat(sink_.where(), ": the ", format_, " data unpacks to more than ",
                             maximum_, " bytes; if it is meant to, split or unpack the file"));
    }
    unpacked_ += size;
    sink_.add(out_.data(), size);
  }
  [[noreturn]] void fail_truncated() const {
    throw DataError(concat(sink_.where(), ": the ", format_,
                           " file ends too early; it is truncated, fetch it again"));
  }
  [[noreturn]] void fail_other_data() const {
    throw DataError(concat(sink_.where(), ": the ", format_,
                           " file goes on with other data after its end; fetch it again"));
  }
  [[noreturn]] void fail_corrupt(const char* reason) const {
    throw DataError(concat(sink_.where(), ": the ", format_, " data is corrupt (", reason,
                           "); fetch the file again"));
  }

  const char* format_;
  ByteSink& sink_;
  uint64_t maximum_;
  uint64_t unpacked_ = 0;
  std::string out_;
};

class Gunzip : public Unpacker {
 public:
  Gunzip(ByteSink& sink, uint64_t maximum) : Unpacker("gzip", sink, maximum) {
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK)
      throw Error(ExitCode::kInternal, "zlib cannot be started");
  }
  ~Gunzip() override { inflateEnd(&stream_); }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  void add(const char* bytes, size_t size) override {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes));
    stream_.avail_in = static_cast<uInt>(size);
    while (stream_.avail_in > 0 && !sink_.done()) {
      if (between_members_ && !start_member()) return;
      inflate_some();
    }
  }

  void finish() override {
    if (!between_members_) fail_truncated();
  }

 private:
  // Zero bytes after a member are padding, as gzip itself has it. False where the input is used up.
  bool start_member() {
    while (stream_.avail_in > 0 && members_ > 0 && *stream_.next_in == 0) {
      padding_ = true;
      ++stream_.next_in;
      --stream_.avail_in;
    }
    if (stream_.avail_in == 0) return false;
    if (padding_ || (members_ > 0 && *stream_.next_in != 0x1f)) fail_other_data();
    inflateReset(&stream_);
    between_members_ = false;
    return true;
  }

  void inflate_some() {
    int result = Z_OK;
    do {
      stream_.next_out = reinterpret_cast<Bytef*>(out_.data());
      stream_.avail_out = static_cast<uInt>(out_.size());
      result = inflate(&stream_, Z_NO_FLUSH);
      deliver(out_.size() - stream_.avail_out);
    } while (result == Z_OK && stream_.avail_out == 0 && !sink_.done());
    if (result == Z_STREAM_END) {
      between_members_ = true;
      ++members_;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      fail_corrupt(stream_.msg != nullptr ? stream_.msg : "unknown reason");
    }
  }

  z_stream stream_{};
  bool between_members_ = true;
  bool padding_ = false;
  int64_t members_ = 0;
};

class Unzstd : public Unpacker {
 public:
  Unzstd(ByteSink& sink, uint64_t maximum)
      : Unpacker("zstd", sink, maximum), context_(ZSTD_createDCtx(), ZSTD_freeDCtx) {
    if (!context_ || ZSTD_isError(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax,
                                                         kMaximumWindowLog)))
      throw Error(ExitCode::kInternal, "libzstd cannot be started");
  }

  void add(const char* bytes, size_t size) override {
    while (size > 0 && !sink_.done()) {
      if (!in_frame_ && !start_frame(bytes, size)) return;
      const size_t used = unpack_some(bytes, size);
      bytes += used;
      size -= used;
    }
  }

  void finish() override {
    if (in_frame_ || !head_.empty()) fail_truncated();
  }

 private:
  // Takes the magic itself, so that a frame of the old formats, which Debian's library would unpack
  // too, is refused. False where the input is used up before the magic is whole.
  bool start_frame(const char*& bytes, size_t& size) {
    const size_t taken = std::min(size, kMagicBytes - head_.size());
    head_.append(bytes, taken);
    bytes += taken;
    size -= taken;
    if (head_.size() < kMagicBytes) return false;
    if (!is_zstd_magic(head_)) fail_other_data();
    in_frame_ = true;
    unpack_some(head_.data(), head_.size());
    head_.clear();
    return true;
  }

  // Up to the end of the input or of the frame. Returns how much of the input was used.
  size_t unpack_some(const char* bytes, size_t size) {
    ZSTD_inBuffer in{bytes, size, 0};
    ZSTD_outBuffer out{out_.data(), out_.size(), 0};
    do {
      out.pos = 0;
      const size_t result = ZSTD_decompressStream(context_.get(), &out, &in);
      if (ZSTD_isError(result)) fail(result);
      deliver(out.pos);
      if (result == 0) {
        in_frame_ = false;
        break;
      }
      // A full buffer: there may be more.
    } while ((in.pos < in.size || out.pos == out.size) && !sink_.done());
    return in.pos;
  }

  [[noreturn]] void fail(size_t result) const {
    if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge) {
      throw DataError(concat(sink_.where(), ": the zstd data needs a window of more than ",
                             (1 << kMaximumWindowLog) >> 20,
                             " MiB; pack it again with --long=", kMaximumWindowLog, " or less"));
    }
    fail_corrupt(ZSTD_getErrorName(result));
  }

  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context_;
  std::string head_;  // of a magic that the input has cut
  bool in_frame_ = false;
};

}  // namespace

Compression compression_of(std::string_view head) {
  if (head.substr(0, 2) == "\x1f\x8b") return Compression::kGzip;
  if (head.size() >= kMagicBytes && is_zstd_magic(head.substr(0, kMagicBytes)))
    return Compression::kZstd;
  return Compression::kNone;
}

std::unique_ptr<Decompressor> make_decompressor(Compression compression, ByteSink& sink,
                                                uint64_t maximum_bytes) {
  if (compression == Compression::kGzip) return std::make_unique<Gunzip>(sink, maximum_bytes);
  if (compression == Compression::kZstd) return std::make_unique<Unzstd>(sink, maximum_bytes);
  return nullptr;
}

}  // namespace dsrsq
