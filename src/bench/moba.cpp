#include "dsrsq/bench/moba.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

namespace dsrsq::bench {
namespace {

// Queries whose scores are held at a time.
constexpr int64_t kChunk = 16384;

int64_t block_length(int64_t tokens, int64_t blocks) { return (tokens + blocks - 1) / blocks; }

// [B, H_kv, blocks, d], the type of k.
at::Tensor block_means(const at::Tensor& k, int64_t blocks) {
  const int64_t tokens = k.size(2), length = block_length(tokens, blocks);
  const at::Tensor padded = at::constant_pad_nd(k, {0, 0, 0, blocks * length - tokens});
  const at::Tensor sums =
      padded.view({k.size(0), k.size(1), blocks, length, k.size(3)}).sum(3, false, at::kFloat);
  const at::Tensor first = at::arange(blocks, k.options().dtype(at::kFloat)) * length;
  return (sums / (tokens - first).clamp(1, length).view({-1, 1})).to(k.scalar_type());
}

// Flash attention of one head, sequences side by side. Rows of q belong to the sequences that
// `first_query` [sequences + 1] begins, those of k and v to those of `first_key`.
struct Sequences {
  at::Tensor first_query, first_key;  // int32
  int64_t longest_query = 0, longest_key = 0;
  bool causal = false;
};

struct FlashResult {
  at::Tensor out;  // [rows, 1, d]
  at::Tensor lse;  // [rows] fp32
  at::Tensor seed, unused;
};

FlashResult flash(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequences& s,
                  double scale) {
  auto [out, lse, seed, unused, mask] =
      at::_flash_attention_forward(q, k, v, s.first_query, s.first_key, s.longest_query,
                                   s.longest_key, 0.0, s.causal, false, scale);
  TORCH_CHECK(lse.numel() == q.size(0), "moba_attention: expected one log-sum-exp a row of ",
              q.size(0), ", got ", lse.sizes());
  return {out, lse.reshape({-1}), seed, unused};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(
    const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& out, const at::Tensor& lse, const FlashResult& kept, const Sequences& s,
    double scale) {
  return at::_flash_attention_backward(d_out, q, k, v, out, lse.unsqueeze(0).contiguous(),
                                       s.first_query, s.first_key, s.longest_query, s.longest_key,
                                       0.0, s.causal, kept.seed, kept.unused, scale);
}

// Pairs of a query and a block before its own, block by block. Rows count the queries of all heads.
struct Pairs {
  at::Tensor row;  // [pairs] int64
  Sequences sequences;
};

Pairs list_pairs(const at::Tensor& routes, const at::Tensor& first_key, int64_t blocks,
                 int64_t length) {
  const int64_t heads = routes.size(0) * routes.size(1), tokens = routes.size(2);
  const int64_t others = routes.size(3) - 1;
  const at::Tensor head = at::arange(heads, routes.options()).view({heads, 1, 1});
  const at::Tensor block = routes.narrow(3, 1, others).reshape({heads, tokens, others});
  const at::Tensor place =
      at::where(block < 0, heads * blocks, head * blocks + block).reshape({-1});
  const auto [sorted, order] = place.sort(/*stable=*/true, 0, false);
  const at::Tensor counts = place.bincount({}, heads * blocks + 1).narrow(0, 0, heads * blocks);
  const at::Tensor sums = at::stack({counts.sum(), counts.max()}).cpu();
  Pairs pairs;
  pairs.row = order.narrow(0, 0, sums[0].item<int64_t>()).floor_divide(others);
  pairs.sequences.first_query =
      at::constant_pad_nd(counts.cumsum(0), {1, 0}).to(at::kInt).contiguous();
  pairs.sequences.first_key = first_key;
  pairs.sequences.longest_query = sums[1].item<int64_t>();
  pairs.sequences.longest_key = length;
  return pairs;
}

class MobaAttention : public torch::autograd::Function<MobaAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q4,
                            const at::Tensor& k4, const at::Tensor& v4, int64_t blocks,
                            int64_t slots, double scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto rows = [](const at::Tensor& x) { return x.reshape({-1, 1, x.size(3)}); };
    const at::Tensor q = rows(q4), k = rows(k4), v = rows(v4);
    const int64_t heads = q4.size(0) * q4.size(1), tokens = q4.size(2);
    const int64_t length = block_length(tokens, blocks);

    Sequences own;
    const auto ints = q4.options().dtype(at::kInt);
    own.first_query = at::cat({(at::arange(heads, ints).view({-1, 1}) * tokens +
                                (at::arange(blocks, ints) * length).clamp_max(tokens))
                                   .reshape({-1}),
                               at::full({1}, heads * tokens, ints)});
    own.first_key = own.first_query;
    own.longest_query = own.longest_key = length;
    own.causal = true;
    const FlashResult near = flash(q, k, v, own, scale);
    at::Tensor out = near.out, lse = near.lse;
    Pairs pairs;
    FlashResult far;
    if (slots > 1)
      pairs =
          list_pairs(choose_blocks(q4, k4, blocks, slots).routes, own.first_key, blocks, length);
    if (slots > 1 && pairs.row.numel() > 0) {
      far = flash(q.index_select(0, pairs.row), k, v, pairs.sequences, scale);
      // exp(lse_far - lse_near) cannot overflow the join: the maximum is taken out first.
      const at::Tensor highest =
          near.lse.scatter_reduce(0, pairs.row, far.lse, "amax", /*include_self=*/true);
      const at::Tensor near_weight = (near.lse - highest).exp();
      const at::Tensor far_weight = (far.lse - highest.index_select(0, pairs.row)).exp();
      const at::Tensor total = near_weight.index_add(0, pairs.row, far_weight);
      const auto column = [](const at::Tensor& x) { return x.view({-1, 1, 1}); };
      const at::Tensor sum =
          (near.out * column(near_weight)).index_add_(0, pairs.row, far.out * column(far_weight));
      out = (sum / column(total)).to(q.scalar_type());
      lse = highest + total.log();
    }
    context->save_for_backward({q, k, v, out, lse, pairs.row, near.seed, near.unused, far.seed,
                                far.unused, own.first_query, pairs.sequences.first_query});
    context->saved_data["sizes"] = q4.sizes().vec();
    context->saved_data["length"] = length;
    context->saved_data["longest"] = pairs.sequences.longest_query;
    context->saved_data["scale"] = scale;
    return out.view(q4.sizes());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4],
                     &row = saved[5];
    const auto sizes = context->saved_data["sizes"].toIntVector();
    const int64_t length = context->saved_data["length"].toInt();
    const double scale = context->saved_data["scale"].toDouble();
    const at::Tensor d_out = gradients[0].reshape(q.sizes()).contiguous();
    const Sequences own{saved[10], saved[10], length, length, true};
    auto [dq, dk, dv] =
        flash_backward(d_out, q, k, v, out, lse, {{}, {}, saved[6], saved[7]}, own, scale);
    if (row.defined() && row.numel() > 0) {
      const Sequences far{saved[11], saved[10], context->saved_data["longest"].toInt(), length,
                          false};
      const auto take = [&](const at::Tensor& x) { return x.index_select(0, row); };
      const auto [fq, fk, fv] = flash_backward(take(d_out), take(q), k, v, take(out), take(lse),
                                               {{}, {}, saved[8], saved[9]}, far, scale);
      dq = dq.to(at::kFloat).index_add_(0, row, fq.to(at::kFloat)).to(q.scalar_type());
      dk = dk + fk;
      dv = dv + fv;
    }
    return {dq.view(sizes), dk.view(sizes), dv.view(sizes), {}, {}, {}};
  }
};

}  // namespace

