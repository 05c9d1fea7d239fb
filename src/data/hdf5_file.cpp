#include "hdf5_file.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq::hdf5 {
namespace {

// Tokens are read in runs of documents, the other columns a few values at a time.
template <typename T>
constexpr int64_t kChunkElements = (std::is_same_v<T, int32_t> ? 1 << 17 : 1 << 15) /
                                   static_cast<int64_t>(sizeof(T));
constexpr int64_t kMaximumChunkBytes =
    int64_t{64} << 20;  // a forged chunk size would be allocated as it stands
constexpr int64_t kMaximumElements = int64_t{1} << 42;
constexpr int64_t kMaximumStrings = 256;
constexpr size_t kMaximumStringBytes = 1 << 16;  // HDF5's limit for an attribute

herr_t keep_first_reason(unsigned n, const H5E_error2_t* error, void* out) {
  auto* reason = static_cast<std::string*>(out);
  if (n == 0 && error->desc != nullptr) *reason = error->desc;
  return 0;
}

Handle creation_list(hid_t list_class) {
  Handle list = checked(H5Pcreate(list_class), "HDF5", "create a property list");
  check(H5Pset_obj_track_times(list.get(), false), "HDF5",
        "switch times off");  // equal commands give equal bytes
  return list;
}

// Of fixed length: variable ones live in HDF5's global heap, whose reader loops for ever on some
// flipped bits (1.10.8).
Handle string_type(size_t bytes) {
  Handle type = checked(H5Tcopy(H5T_C_S1), "HDF5", "copy a type");
  check(H5Tset_size(type.get(), bytes), "HDF5", "set a string type");
  check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "HDF5", "set a string type");
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "HDF5", "set a string type");
  return type;
}

void write_strings(const Handle& object, const std::string& name,
                   const std::vector<std::string>& values, const Handle& space) {
  size_t bytes = 1;
  for (const std::string& value : values) bytes = std::max(bytes, value.size());
  std::string padded;
  for (const std::string& value : values) padded += value + std::string(bytes - value.size(), '\0');
  const Handle type = string_type(bytes);
  const Handle attribute = checked(
      H5Acreate2(object.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
      concat("attribute ", name), "create it");
  check(H5Awrite(attribute.get(), type.get(), padded.data()), concat("attribute ", name),
        "write it");
}

Handle open_attribute(const Handle& object, const std::string& path, const std::string& name) {
  const htri_t exists = H5Aexists(object.get(), name.c_str());
  if (exists <= 0) {
    throw DataError(
        concat(path, ": attribute \"", name,
               "\" is missing: not a data set of dsrsq-data, or damaged; make it anew"));
  }
  return checked(H5Aopen(object.get(), name.c_str(), H5P_DEFAULT), path,
                 concat("open attribute \"", name, "\""));
}

// A link to another file or name would let a data set read what the user did not name.
void require_hard_links(const Handle& file, const std::string& path, const std::string& name) {
  for (size_t end = name.find('/', 1); end != std::string::npos || !name.empty();
       end = name.find('/', end + 1)) {
    const std::string part = name.substr(0, end);
    H5L_info_t info;
    if (H5Lexists(file.get(), part.c_str(), H5P_DEFAULT) <= 0) {
      throw DataError(
          concat(path, ": data set ", name,
                 " is missing: not a data set of dsrsq-data, or damaged; make it anew"));
    }
    check(H5Lget_info(file.get(), part.c_str(), &info, H5P_DEFAULT), path,
          concat("look up ", part));
    if (info.type != H5L_TYPE_HARD)
      throw DataError(concat(path, ": ", part, " is a link; expected it in the file itself"));
    if (end == std::string::npos) break;
  }
}

// Only plain storage inside the file: no filters, no external or virtual layout.
void require_plain_storage(hid_t data, int64_t item_bytes, const std::string& where) {
  const Handle list = checked(H5Dget_create_plist(data), where, "read its layout");
  const H5D_layout_t layout = H5Pget_layout(list.get());
  bool plain =
      (layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED) && H5Pget_nfilters(list.get()) == 0;
  if (plain && layout == H5D_CONTIGUOUS) plain = H5Pget_external_count(list.get()) == 0;
  if (plain && layout == H5D_CHUNKED) {
    hsize_t chunk[2] = {1, 1};
    const int rank = H5Pget_chunk(list.get(), 2, chunk);
    plain = rank >= 1 && rank <= 2 && chunk[0] <= hsize_t{1} << 30 && chunk[1] <= 16 &&
            static_cast<int64_t>(chunk[0] * chunk[1]) * item_bytes <= kMaximumChunkBytes;
  }
  if (!plain)
    throw DataError(concat(where,
                           ": unusual storage (filter, external, virtual or oversized chunks); "
                           "expected what dsrsq-data writes"));
}

}  // namespace

