#include "kernels/latent/latent_project.h"
#include "kernels/latent/latent_project_device.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_project(const LatentProjectSizes& s, const LatentProjectInputs& in,
                                  void* keys, void* values, ElementType type, cudaStream_t stream) {
  if (s.inner % kTileColumns != 0 || in.keys.head_width % kTileColumns != 0 || s.width % 2 != 0 ||
      s.parts < 1 || s.parts > 2)
    return cudaErrorInvalidValue;
  // A block of more rows reads the weight less often; of fewer, so few rows fill more of the
  // device.
  constexpr int64_t kManyRows = 24 * 1024;
  const bool wide = in.values.x == nullptr && s.parts == 1 && s.batch * s.tokens >= kManyRows;
  const LatentProjectArguments a{s, in, keys, values, type};
  return s.parts == 1 ? launch_latent_project_1(a, wide ? 4 : 2, stream)
                      : launch_latent_project_2(a, 2, stream);
}

}  // namespace dsrsq::kernels
