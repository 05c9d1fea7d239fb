#include "kernels/latent/latent_rows.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_rows_bf16(const LatentAttentionArguments& a, cudaStream_t stream) {
  return latent_rows::launch<__nv_bfloat16>(a, stream);
}

}  // namespace dsrsq::kernels
