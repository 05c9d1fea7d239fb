#include "support/retrieval_cases.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/gather_tokens.h"
#include "dsrsq/ops/reference.h"
#include "dsrsq/ops/subset_log_prob.h"

namespace dsrsq::testing {
namespace {

const auto kFp32 = at::TensorOptions(at::kFloat);
const auto kLongs = at::TensorOptions(at::kLong);

at::Generator seeded(int64_t seed) {
  return at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(seed));
}

at::Tensor coins(at::IntArrayRef sizes, double share, at::Generator& generator) {
  return at::rand(sizes, generator, kFp32) < share;
}

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

// ---- retrieval_topk ----

struct RetrievalShape {
  int64_t batch, queries, tokens, width, slots;
  at::ScalarType dtype;  // of rows
  bool masked = false, shared = false, noisy = false;
  bool tied = false;  // few scores, exact in every type
};

OpCase make_case(const RetrievalShape& s) {
  auto generator = seeded(s.tokens * 131 + s.width * 17 + s.slots);
  const int64_t stores = s.shared ? 1 : s.batch;
  const auto values = [&](at::IntArrayRef sizes) {
    return s.tied ? at::randint(-1, 2, sizes, generator, kFp32)
                  : at::randn(sizes, generator, kFp32);
  };
  const at::Tensor query = values({s.batch, s.queries, s.width});
  const at::Tensor rows = values({stores, s.tokens, s.width}).to(s.dtype);
  // From none to more than there are places.
  const at::Tensor count =
      (at::arange(s.batch, kLongs) * (s.slots + 1)).floor_divide(std::max<int64_t>(1, s.batch - 1));
  at::Tensor query_valid, valid, samples;
  if (s.masked) {
    query_valid = coins({s.batch, s.queries}, .7, generator);
    valid = coins({stores, s.tokens}, .8, generator);
  }
  if (s.noisy) samples = at::randint(1 << 30, {s.batch}, generator, kLongs);

  OpCase result;
  result.name = concat("retrieval_topk/B", s.batch, "_Q", s.queries, "_N", s.tokens, "_r", s.width,
                       "_k", s.slots, "_", c10::toString(s.dtype), s.masked ? "_masked" : "",
                       s.shared ? "_shared" : "", s.noisy ? "_noisy" : "", s.tied ? "_tied" : "");
  result.inputs = {query,       rows,  s.batch == 1 ? count + s.slots : count,
                   query_valid, valid, samples};
  const auto inputs = [](const std::vector<at::Tensor>& in) {
    return ops::RetrievalTopkInputs{in[0], in[1], in[2], optional_tensor(in[3]),
                                    optional_tensor(in[4])};
  };
  const auto options = [=](const std::vector<at::Tensor>& in) {
    ops::RetrievalTopkOptions o{s.slots, s.noisy ? .5 : 2., {}};
    if (in[5].defined()) o.noise = ops::RetrievalNoise{7, Purpose::kPolicy, 3, in[5]};
    return o;
  };
  const auto results = [](const ops::RetrievalTopk& r) {
    return std::vector<at::Tensor>{r.index, r.score};
  };
  result.call = [=](const std::vector<at::Tensor>& in) {
    return results(ops::retrieval_topk(inputs(in), options(in)));
  };
  result.oracle = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reference::retrieval_topk(inputs(in), options(in)));
  };
  result.tolerance = parity_tolerance("retrieval_topk", s.dtype);
  return result;
}

// ---- gather_tokens ----

struct GatherShape {
  int64_t batch, tokens, slots, width;
  at::ScalarType dtype;
};

OpCase make_case(const GatherShape& s) {
  auto generator = seeded(s.tokens * 31 + s.slots * 7 + s.width);
  const at::Tensor rows = at::randn({s.batch, s.tokens, s.width}, generator, kFp32).to(s.dtype);
  // Rows are taken several times, and not at all.
  const at::Tensor index =
      at::randint(-1, std::max<int64_t>(0, s.tokens), {s.batch, s.slots}, generator, kLongs);
  OpCase result;
  result.name = concat("gather_tokens/B", s.batch, "_N", s.tokens, "_n", s.slots, "_D", s.width,
                       "_", c10::toString(s.dtype));
  result.inputs = {rows, index};
  result.call = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{ops::gather_tokens(in[0], in[1])};
  };
  result.oracle = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{ops::reference::gather_tokens(in[0], in[1])};
  };
  result.tolerance = parity_tolerance("gather_tokens", s.dtype);
  result.differentiable = {0};
  return result;
}

