#include "dsrsq/core/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <unordered_map>

#include "descriptor.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/json.h"

namespace dsrsq {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and is mapped as it is");

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // for writing only: its look-up is linear

// The reference implementation grants a header 100 MB, and any number of tensors: a file of that
// size then costs gigabytes. The largest published models have some thousand tensors.
constexpr uint64_t kMaximumHeader = uint64_t{16} << 20;
constexpr size_t kMaximumTensors = 100'000;
constexpr size_t kMaximumRank = 8;
constexpr size_t kAlignment = 64;
constexpr const char* kMetadata = "__metadata__";

struct TypeRow {
  ScalarType type;
  const char* name;
  size_t bytes;
};
constexpr TypeRow kTypes[] = {{ScalarType::kF64, "F64", 8}, {ScalarType::kF32, "F32", 4},
                              {ScalarType::kF16, "F16", 2}, {ScalarType::kBF16, "BF16", 2},
                              {ScalarType::kI64, "I64", 8}, {ScalarType::kI32, "I32", 4},
                              {ScalarType::kI16, "I16", 2}, {ScalarType::kI8, "I8", 1},
                              {ScalarType::kU8, "U8", 1},   {ScalarType::kBool, "BOOL", 1}};

const TypeRow& row_of(ScalarType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row;
  }
  throw std::logic_error("unknown ScalarType");
}

// product(shape) * itemsize; nothing where a dimension is negative or the product leaves 64 bits.
std::optional<uint64_t> byte_count(const std::vector<int64_t>& shape, size_t item) {
  uint64_t bytes = item;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    const auto size = static_cast<uint64_t>(dim);
    if (size != 0 && bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / size)
      return std::nullopt;
    bytes *= size;
  }
  return bytes;
}

[[noreturn]] void fail_write(const std::string& path, const std::string& what) {
  throw Error(ExitCode::kInternal, concat(path, ": cannot write safetensors: ", what));
}

void check_views(const std::string& path, const std::vector<TensorView>& tensors) {
  if (tensors.size() > kMaximumTensors)
    fail_write(path, concat(tensors.size(), " tensors; at most ", kMaximumTensors));
  std::set<std::string> names;
  for (const TensorView& view : tensors) {
    if (view.name == kMetadata || !names.insert(view.name).second) {
      fail_write(path, concat("the name ", quote(view.name), " is reserved or given twice"));
    }
    const std::optional<uint64_t> bytes = byte_count(view.shape, scalar_bytes(view.type));
    if (view.shape.size() > kMaximumRank || !bytes || *bytes != view.bytes) {
      fail_write(path, concat(quote(view.name), " has ", view.bytes,
                              " bytes, which do not match its shape and type"));
    }
    if (view.data == nullptr && view.bytes > 0)
      fail_write(path, concat(quote(view.name), " has no data"));
  }
}

std::string header_text(const std::string& path, const std::vector<const TensorView*>& order,
                        const std::map<std::string, std::string>& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t offset = 0;
  for (const TensorView* view : order) {
    header[view->name] = {{"dtype", scalar_name(view->type)},
                          {"shape", view->shape},
                          {"data_offsets", {offset, offset + view->bytes}}};
    offset += view->bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    fail_write(path, concat("a name or metadata value is not UTF-8: ", error.what()));
  }
  text.append((kAlignment - (8 + text.size()) % kAlignment) % kAlignment, ' ');
  if (text.size() > kMaximumHeader)
    fail_write(path, concat("the header is over ", kMaximumHeader, " bytes"));
  return text;
}

}  // namespace

size_t scalar_bytes(ScalarType type) { return row_of(type).bytes; }
const char* scalar_name(ScalarType type) { return row_of(type).name; }

void write_safetensors(const std::string& path, const std::vector<TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_views(path, tensors);
  // Wide types first: the format allows no gaps, and so every tensor is still aligned to its own
  // item size.
  std::vector<const TensorView*> order;
  for (const TensorView& view : tensors) order.push_back(&view);
  std::stable_sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    return scalar_bytes(a->type) > scalar_bytes(b->type);
  });
  const std::string header = header_text(path, order, metadata);
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file.is_open()) throw_write_error(path, "cannot be created", errno);
  const uint64_t size = header.size();
  write_all(file.get(), &size, sizeof(size), path);
  write_all(file.get(), header.data(), header.size(), path);
  for (const TensorView* view : order) write_all(file.get(), view->data, view->bytes, path);
  sync_descriptor(file.get(), path);
  if (const int error = file.close()) throw_write_error(path, "cannot be written", error);
}

struct SafetensorsFile::Impl {
  explicit Impl(const std::string& file_path) : path(file_path) {}
  ~Impl() {
    if (mapping != nullptr) munmap(mapping, size);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(concat(path, ": not a valid safetensors file: ", what));
  }

  void map_file();
  Json parse_header(const char* begin, const char* end) const;
  TensorView read_tensor(const std::string& name, const Json& entry, const char* data,
                         uint64_t data_bytes) const;
  std::vector<int64_t> read_shape(const std::string& name, const Json& entry) const;
  void read_metadata(const Json& entry);
  void check_layout(uint64_t data_bytes, const char* data);
  void open_and_validate();

  std::string path;
  void* mapping = nullptr;
  size_t size = 0;
  std::vector<TensorView> tensors;
  std::unordered_map<std::string, size_t> index;
  std::map<std::string, std::string> metadata;
};

