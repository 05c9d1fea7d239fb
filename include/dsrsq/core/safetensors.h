// The safetensors format: 8-byte little-endian header length, JSON header, data. Written so that
// Python's `safetensors` reads it; read with full validation before anything is allocated (header
// of at most 16 MiB, at most 100,000 tensors, unique names, known dtype, rank <= 8, non-negative
// dims, size = product * itemsize without overflow, offsets contiguous, no gap or overlap, end =
// file size).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace dsrsq {

enum class ScalarType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

size_t scalar_bytes(ScalarType type);
const char* scalar_name(ScalarType type);  // "F32"

// A borrowed tensor: contiguous row-major data of `bytes` bytes.
struct TensorView {
  std::string name;
  ScalarType type = ScalarType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;
};

// Writes the file (not atomically: callers write into a temporary folder and rename it), fsyncs it.
// Data is aligned to 64 bytes by padding the header with blanks. Throws Error on a write failure
// (full disk: names the path).
void write_safetensors(const std::string& path, const std::vector<TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// Memory-mapped, read-only: views live as long as the object. Files of other writers may hold data
// that is not aligned to its item size: copy with memcpy. Throws CheckpointError that names the
// file and what is wrong.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<TensorView>& tensors() const;         // in file order
  const TensorView* find(const std::string& name) const;  // nullptr where absent
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsrsq
