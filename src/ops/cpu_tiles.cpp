#include "cpu_tiles.h"

#include <ATen/Version.h>

#include <string>

namespace dsrsq::ops {

#ifdef DSRSQ_X86_TILES
extern const CpuTiles cpu_tiles_avx512, cpu_tiles_avx2;
#endif
extern const CpuTiles cpu_tiles_generic;

// What torch itself chose, so that ATEN_CPU_CAPABILITY limits both.
const CpuTiles& cpu_tiles() {
#ifdef DSRSQ_X86_TILES
  static const CpuTiles& best = [&]() -> const CpuTiles& {
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return cpu_tiles_avx512;
    if (capability == "AVX2") return cpu_tiles_avx2;
    return cpu_tiles_generic;
  }();
  return best;
#else
  return cpu_tiles_generic;
#endif
}

}  // namespace dsrsq::ops
