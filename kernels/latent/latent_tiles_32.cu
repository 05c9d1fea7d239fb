#include "kernels/latent/latent_tiles.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_tiles_32(const LatentAttentionArguments& a, cudaStream_t stream) {
  return latent_tiles::launch<32>(a, stream);
}

}  // namespace dsrsq::kernels
