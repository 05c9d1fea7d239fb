#include "kernels/latent/latent_rows.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_rows_fp32(const LatentAttentionArguments& a, cudaStream_t stream) {
  return latent_rows::launch<float>(a, stream);
}

}  // namespace dsrsq::kernels