KeyChoice choose_blocks(const at::Tensor& q, const at::Tensor& k, int64_t blocks, int64_t slots) {
  const int64_t tokens = k.size(2);
  TORCH_CHECK(1 <= slots && slots <= blocks && blocks <= tokens,
              "choose_blocks: expected 1 <= slots <= blocks <= N, got ", slots, ", ", blocks,
              " and ", tokens);
  const at::NoGradGuard no_grad;
  const auto ints = k.options().dtype(at::kInt);
  const at::Tensor own = at::arange(tokens, ints).floor_divide(block_length(tokens, blocks));
  const at::Tensor means =
      block_means(k, blocks).repeat_interleave(q.size(1) / k.size(1), 1).transpose(-1, -2);
  const at::Tensor block = at::arange(blocks, ints);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<at::Tensor> routes;
  for (int64_t first = 0; first < tokens; first += kChunk) {
    const at::Tensor here = own.slice(0, first, first + kChunk).unsqueeze(1);  // [rows, 1]
    const at::Tensor score = at::matmul(q.slice(2, first, first + kChunk), means)
                                 .masked_fill_(block > here, -kInfinity)
                                 .masked_fill_(block == here, kInfinity);
    const auto [best, index] = score.topk(slots, -1);
    routes.push_back(index.to(at::kInt).masked_fill_(best == -kInfinity, -1));
  }
  const auto shape = k.sizes().slice(0, 3);
  return {own.view({1, 1, -1}).expand(shape).contiguous(), at::cat(routes, 2)};
}

at::Tensor moba_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t blocks, int64_t slots, double scale) {
  TORCH_CHECK(q.is_cuda() && q.scalar_type() == at::kBFloat16 && k.sizes() == q.sizes() &&
                  v.sizes() == q.sizes(),
              "moba_attention: expected q, k and v of one shape in bf16 on CUDA, got ",
              q.scalar_type(), " ", q.sizes(), " and ", k.sizes(), " on ", q.device());
  return MobaAttention::apply(q, k, v, blocks, slots, scale);
}

}  // namespace dsrsq::bench