void initialise() {
  static const bool done = [] {
    // All files are closed by their handles. One that a full disk left unwritten cannot be, and the
    // library's own attempt at exit crashes (1.10.8).
    check(H5dont_atexit(), "HDF5", "leave its exit handler out");
    check(H5open(), "HDF5", "be started");
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    check(H5PLset_loading_state(0), "HDF5", "switch plugins off");
    unsigned folders = 0;  // of HDF5_PLUGIN_PATH; without them there is nothing to load
    check(H5PLsize(&folders), "HDF5", "list plugin folders");
    for (; folders > 0; --folders) check(H5PLremove(0), "HDF5", "remove a plugin folder");
    return true;
  }();
  (void)done;
}

namespace {
// HDF5's innermost reason; "" where it gave none.
std::string take_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first_reason, &reason);
  H5Eclear2(H5E_DEFAULT);
  return reason;
}
}  // namespace

void fail(const std::string& where, const std::string& what) {
  const std::string reason = take_reason();
  throw DataError(concat(where, ": cannot ", what, reason.empty() ? "" : ": ", reason));
}

void fail_write(const std::string& path, const std::string& what) {
  const std::string reason = take_reason();
  // HDF5 reports the system's error only as text.
  for (const int full : {ENOSPC, EDQUOT})
    if (reason.find(concat("errno = ", full, ",")) != std::string::npos)
      throw NoSpaceError(concat(path, ": cannot ", what, ": the disk is full (",
                                bytes_text(free_bytes(path)),
                                " are free); make room and run the same command again"));
  throw Error(ExitCode::kCheckpoint,
              concat(path, ": cannot ", what, reason.empty() ? "" : ": ", reason));
}

void check_write(herr_t status, const std::string& path, const std::string& what) {
  if (status < 0) fail_write(path, what);
}

Handle checked(hid_t id, const std::string& where, const std::string& what) {
  if (id < 0) fail(where, what);
  return Handle(id);
}

void check(herr_t status, const std::string& where, const std::string& what) {
  if (status < 0) fail(where, what);
}

void write_attribute(const Handle& object, const std::string& name,
                     const std::vector<std::string>& values) {
  const hsize_t count = values.size();
  write_strings(object, name, values,
                checked(H5Screate_simple(1, &count, nullptr), concat("attribute ", name),
                        "create its space"));
}

void write_attribute(const Handle& object, const std::string& name, const std::string& value) {
  write_strings(object, name, {value},
                checked(H5Screate(H5S_SCALAR), concat("attribute ", name), "create its space"));
}

void write_attribute(const Handle& object, const std::string& name, int64_t value) {
  const Handle space = checked(H5Screate(H5S_SCALAR), name, "create a space");
  const Handle attribute = checked(
      H5Acreate2(object.get(), name.c_str(), H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
      name, "create the attribute");
  check(H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value), name, "write the attribute");
}

