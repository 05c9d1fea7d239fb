#include "kernels/latent/latent_project.h"
#include "kernels/latent/latent_project_device.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_project(const LatentProjectSizes& s, const LatentProjectInputs& in,
                                  void* keys, void* values, ElementType type, cudaStream_t stream) {
  if (s.inner % kTileColumns != 0 || in.keys.head_width % kTileColumns != 0 || s.width % 2 != 0 ||
      s.parts < 1 || s.parts > 2)
    return cudaErrorInvalidValue;
  const LatentProjectArguments a{s, in, keys, values, type};
  return s.parts == 1 ? launch_latent_project_1(a, stream) : launch_latent_project_2(a, stream);
}

}  // namespace dsrsq::kernels
