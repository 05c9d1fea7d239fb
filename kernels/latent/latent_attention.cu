#include "kernels/latent/latent_attention.h"
#include "kernels/latent/latent_device.h"

namespace dsrsq::kernels {

cudaError_t launch_latent_attention(const LatentAttentionSizes& s, const LatentAttentionInputs& in,
                                    void* out, float* lse, cudaStream_t stream) {
  if ((s.width != 32 && s.width != 64 && s.width != 128) || s.buckets > kLatentMostBuckets)
    return cudaErrorInvalidValue;
  const LatentAttentionArguments a{s, in, out, lse};
  const bool bf16 = in.latent_type == ElementType::kBFloat16;
  if (bf16 && in.query_type == ElementType::kBFloat16 &&
      s.heads / s.kv_heads * s.queries >= kLatentManyRows) {
    return s.width == 32   ? launch_latent_tiles_32(a, stream)
           : s.width == 64 ? launch_latent_tiles_64(a, stream)
                           : launch_latent_tiles_128(a, stream);
  }
  return bf16 ? launch_latent_rows_bf16(a, stream) : launch_latent_rows_fp32(a, stream);
}

}  // namespace dsrsq::kernels
