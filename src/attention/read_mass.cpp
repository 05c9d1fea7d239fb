#include "dsrsq/attention/read_mass.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/ops/autocast.h"

namespace dsrsq {

FlaggedRows flagged_rows(const at::Tensor& rows) {
  auto most = rows.size(1) > 0 ? (rows >= 0).sum(1).amax().item<int64_t>() : 0;
  auto index = (rows < 0)
                   .to(at::kInt)
                   .argsort(/*stable=*/true, /*dim=*/1, /*descending=*/false)  // flagged first
                   .narrow(1, 0, most);
  return {index, rows.gather(1, index)};
}

at::Tensor take_rows(const at::Tensor& x, const FlaggedRows& rows) {
  auto index = rows.index.unsqueeze(1);
  for (int64_t i = 3; i < x.dim(); ++i) index = index.unsqueeze(-1);
  auto sizes = x.sizes().vec();
  sizes[2] = rows.count();
  return x.gather(2, index.expand(sizes));
}

void add_read_mass(at::Tensor& read_mass, const at::Tensor& logits, const at::Tensor& lse,
                   const at::Tensor& question, int64_t questions, const at::Tensor& key_order) {
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(logits.device());
  if (key_order.size(1) == 0) return;
  auto mass = (logits.detach() - lse.detach().unsqueeze(-1)).exp().sum(1);  // [B, n, keys]
  auto asks = question.unsqueeze(1) ==
              at::arange(questions, question.options()).view({1, questions, 1});  // [B, Q, n]
  auto of_question = at::matmul(asks.to(mass.scalar_type()), mass);               // [B, Q, keys]
  auto ranks = key_order.max().item<int64_t>() + 1;
  auto known = read_mass.defined() ? read_mass.size(2) : 0;
  auto grown = at::zeros({key_order.size(0), questions, std::max(ranks, known)},
                         mass.options().dtype(at::kFloat));
  if (known > 0) grown.narrow(2, 0, known).copy_(read_mass);
  read_mass = grown.scatter_add_(2, key_order.unsqueeze(1).expand_as(of_question),
                                 of_question.to(at::kFloat));
}

}  // namespace dsrsq
