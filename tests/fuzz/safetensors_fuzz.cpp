// Tensor files: of a file that opens, every byte of every tensor is read.
#include "dsrsq/core/safetensors.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const fuzz::MemoryFile memory(data, size);
  fuzz::expect_no_other_error([&] {
    const SafetensorsFile file(memory.path());
    uint64_t total = 0, sum = 0;
    for (const TensorView& view : file.tensors()) {
      size_t bytes = scalar_bytes(view.type);
      for (const int64_t dim : view.shape) bytes *= static_cast<size_t>(dim);
      const auto* values = static_cast<const uint8_t*>(view.data);
      for (size_t i = 0; i < view.bytes; ++i) sum += values[i];
      if (bytes != view.bytes || file.find(view.name) != &view) std::abort();
      total += view.bytes;
    }
    if (total + 8 > size || sum > 255 * total) std::abort();
  });
  return 0;
}
