#include "dsrsq/data/history_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "core/descriptor.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"

namespace dsrsq {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and is mapped as it is");

constexpr char kMagic[8] = {'D', 'S', 'R', 'S', 'Q', 'H', 'I', 'S'};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 4096;
constexpr size_t kAlignment = 64;
constexpr size_t kHexDigits = 64;
constexpr int64_t kMaximumWidth = 1 << 16, kMaximumBlockTokens = 1 << 20;

struct FileHeader {
  char magic[8];
  uint32_t version;
  uint32_t width;
  uint32_t block_tokens;
  char weights[kHexDigits];
  uint32_t checksum;  // of all before it
};

struct BlockHeader {
  uint64_t number;
  uint64_t first;
  uint64_t document;
  uint32_t tokens;
  uint32_t checksum;  // of the block with 0 in its place, begun with the file header's
  uint64_t reserved[4];
};
static_assert(sizeof(BlockHeader) == kAlignment);

uint32_t crc(uint32_t begin, const void* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(begin, static_cast<const Bytef*>(data), size));
}

size_t block_size(const HistoryLayout& layout) {
  const auto tokens = static_cast<size_t>(layout.block_tokens);
  const size_t size = sizeof(BlockHeader) + tokens * sizeof(int32_t) +
                      tokens * static_cast<size_t>(layout.width) * sizeof(float);
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

FileHeader header_of(const HistoryLayout& layout) {
  FileHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.width = static_cast<uint32_t>(layout.width);
  header.block_tokens = static_cast<uint32_t>(layout.block_tokens);
  std::memcpy(header.weights, layout.weights.data(), kHexDigits);
  header.checksum = crc(0, &header, offsetof(FileHeader, checksum));
  return header;
}

}  // namespace