void SafetensorsFile::Impl::map_file() {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open())
    throw CheckpointError(concat(path, ": cannot be opened: ", error_text(errno)));
  struct stat status {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) fail("it is not a regular file");
  size = static_cast<size_t>(status.st_size);
  if (size < 8) fail(concat("it has ", size, " bytes; the header length alone has 8"));
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED)
    throw CheckpointError(concat(path, ": cannot be mapped: ", error_text(errno)));
  mapping = mapped;
}

Json SafetensorsFile::Impl::parse_header(const char* begin, const char* end) const {
  constexpr JsonLimits kLimits{/*depth=*/4,
                               /*values=*/int64_t{kMaximumTensors * (6 + kMaximumRank)}};
  try {
    return parse_json({begin, static_cast<size_t>(end - begin)}, kLimits);
  } catch (const JsonError& error) {
    fail(concat("the header: ", error.what()));
  }
}

std::vector<int64_t> SafetensorsFile::Impl::read_shape(const std::string& name,
                                                       const Json& entry) const {
  const Json& dims = entry.at("shape");
  if (!dims.is_array()) fail(concat(quote(name), ": shape is not a list"));
  if (dims.size() > kMaximumRank)
    fail(concat(quote(name), ": rank ", dims.size(), " is over ", kMaximumRank));
  std::vector<int64_t> shape;
  for (const Json& dim : dims) {
    if (!dim.is_number_unsigned() ||
        dim.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
      fail(concat(quote(name), ": dimension ", dim.dump(), " is not a count"));
    }
    shape.push_back(static_cast<int64_t>(dim.get<uint64_t>()));
  }
  return shape;
}

TensorView SafetensorsFile::Impl::read_tensor(const std::string& name, const Json& entry,
                                              const char* data, uint64_t data_bytes) const {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    fail(concat(quote(name), ": expected exactly dtype, shape and data_offsets"));
  }
  TensorView view;
  view.name = name;
  const Json& dtype = entry.at("dtype");
  const auto* row = std::find_if(std::begin(kTypes), std::end(kTypes),
                                 [&](const TypeRow& r) { return dtype == r.name; });
  if (row == std::end(kTypes)) fail(concat(quote(name), ": unknown dtype ", dtype.dump()));
  view.type = row->type;
  view.shape = read_shape(name, entry);
  const Json& offsets = entry.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    fail(concat(quote(name), ": data_offsets is not [begin, end]"));
  }
  const auto begin = offsets[0].get<uint64_t>();
  const auto end = offsets[1].get<uint64_t>();
  if (begin > end || end > data_bytes) {
    fail(concat(quote(name), ": offsets ", begin, " to ", end, " leave the ", data_bytes,
                " bytes of data; is the file truncated?"));
  }
  const std::optional<uint64_t> bytes = byte_count(view.shape, row->bytes);
  if (!bytes || *bytes != end - begin) {
    fail(concat(quote(name), ": ", end - begin, " bytes of data do not match its shape and dtype"));
  }
  view.data = data + begin;
  view.bytes = static_cast<size_t>(end - begin);
  return view;
}

void SafetensorsFile::Impl::read_metadata(const Json& entry) {
  if (!entry.is_object()) fail("__metadata__ is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) fail(concat("__metadata__ ", quote(key), " is not text"));
    metadata[key] = value.get<std::string>();
  }
}

// Sorted by place, the tensors must cover the data exactly: nothing hides in a gap, nothing is
// shared.
void SafetensorsFile::Impl::check_layout(uint64_t data_bytes, const char* data) {
  const auto begin_of = [&](const TensorView& view) {
    return static_cast<uint64_t>(static_cast<const char*>(view.data) - data);
  };
  std::stable_sort(tensors.begin(), tensors.end(), [&](const TensorView& a, const TensorView& b) {
    return begin_of(a) != begin_of(b) ? begin_of(a) < begin_of(b) : a.bytes < b.bytes;
  });
  uint64_t expected = 0;
  for (const TensorView& view : tensors) {
    const uint64_t begin = begin_of(view);
    if (begin != expected) {
      fail(concat(quote(view.name), " begins at ", begin, "; expected ", expected,
                  begin < expected ? " (overlap)" : " (gap)"));
    }
    expected = begin + view.bytes;
  }
  if (expected != data_bytes)
    fail(concat("the tensors end at ", expected, " of ", data_bytes, " bytes of data"));
  for (size_t i = 0; i < tensors.size(); ++i) index[tensors[i].name] = i;
}

void SafetensorsFile::Impl::open_and_validate() {
  map_file();
  const char* base = static_cast<const char*>(mapping);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, base, sizeof(header_bytes));
  if (header_bytes > kMaximumHeader || header_bytes > size - 8) {
    fail(concat("the header length ", header_bytes, " is over the file's ", size, " bytes or over ",
                kMaximumHeader));
  }
  if (header_bytes == 0 || base[8] != '{') fail("the header does not begin with '{'");
  const Json header = parse_header(base + 8, base + 8 + header_bytes);
  const char* data = base + 8 + header_bytes;
  const uint64_t data_bytes = size - 8 - header_bytes;
  if (header.size() > kMaximumTensors)
    fail(concat(header.size(), " tensors; at most ", kMaximumTensors));
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) {
      read_metadata(entry);
    } else {
      tensors.push_back(read_tensor(name, entry, data, data_bytes));
    }
  }
  check_layout(data_bytes, data);
}

SafetensorsFile::SafetensorsFile(const std::string& path) : impl_(std::make_unique<Impl>(path)) {
  impl_->open_and_validate();
}

SafetensorsFile::~SafetensorsFile() = default;

const std::vector<TensorView>& SafetensorsFile::tensors() const { return impl_->tensors; }

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? nullptr : &impl_->tensors[found->second];
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->metadata;
}

}  // namespace dsrsq
