#include "kernels/latent/latent_project_device.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_project_1(const LatentProjectArguments& a, cudaStream_t stream) {
  return latent_project::launch<1>(a, stream);
}

}  // namespace dsrsq::kernels
