#include "kernels/latent/latent_tiles.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_tiles_64(const LatentAttentionArguments& a, cudaStream_t stream) {
  return latent_tiles::launch<64>(a, stream);
}

}  // namespace dsrsq::kernels
