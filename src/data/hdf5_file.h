// HDF5's C API behind handles that close themselves and errors that name the file and the data set.
// Private to src/data. The library prints its errors on standard error and may load plugins from
// the environment: both are switched off here, because a data file is input, not code.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsrsq::hdf5 {

// Owns one hid_t of any kind; H5Idec_ref closes files, groups, data sets, spaces, types and lists
// alike.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, -1);
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  hid_t get() const { return id_; }
  // Returns HDF5's status, since closing a file is where the last bytes are written.
  herr_t reset() {
    const hid_t id = std::exchange(id_, -1);
    return id >= 0 ? static_cast<herr_t>(H5Idec_ref(id)) : 0;
  }

 private:
  hid_t id_ = -1;
};

// Once per process, before the first call. No filter or driver is loaded from HDF5_PLUGIN_PATH or
// elsewhere from then on.
void initialise();

// Throws DataError "<where>: cannot <what>: <HDF5's innermost reason>".
[[noreturn]] void fail(const std::string& where, const std::string& what);
Handle checked(hid_t id, const std::string& where, const std::string& what);
void check(herr_t status, const std::string& where, const std::string& what);
// For what writes into the file `path`: throws Error with ExitCode::kCheckpoint, NoSpaceError where
// the disk is full.
[[noreturn]] void fail_write(const std::string& path, const std::string& what);
void check_write(herr_t status, const std::string& path, const std::string& what);

template <typename T>
hid_t memory_type() {
  if constexpr (std::is_same_v<T, int32_t>) {
    return H5T_NATIVE_INT32;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return H5T_NATIVE_INT64;
  } else {
    static_assert(std::is_same_v<T, uint8_t>, "data sets hold int32, int64 or uint8");
    return H5T_NATIVE_UINT8;
  }
}
template <typename T>
hid_t file_type() {
  if constexpr (std::is_same_v<T, int32_t>) {
    return H5T_STD_I32LE;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return H5T_STD_I64LE;
  } else {
    static_assert(std::is_same_v<T, uint8_t>, "data sets hold int32, int64 or uint8");
    return H5T_STD_U8LE;
  }
}

void write_attribute(const Handle& object, const std::string& name, const std::string& value);
void write_attribute(const Handle& object, const std::string& name, int64_t value);
void write_attribute(const Handle& object, const std::string& name,
                     const std::vector<std::string>& values);
// Throw DataError where absent, of another type, or over a fixed size limit. `path` stands in
// messages.
std::string read_string_attribute(const Handle& object, const std::string& path,
                                  const std::string& name);
int64_t read_integer_attribute(const Handle& object, const std::string& path,
                               const std::string& name);
std::vector<std::string> read_strings_attribute(const Handle& object, const std::string& path,
                                                const std::string& name);

// A data set that grows row by row; rows of `width` elements (width 1: one dimension). Buffers one
// chunk. Not compressed: the reader takes short hyperslabs at random places.
template <typename T>
class Appender {
 public:
  Appender(const Handle& file, const std::string& path, const std::string& name, int64_t width = 1);
  void append(const T* values, int64_t count);  // count: elements, a multiple of width
  void append(T value) { append(&value, 1); }
  int64_t size() const { return written_ + static_cast<int64_t>(buffer_.size()); }  // elements
  void flush();

 private:
  Handle data_;
  std::string path_;
  std::string name_;
  int64_t width_;
  int64_t written_ = 0;
  std::vector<T> buffer_;
};

// A data set that is read by ranges of rows. The constructor checks type, rank, layout and that the
// bytes are there.
template <typename T>
class Reader {
 public:
  Reader() = default;
  Reader(const Handle& file, const std::string& path, const std::string& name, int64_t width = 1);
  int64_t rows() const { return rows_; }
  // Rows [begin, end) as elements. Throws DataError where the range is outside.
  std::vector<T> read(int64_t begin, int64_t end) const;
  T at(int64_t row) const { return read(row, row + 1)[0]; }
  const std::string& where() const { return where_; }

 private:
  Handle data_;
  std::string where_;
  int64_t width_ = 1;
  int64_t rows_ = 0;
};

}  // namespace dsrsq::hdf5
