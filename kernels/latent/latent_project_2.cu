#include "kernels/latent/latent_project_device.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_project_2(const LatentProjectArguments& a, cudaStream_t stream) {
  return latent_project::launch<2>(a, stream);
}

}  // namespace dsrsq::kernels
