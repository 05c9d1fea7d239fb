// Every operator of dsrsq in one place. torch allows one TORCH_LIBRARY per namespace; the
// implementations register beside their code. Callers use the typed wrappers in include/dsrsq/ops/,
// never these names.
#include <torch/library.h>

TORCH_LIBRARY(dsrsq, m) {
  // clang-format off
  m.def("cluster_assign(Tensor keys, Tensor centroids, Tensor bias, Tensor? valid) -> (Tensor assignment, Tensor raw_sum, Tensor direction_sum, Tensor count)");
  m.def("cluster_route(Tensor queries, Tensor centroids, int slots) -> Tensor");
  m.def("cluster_attention(Tensor q, Tensor k, Tensor v, Tensor assignment, Tensor routes, Tensor? key_bias, int clusters, int window, int sinks, float scale, Tensor? other_out=None, Tensor? other_lse=None, bool plain=False) -> (Tensor out, Tensor lse)");
  m.def("attention_mass(Tensor q, Tensor k, Tensor lse, Tensor query_position, Tensor key_position, Tensor? key_bias, Tensor? assignment, Tensor? routes, float scale, int clusters, int window, int sinks) -> (Tensor mass, Tensor squared)");
  m.def("retrieval_topk(Tensor query, Tensor rows, Tensor count, Tensor? query_valid, Tensor? valid, int slots, float temperature, Tensor? sample_ids, int seed, int purpose, int step) -> (Tensor index, Tensor score)");
  m.def("gather_tokens(Tensor rows, Tensor index) -> Tensor");
  m.def("subset_log_prob(Tensor score, Tensor candidate, Tensor mask) -> Tensor");
  m.def("reservoir_update(Tensor held, Tensor rank, Tensor valid, Tensor? log_weight, int capacity, float decay, Tensor? sample_ids, int seed, int step, int layers, int layer) -> (Tensor source, Tensor priority, Tensor accepted, Tensor slot, Tensor count)");
  m.def("latent_attention(Tensor q, Tensor key_latents, Tensor value_latents, Tensor key_projection, Tensor value_projection, Tensor? valid, Tensor? key_bias, Tensor? age_bias, Tensor? query_order, Tensor? key_order, Tensor? positions, float scale, float[] frequencies, float rotary_scale) -> (Tensor out, Tensor lse)");
  m.def("latent_project(Tensor source, Tensor? value_source, Tensor weight, Tensor? bias) -> (Tensor keys, Tensor values)");
  m.def("latent_project_into(Tensor source, Tensor? value_source, Tensor weight, Tensor? bias, Tensor slots, Tensor(a!) keys, Tensor(b!) values) -> ()");
  // clang-format on
}