// ---- subset_log_prob ----

struct SubsetShape {
  int64_t rows, candidates, picks;
  at::ScalarType dtype;
  bool masked = false;
};

OpCase make_case(const SubsetShape& s) {
  auto generator = seeded(s.candidates * 13 + s.picks);
  at::Tensor score = (at::randn({s.rows, s.candidates}, generator, kFp32) * 3).to(s.dtype);
  at::Tensor candidate =
      std::get<1>(at::rand({s.rows, s.candidates}, generator, kFp32).topk(s.picks, 1));
  at::Tensor mask = at::ones({s.rows, s.picks}, at::kBool);
  if (s.masked) {
    // Row r picks the first of its places, a number that grows with r; what is not picked may be no
    // candidate.
    const at::Tensor most = (at::arange(s.rows, kLongs).unsqueeze(1) * s.picks)
                                .floor_divide(std::max<int64_t>(1, s.rows - 1));
    mask = at::arange(s.picks, kLongs).unsqueeze(0) < most;
    candidate = candidate.masked_fill(mask.logical_not(), 0);
    const at::Tensor picked =
        at::zeros({s.rows, s.candidates}, kLongs).scatter_add(1, candidate, mask.to(at::kLong)) > 0;
    const at::Tensor none =
        coins({s.rows, s.candidates}, .4, generator).logical_and(picked.logical_not());
    score = score.masked_fill(none, -std::numeric_limits<double>::infinity());
  }
  OpCase result;
  result.name = concat("subset_log_prob/R", s.rows, "_M", s.candidates, "_k", s.picks, "_",
                       c10::toString(s.dtype), s.masked ? "_masked" : "");
  result.inputs = {score, candidate, mask};
  result.call = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{ops::subset_log_prob(in[0], in[1], in[2])};
  };
  result.oracle = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{ops::reference::subset_log_prob(in[0], in[1], in[2])};
  };
  result.tolerance = parity_tolerance("subset_log_prob", s.dtype);
  result.differentiable = {0};
  return result;
}

// ---- reservoir_update ----

struct ReservoirShape {
  int64_t batch, held, offered, capacity;
  double decay = 0;
  bool weighted = false, noisy = false, padded = false;
  bool tied = false;  // few priorities
};

OpCase make_case(const ReservoirShape& s) {
  auto generator = seeded(s.held * 131 + s.offered * 17 + s.capacity);
  const auto doubles = at::TensorOptions(at::kDouble);
  const auto values = [&](int64_t entries) {
    return s.tied ? at::randint(0, 3, {s.batch, entries}, generator, doubles)
                  : at::randn({s.batch, entries}, generator, doubles) * 2;
  };
  at::Tensor held = values(s.held);
  const at::Tensor rank = (at::arange(s.offered, kLongs) + s.held).expand({s.batch, s.offered});
  at::Tensor valid = at::ones({s.batch, s.offered}, at::kBool);
  if (s.padded) {
    valid = coins({s.batch, s.offered}, .7, generator);
    held = held.masked_fill(coins({s.batch, s.held}, .1, generator),
                            -std::numeric_limits<double>::infinity());
  }
  at::Tensor weight, samples;
  if (s.weighted) weight = values(s.offered);
  if (s.noisy) samples = at::randint(1 << 30, {s.batch}, generator, kLongs);

  OpCase result;
  result.name = concat("reservoir_update/B", s.batch, "_H", s.held, "_E", s.offered, "_L",
                       s.capacity, "_decay", s.decay, s.weighted ? "_weighted" : "",
                       s.noisy ? "_noisy" : "", s.padded ? "_padded" : "", s.tied ? "_tied" : "");
  result.inputs = {held, rank, valid, weight, samples};
  const auto inputs = [](const std::vector<at::Tensor>& in) {
    return ops::ReservoirInputs{in[0], in[1], in[2], optional_tensor(in[3])};
  };
  const auto options = [=](const std::vector<at::Tensor>& in) {
    ops::ReservoirOptions o{s.capacity, s.decay, {}};
    if (in[4].defined()) o.noise = ops::ReservoirNoise{11, 2, 3, 1, in[4]};
    return o;
  };
  const auto results = [](const ops::ReservoirUpdate& r) {
    return std::vector<at::Tensor>{r.source, r.priority, r.accepted, r.slot, r.count};
  };
  result.call = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reservoir_update(inputs(in), options(in)));
  };
  result.oracle = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reference::reservoir_update(inputs(in), options(in)));
  };
  result.tolerance = parity_tolerance("reservoir_update", at::kDouble);
  return result;
}