std::vector<std::string> read_strings_attribute(const Handle& object, const std::string& path,
                                                const std::string& name) {
  const Handle attribute = open_attribute(object, path, name);
  const Handle type =
      checked(H5Aget_type(attribute.get()), path, concat("read attribute \"", name, "\""));
  const Handle space =
      checked(H5Aget_space(attribute.get()), path, concat("read attribute \"", name, "\""));
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  const size_t bytes = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 || bytes < 1 ||
      bytes > kMaximumStringBytes || count < 1 || count > kMaximumStrings) {
    throw DataError(concat(path, ": attribute \"", name, "\" must be 1 to ", kMaximumStrings,
                           " strings of fixed length"));
  }
  std::string padded(static_cast<size_t>(count) * bytes, '\0');
  check(H5Aread(attribute.get(), string_type(bytes).get(), padded.data()), path,
        concat("read attribute \"", name, "\""));
  std::vector<std::string> values;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const std::string value = padded.substr(i * bytes, bytes);
    values.push_back(value.substr(0, value.find_last_not_of('\0') + 1));
  }
  return values;
}

std::string read_string_attribute(const Handle& object, const std::string& path,
                                  const std::string& name) {
  return read_strings_attribute(object, path, name)[0];
}

int64_t read_integer_attribute(const Handle& object, const std::string& path,
                               const std::string& name) {
  const Handle attribute = open_attribute(object, path, name);
  const Handle type =
      checked(H5Aget_type(attribute.get()), path, concat("read attribute \"", name, "\""));
  const Handle space =
      checked(H5Aget_space(attribute.get()), path, concat("read attribute \"", name, "\""));
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Sget_simple_extent_npoints(space.get()) != 1) {
    throw DataError(concat(path, ": attribute \"", name, "\" must be one integer"));
  }
  int64_t value = 0;
  check(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), path,
        concat("read attribute \"", name, "\""));
  return value;
}

template <typename T>
Appender<T>::Appender(const Handle& file, const std::string& path, const std::string& name,
                      int64_t width)
    : path_(path), name_(name), width_(width) {
  const std::string where = concat(path, ": data set ", name);
  const int rank = width == 1 ? 1 : 2;
  const hsize_t columns = static_cast<hsize_t>(width);
  const hsize_t empty[2] = {0, columns};
  const hsize_t unlimited[2] = {H5S_UNLIMITED, columns};
  const hsize_t chunk[2] = {static_cast<hsize_t>(kChunkElements<T> / width), columns};
  const Handle space = checked(H5Screate_simple(rank, empty, unlimited), where, "create its space");
  const Handle list = creation_list(H5P_DATASET_CREATE);
  check(H5Pset_chunk(list.get(), rank, chunk), where, "set its chunks");
  data_ = Handle(H5Dcreate2(file.get(), name.c_str(), file_type<T>(), space.get(), H5P_DEFAULT,
                            list.get(), H5P_DEFAULT));
  if (data_.get() < 0) fail_write(path, concat("create data set ", name));
  buffer_.reserve(kChunkElements<T>);
}

template <typename T>
void Appender<T>::append(const T* values, int64_t count) {
  while (count > 0) {
    const int64_t part = std::min(count, kChunkElements<T> - static_cast<int64_t>(buffer_.size()));
    buffer_.insert(buffer_.end(), values, values + part);
    values += part;
    count -= part;
    if (static_cast<int64_t>(buffer_.size()) == kChunkElements<T>) flush();
  }
}