struct HistoryStore::Impl {
  Impl(const std::string& file_path, const HistoryLayout& wanted)
      : path(file_path),
        layout(wanted),
        block_bytes(block_size(wanted)),
        file(open(file_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {}
  ~Impl() { unmap(); }

  void open_file();
  void make_file();
  void check_header() const;
  void verify();
  std::string block_damage(int64_t number) const;
  void cut(int64_t kept_blocks);
  void map(size_t bytes) const;
  void unmap() const;
  const char* at(int64_t number) const;
  const BlockHeader& header_at(int64_t number) const {
    return *reinterpret_cast<const BlockHeader*>(at(number));
  }
  size_t end_of(int64_t number) const {
    return kHeaderBytes + static_cast<size_t>(number) * block_bytes;
  }

  std::string path;
  HistoryLayout layout;
  size_t block_bytes;
  Descriptor file;
  uint32_t seed = 0;  // the file header's checksum: a block of another store does not verify
  int64_t blocks = 0, tokens = 0, lost_bytes = 0;
  std::vector<char> buffer;  // one block
  mutable char* mapping = nullptr;
  mutable size_t mapped = 0;
};

void HistoryStore::Impl::open_file() {
  if (!file.is_open()) throw_write_error(path, "cannot be opened", errno);
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0)
    throw CheckpointError(concat(path,
                                 ": is used by another process; expected a store of this stream's "
                                 "own: stop that process or give another file"));
  struct stat status {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    throw CheckpointError(concat(path, ": is no regular file; expected a history store"));
  buffer.resize(block_bytes);
  seed = header_of(layout).checksum;
  if (status.st_size == 0) return make_file();
  check_header();
  verify();
}

void HistoryStore::Impl::make_file() {
  std::vector<char> bytes(kHeaderBytes, 0);
  const FileHeader header = header_of(layout);
  std::memcpy(bytes.data(), &header, sizeof(header));
  try {
    write_all(file.get(), bytes.data(), bytes.size(), path);
  } catch (const Error&) {
    [[maybe_unused]] const int ignored = ftruncate(file.get(), 0);
    throw;
  }
  sync_descriptor(file.get(), path);
  const auto folder = std::filesystem::path(path).parent_path();
  sync_path(folder.empty() ? "." : folder.string());
}

void HistoryStore::Impl::check_header() const {
  FileHeader found{};
  const ssize_t got = pread(file.get(), &found, sizeof(found), 0);
  if (got < ssize_t{sizeof(kMagic)} || std::memcmp(found.magic, kMagic, sizeof(kMagic)) != 0)
    throw CheckpointError(
        concat(path, ": is no history store; give another file, or remove this one"));
  if (got < ssize_t{sizeof(found)} ||
      crc(0, &found, offsetof(FileHeader, checksum)) != found.checksum)
    throw CheckpointError(concat(path,
                                 ": its header is damaged, so nothing in it can be trusted; put a "
                                 "copy back, or remove it and begin a new history"));
  const auto refuse = [&](const char* what, const auto& expected, const auto& got_value) {
    throw CheckpointError(concat(path, ": the history was made with ", what, " ", got_value,
                                 ", this model has ", expected,
                                 "; give the model that it was made with, or another file"));
  };
  if (found.version != kVersion) refuse("format version", kVersion, found.version);
  const std::string weights(found.weights, kHexDigits);
  if (weights != layout.weights)
    refuse("other weights: their SHA-256 is", layout.weights.substr(0, 12), weights.substr(0, 12));
  if (found.width != layout.width) refuse("dsr.width", layout.width, found.width);
  if (found.block_tokens != layout.block_tokens)
    refuse("segments of", layout.block_tokens, found.block_tokens);
}

void HistoryStore::Impl::map(size_t bytes) const {
  if (bytes <= mapped) return;
  unmap();
  // Room ahead, so that a growing file is not mapped anew for each block. Beyond the end of the
  // file nothing is touched.
  const size_t room = std::max(bytes + bytes / 4, size_t{1} << 26);
  void* place = mmap(nullptr, room, PROT_READ, MAP_SHARED, file.get(), 0);
  if (place == MAP_FAILED)
    throw Error(ExitCode::kCheckpoint, concat(path, ": cannot be mapped: ", error_text(errno)));
  mapping = static_cast<char*>(place);
  mapped = room;
}

void HistoryStore::Impl::unmap() const {
  if (mapping != nullptr) munmap(mapping, mapped);
  mapping = nullptr;
  mapped = 0;
}

const char* HistoryStore::Impl::at(int64_t number) const {
  map(end_of(number + 1));
  return mapping + end_of(number);
}

// "" where the block is whole.
std::string HistoryStore::Impl::block_damage(int64_t number) const {
  const char* bytes = at(number);
  BlockHeader header{};
  std::memcpy(&header, bytes, sizeof(header));
  const uint32_t expected = header.checksum;
  header.checksum = 0;
  const uint32_t begun = crc(seed, &header, sizeof(header));
  if (crc(begun, bytes + sizeof(header), block_bytes - sizeof(header)) != expected)
    return "its checksum does not agree";
  const bool sound = header.number == static_cast<uint64_t>(number) && header.tokens > 0 &&
                     header.tokens <= layout.block_tokens;
  return sound ? "" : "it is not the block of this place";
}

void HistoryStore::Impl::verify() {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) throw_write_error(path, "cannot be read", errno);
  const auto size = static_cast<size_t>(status.st_size);
  const size_t body = size > kHeaderBytes ? size - kHeaderBytes : 0;
  const auto whole = static_cast<int64_t>(body / block_bytes);
  std::string damage;
  for (; blocks < whole && damage.empty(); ++blocks) {
    damage = block_damage(blocks);
    if (!damage.empty()) break;
    tokens += header_at(blocks).tokens;
  }
  if (damage.empty() && body % block_bytes != 0) damage = "it is cut off";
  if (damage.empty() && size >= kHeaderBytes) return;
  lost_bytes = static_cast<int64_t>(size - std::min(size, end_of(blocks)));
  if (size < kHeaderBytes) damage = "the header's padding is cut off";
  log_warning(path, ": block ", blocks, ": ", damage, ": ", tokens, " tokens in the ", blocks,
              " blocks before it are used, ", bytes_text(static_cast<uint64_t>(lost_bytes)),
              " (up to ", (whole - blocks + 1) * layout.block_tokens, " tokens) are lost");
  cut(blocks);
}

void HistoryStore::Impl::cut(int64_t kept_blocks) {
  unmap();
  if (ftruncate(file.get(), static_cast<off_t>(end_of(kept_blocks))) != 0)
    throw_write_error(path, "cannot be cut", errno);
  blocks = kept_blocks;
  sync_descriptor(file.get(), path);
}

HistoryStore::HistoryStore(const std::string& path, const HistoryLayout& layout) {
  const bool sound = layout.width > 0 && layout.width <= kMaximumWidth && layout.block_tokens > 0 &&
                     layout.block_tokens <= kMaximumBlockTokens &&
                     layout.weights.size() == kHexDigits;
  if (!sound) throw Error(ExitCode::kInternal, "history store: the layout is none");
  impl_ = std::make_unique<Impl>(path, layout);
  impl_->open_file();
}

HistoryStore::~HistoryStore() = default;

void HistoryStore::append(int64_t first, int64_t document, const int32_t* ids, const float* vectors,
                          int64_t tokens) {
  auto& own = *impl_;
  if (tokens < 1 || tokens > own.layout.block_tokens || first < end())
    throw Error(ExitCode::kInternal, concat(own.path, ": ", tokens, " tokens from ", first,
                                            " on cannot stand behind ", end()));
  BlockHeader header{};
  header.number = static_cast<uint64_t>(own.blocks);
  header.first = static_cast<uint64_t>(first);
  header.document = static_cast<uint64_t>(document);
  header.tokens = static_cast<uint32_t>(tokens);
  auto& bytes = own.buffer;
  std::fill(bytes.begin(), bytes.end(), 0);
  char* body = bytes.data() + sizeof(header);
  std::memcpy(body, ids, static_cast<size_t>(tokens) * sizeof(int32_t));
  std::memcpy(body + static_cast<size_t>(own.layout.block_tokens) * sizeof(int32_t), vectors,
              static_cast<size_t>(tokens * own.layout.width) * sizeof(float));
  header.checksum =
      crc(crc(own.seed, &header, sizeof(header)), body, bytes.size() - sizeof(header));
  std::memcpy(bytes.data(), &header, sizeof(header));
  const auto place = static_cast<off_t>(own.end_of(own.blocks));
  if (lseek(own.file.get(), place, SEEK_SET) != place)
    throw_write_error(own.path, "cannot be written", errno);
  try {
    write_all(own.file.get(), bytes.data(), bytes.size(), own.path);
  } catch (const Error&) {
    [[maybe_unused]] const int ignored = ftruncate(own.file.get(), place);
    throw;
  }
  ++own.blocks;
  own.tokens += tokens;
}

void HistoryStore::sync() { sync_descriptor(impl_->file.get(), impl_->path); }

void HistoryStore::truncate(int64_t place) {
  int64_t kept = impl_->blocks;
  while (kept > 0 && block(kept - 1).first >= place) impl_->tokens -= block(--kept).tokens;
  if (kept < impl_->blocks) impl_->cut(kept);
}

int64_t HistoryStore::blocks() const { return impl_->blocks; }
int64_t HistoryStore::tokens() const { return impl_->tokens; }

int64_t HistoryStore::end() const {
  if (impl_->blocks == 0) return 0;
  const HistoryBlock last = block(impl_->blocks - 1);
  return last.first + last.tokens;
}

uint64_t HistoryStore::bytes() const { return impl_->end_of(impl_->blocks); }
int64_t HistoryStore::lost_bytes() const { return impl_->lost_bytes; }

HistoryBlock HistoryStore::block(int64_t number) const {
  const auto& own = *impl_;
  const char* bytes = own.at(number);
  const BlockHeader& header = own.header_at(number);
  const char* body = bytes + sizeof(header);
  HistoryBlock block;
  block.first = static_cast<int64_t>(header.first);
  block.document = static_cast<int64_t>(header.document);
  block.tokens = header.tokens;
  block.ids = reinterpret_cast<const int32_t*>(body);
  block.vectors = reinterpret_cast<const float*>(
      body + static_cast<size_t>(own.layout.block_tokens) * sizeof(int32_t));
  return block;
}

const HistoryLayout& HistoryStore::layout() const { return impl_->layout; }
const std::string& HistoryStore::path() const { return impl_->path; }

}  // namespace dsrsq