template <typename Shape>
std::vector<OpCase> make_cases(const std::vector<Shape>& shapes) {
  std::vector<OpCase> cases;
  for (const Shape& shape : shapes) cases.push_back(make_case(shape));
  return cases;
}

}  // namespace

std::vector<OpCase> retrieval_topk_cases() {
  return make_cases<RetrievalShape>({
      {1, 1, 1, 1, 1, at::kFloat},
      {3, 1, 33, 8, 5, at::kBFloat16},
      {2, 3, 301, 24, 40, at::kFloat, true},
      {2, 1, 1000, 128, 512, at::kBFloat16, true},
      {3, 2, 130, 20, 130, at::kHalf, true},
      {2, 1, 65, 12, 100, at::kDouble, false},  // more places than rows
      {4, 2, 500, 64, 17, at::kBFloat16, true, true},
      {2, 1, 700, 36, 64, at::kFloat, true, false, true},
      {3, 1, 4100, 16, 300, at::kBFloat16, true, false, false, true},
      {2, 1, 9000, 6, 2500, at::kFloat, false, true, false, true},
      {1, 1, 300000, 4, 600, at::kBFloat16, false, false, false, true},  // many ranges, ties in all
      {2, 1, 0, 8, 4, at::kFloat},
      {2, 0, 40, 8, 4, at::kFloat},
      {0, 1, 40, 8, 4, at::kBFloat16},
  });
}

std::vector<OpCase> gather_tokens_cases() {
  return make_cases<GatherShape>({
      {1, 1, 1, 1, at::kFloat},
      {2, 9, 20, 7, at::kFloat},
      {2, 9, 20, 8, at::kBFloat16},
      {3, 40, 33, 65, at::kBFloat16},
      {1, 100, 50, 130, at::kHalf},
      {2, 5, 70, 3, at::kDouble},
      {2, 1, 6, 4, at::kFloat},
      {2, 0, 6, 4, at::kFloat},
      {2, 6, 0, 4, at::kFloat},
  });
}

std::vector<OpCase> subset_log_prob_cases() {
  return make_cases<SubsetShape>({
      {1, 1, 1, at::kFloat},
      {2, 5, 5, at::kDouble},
      {3, 40, 12, at::kDouble, true},
      {4, 65, 30, at::kFloat, true},
      {2, 6, 0, at::kFloat},
      {0, 6, 2, at::kFloat},
  });
}

std::vector<OpCase> long_subset_log_prob_cases() {
  return make_cases<SubsetShape>({
      {5, 700, 600, at::kFloat, true},
      {2, 3000, 1100, at::kFloat},
      {3, 40000, 513, at::kDouble, true},
  });
}

std::vector<OpCase> reservoir_update_cases() {
  return make_cases<ReservoirShape>({
      {1, 0, 1, 1},
      {2, 0, 7, 10, 0, true},
      {3, 8, 5, 8, .1, true, true, true},
      {2, 30, 40, 33, 0, false, true},
      {2, 64, 65, 64, 1},  // a ring
      {3, 100, 300, 64, .01, true, true, true},
      {2, 1024, 2048, 1024, .001, true, true, true},
      {2, 50, 3000, 1500, 0, true, false, true, true},
      {1, 1000, 30000, 1024, 0, true, true},  // beyond shared memory
      {2, 5, 0, 3, 0},
      {0, 5, 3, 4, 0},
  });
}

}  // namespace dsrsq::testing