template <typename T>
void Appender<T>::flush() {
  if (buffer_.empty()) return;
  const int rank = width_ == 1 ? 1 : 2;
  const hsize_t columns = static_cast<hsize_t>(width_);
  const hsize_t start[2] = {static_cast<hsize_t>(written_ / width_), 0};
  const hsize_t count[2] = {static_cast<hsize_t>(buffer_.size()) / columns, columns};
  const hsize_t size[2] = {start[0] + count[0], columns};
  const std::string where = concat(path_, ": data set ", name_);
  check_write(H5Dset_extent(data_.get(), size), path_, concat("extend data set ", name_));
  const Handle space = checked(H5Dget_space(data_.get()), where, "get its space");
  check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, count, nullptr), where,
        "select rows");
  const Handle memory = checked(H5Screate_simple(rank, count, nullptr), where, "create a space");
  check_write(H5Dwrite(data_.get(), memory_type<T>(), memory.get(), space.get(), H5P_DEFAULT,
                       buffer_.data()),
              path_, concat("write data set ", name_));
  written_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

template <typename T>
Reader<T>::Reader(const Handle& file, const std::string& path, const std::string& name,
                  int64_t width)
    : where_(concat(path, ": data set ", name)), width_(width) {
  require_hard_links(file, path, name);
  data_ = checked(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), where_, "open it");
  const Handle type = checked(H5Dget_type(data_.get()), where_, "read its type");
  if (H5Tequal(type.get(), file_type<T>()) <= 0) {
    throw DataError(concat(where_, " has another type than the ",
                           std::is_unsigned_v<T> ? "uint" : "int", 8 * sizeof(T),
                           " that is expected"));
  }
  const Handle space = checked(H5Dget_space(data_.get()), where_, "read its space");
  const int rank = width == 1 ? 1 : 2;
  hsize_t dims[2] = {0, 1};
  const int found_rank = H5Sget_simple_extent_ndims(space.get());
  if (found_rank != rank || H5Sget_simple_extent_dims(space.get(), dims, nullptr) < 0) {
    throw DataError(concat(where_, ": expected ", rank, " dimensions, got ", found_rank));
  }
  if (rank == 2 && dims[1] != static_cast<hsize_t>(width)) {
    throw DataError(concat(where_, ": expected ", width, " columns, got ", dims[1]));
  }
  if (dims[0] > static_cast<hsize_t>(kMaximumElements / width))
    throw DataError(concat(where_, ": ", dims[0], " rows are over the limit"));
  require_plain_storage(data_.get(), sizeof(T), where_);
  rows_ = static_cast<int64_t>(dims[0]);
  // Rows without storage would read as zeros, and a forged count would be allocated.
  const hsize_t needed = dims[0] * static_cast<hsize_t>(width) * sizeof(T);
  if (H5Dget_storage_size(data_.get()) < needed) {
    throw DataError(concat(where_, ": ", rows_, " rows need ", needed, " bytes, the file holds ",
                           H5Dget_storage_size(data_.get()),
                           ": truncated or damaged; make it anew"));
  }
}

template <typename T>
std::vector<T> Reader<T>::read(int64_t begin, int64_t end) const {
  if (begin < 0 || end < begin || end > rows_) {
    throw DataError(
        concat(where_, ": rows [", begin, ", ", end, ") are outside its ", rows_, " rows"));
  }
  std::vector<T> values(static_cast<size_t>((end - begin) * width_));
  if (values.empty()) return values;
  const int rank = width_ == 1 ? 1 : 2;
  const hsize_t start[2] = {static_cast<hsize_t>(begin), 0};
  const hsize_t count[2] = {static_cast<hsize_t>(end - begin), static_cast<hsize_t>(width_)};
  const Handle space = checked(H5Dget_space(data_.get()), where_, "get its space");
  check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, count, nullptr), where_,
        "select rows");
  const Handle memory = checked(H5Screate_simple(rank, count, nullptr), where_, "create a space");
  check(
      H5Dread(data_.get(), memory_type<T>(), memory.get(), space.get(), H5P_DEFAULT, values.data()),
      where_, "read it");
  return values;
}

template class Appender<int32_t>;
template class Appender<int64_t>;
template class Appender<uint8_t>;
template class Reader<int32_t>;
template class Reader<int64_t>;
template class Reader<uint8_t>;

}  // namespace dsrsq::hdf5
