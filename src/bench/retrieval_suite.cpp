#include "dsrsq/bench/retrieval_suite.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

#include <algorithm>
#include <charconv>

#include "dsrsq/bench/case_records.h"
#include "dsrsq/bench/graph.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/gather_tokens.h"
#include "dsrsq/ops/reservoir_update.h"
#include "dsrsq/ops/retrieval_topk.h"
#include "dsrsq/ops/subset_log_prob.h"
#include "dsrsq/retriever/subset.h"

namespace dsrsq::bench {
namespace {

constexpr int64_t kProfiledRuns = 5;
constexpr int64_t kGraphRuns = 20;

// Of the whole text; 0: not a positive number.
int64_t parse_positive(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end ? std::max<int64_t>(value, 0) : 0;
}

at::Tensor random(at::IntArrayRef sizes, int64_t seed, at::Device device) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t(seed));
  return at::randn(sizes, generator, at::TensorOptions(at::kFloat)).to(device);
}

void add_time(CaseRecords& records, const std::string& method, const std::string& metric,
              const Timing& time, int64_t runs = 1) {
  auto& record = records.add(method, metric, time.median / double(runs), "s");
  record.p10 = time.p10 / double(runs);
  record.p90 = time.p90 / double(runs);
  log_info("  ", method, " ", metric, ": ", record.value * 1e6, " us [", *record.p10 * 1e6, ", ",
           *record.p90 * 1e6, "]");
}

void add_speedup(CaseRecords& records, const std::string& metric, const Contestant& own,
                 const Contestant& other, double ratio) {
  records.add(own.name, metric + "_speedup", ratio, "x").baseline = other.name;
  log_info("  ", own.name, " ", metric, ": ", ratio, " x ", other.name);
}

// The first against the second, and the first in a graph where it does not wait for the host.
void compare(CaseRecords& records, const std::string& metric, const Contestant& own,
             const Contestant& other, at::Device device, const TimingOptions& options) {
  const auto times = time_interleaved({own, other}, device, options);
  add_time(records, own.name, metric, times[0]);
  add_time(records, other.name, metric, times[1]);
  add_speedup(records, metric, own, other, times[1].median / times[0].median);
}

void add_time_in_graph(CaseRecords& records, const Contestant& own, at::Device device,
                       const TimingOptions& options) {
  if (!device.is_cuda()) return;
  const Contestant many{own.name, recorded(own.run, device, kGraphRuns)};
  add_time(records, own.name, "time_in_graph", time_interleaved({many}, device, options)[0],
           kGraphRuns);
}

void add_kernels(CaseRecords& records, const Contestant& own, at::Device device) {
  for (const auto& time : kernel_times(own.run, device, kProfiledRuns)) {
    records.add(own.name, "kernel/" + time.name, time.seconds, "s");
    log_info("    ", time.name, " x ", time.calls, ": ", time.seconds * 1e6, " us");
  }
}

at::ScalarType type_of(const RetrievalCase& size, at::Device device) {
  if (size.type.empty()) return device.is_cuda() ? at::kBFloat16 : at::kFloat;
  if (size.type != "bf16" && size.type != "fp32")
    throw ConfigError(concat("--retrieval-cases: expected rows of fp32 or bf16, got ",
                             quote(size.type), "; change it"));
  return size.type == "bf16" ? at::kBFloat16 : at::kFloat;
}

std::string type_name(at::ScalarType type) { return type == at::kBFloat16 ? "bf16" : "fp32"; }

// Share of a's members that are among b's.
double agreement(const at::Tensor& a, const at::Tensor& b) {
  return (a.reshape({-1, 1}) == b.reshape({1, -1})).any(1).to(at::kDouble).mean().item<double>();
}

void time_selection(CaseRecords& records, const RetrievalSuiteOptions& o, const at::Tensor& rows,
                    const at::Tensor& query, int64_t picks) {
  const at::Device device = rows.device();
  const ops::RetrievalTopkInputs in{
      query, rows, at::full({1}, picks, at::TensorOptions(device).dtype(at::kLong)), {}, {}};
  const Contestant own{"retrieval_topk", [=] { ops::retrieval_topk(in, {picks, 1, {}}); }};
  const at::Tensor typed = query.to(rows.scalar_type());
  const Contestant torch{"matmul_topk", [=] { at::matmul(rows[0], typed[0][0]).topk(picks); }};
  at::Tensor target = at::empty_like(rows);
  const Contestant copy{"copy", [=]() mutable { target.copy_(rows); }};
  const auto times = time_interleaved({own, torch, copy}, device, o.timing);
  add_time(records, own.name, "time", times[0]);
  add_time(records, torch.name, "time", times[1]);
  add_time(records, copy.name, "time", times[2]);
  add_speedup(records, "time", own, torch, times[1].median / times[0].median);
  const double bytes = double(rows.numel() * rows.element_size());
  const double bandwidth = 2 * bytes / times[2].median, bound = bytes / bandwidth;
  records.add(copy.name, "bandwidth", bandwidth, "bytes/s");
  records.add(own.name, "bound", bound, "s").baseline = copy.name;
  records.add(own.name, "bound_ratio", times[0].median / bound, "x").baseline = copy.name;
  log_info("  copy at ", bandwidth * 1e-9, " GB/s: bound ", bound * 1e6, " us, ratio ",
           times[0].median / bound);
  add_time_in_graph(records, own, device, o.timing);
  const auto found = ops::retrieval_topk(in, {picks, 1, {}});
  const auto expected =
      std::get<1>(at::matmul(rows[0].to(at::kFloat), query[0][0]).topk(found.index.size(1)));
  records.add(own.name, "agreement", agreement(found.index, expected), "share");
  if (o.kernels) add_kernels(records, own, device);
}

// forward and forward_backward of `own` against `other`, both of x.
void time_differentiable(CaseRecords& records, const RetrievalSuiteOptions& o, const at::Tensor& x,
                         const std::string& own_name, const std::string& other_name,
                         const std::function<at::Tensor(const at::Tensor&)>& own,
                         const std::function<at::Tensor(const at::Tensor&)>& other) {
  const at::Device device = x.device();
  const auto forward = [=](const auto& function) {
    return [=] {
      at::NoGradGuard no_grad;
      function(x);
    };
  };
  const auto both = [=](const auto& function) {
    return [=] {
      const at::Tensor leaf = x.detach().requires_grad_();
      const at::Tensor out = function(leaf);
      torch::autograd::grad({out}, {leaf}, {at::ones_like(out)});
    };
  };
  compare(records, "forward", {own_name, forward(own)}, {other_name, forward(other)}, device,
          o.timing);
  compare(records, "forward_backward", {own_name, both(own)}, {other_name, both(other)}, device,
          o.timing);
  add_time_in_graph(records, {own_name, forward(own)}, device, o.timing);
}

// The picks of one context, gathered for the reader and judged by the policy.
void run_choice(std::vector<ResultRecord>& all, const RetrievalSuiteOptions& o, at::Device device) {
  const int64_t tokens = o.context, picks = o.context_picks;
  const auto type = device.is_cuda() ? at::kBFloat16 : at::kFloat;
  CaseRecords records(concat("choice, n ", tokens, ", k ", picks, ", D ", o.model_width),
                      {{"tokens", double(tokens)},
                       {"picks", double(picks)},
                       {"model_width", double(o.model_width)}});
  log_info("choice, n ", tokens, ", k ", picks, ", D ", o.model_width);
  const at::Tensor score = random({1, tokens}, o.seed + 2, device);
  const SubsetPicks chosen{std::get<1>(score.topk(picks, 1)),
                           at::ones({1, picks}, score.options().dtype(at::kBool))};
  const at::Tensor rows = random({1, tokens, o.model_width}, o.seed + 3, device).to(type);
  const at::Tensor index = chosen.candidate;
  time_differentiable(
      records, o, rows, "gather_tokens", "gather",
      [=](const at::Tensor& x) { return ops::gather_tokens(x, index); },
      [=](const at::Tensor& x) {
        return x.gather(1, index.unsqueeze(-1).expand({1, picks, x.size(2)}));
      });
  time_differentiable(
      records, o, score, "subset_log_prob", "subset_log_prob_aten",
      [=](const at::Tensor& x) { return ops::subset_log_prob(x, chosen.candidate, chosen.mask); },
      [=](const at::Tensor& x) { return subset_log_prob(x, chosen); });
  all.insert(all.end(), records.all.begin(), records.all.end());
}

void run_case(std::vector<ResultRecord>& all, const RetrievalSuiteOptions& o,
              const RetrievalCase& size, at::Device device) {
  const auto type = type_of(size, device);
  if (size.picks > size.tokens)
    throw ConfigError(concat("--retrieval-cases: expected at most as many picks as rows, ",
                             size.tokens, ", got ", size.picks, "; change one of them"));
  CaseRecords records(
      concat("n ", size.tokens, ", r ", size.width, ", k ", size.picks, ", ", type_name(type)),
      {{"tokens", double(size.tokens)},
       {"width", double(size.width)},
       {"picks", double(size.picks)},
       {"model_width", double(o.model_width)}});
  log_info("retrieval, n ", size.tokens, ", r ", size.width, ", k ", size.picks, ", ",
           type_name(type));
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, -1, true); };
  const at::Tensor rows = unit(random({1, size.tokens, size.width}, o.seed, device)).to(type);
  const at::Tensor query = unit(random({1, 1, size.width}, o.seed + 1, device));
  time_selection(records, o, rows, query, size.picks);
  all.insert(all.end(), records.all.begin(), records.all.end());
}

void run_reservoir(std::vector<ResultRecord>& all, const RetrievalSuiteOptions& o,
                   at::Device device) {
  CaseRecords records(concat("reservoir, held ", o.held, ", offered ", o.offered),
                      {{"held", double(o.held)}, {"offered", double(o.offered)}});
  log_info("reservoir, held ", o.held, ", offered ", o.offered);
  const auto longs = at::TensorOptions(device).dtype(at::kLong);
  ops::ReservoirInputs in;
  in.held = random({1, o.held}, o.seed + 4, device).to(at::kDouble);
  in.rank = at::arange(o.held, o.held + o.offered, longs).unsqueeze(0);
  in.valid = at::ones({1, o.offered}, longs.dtype(at::kBool));
  in.log_weight = random({1, o.offered}, o.seed + 5, device).to(at::kDouble);
  const ops::ReservoirNoise noise{uint64_t(o.seed), 0, 12, 3, at::zeros({1}, longs)};
  const ops::ReservoirOptions options{o.held, 1e-4, noise};
  const Contestant own{"reservoir_update", [=] { ops::reservoir_update(in, options); }};
  const at::Tensor drawn = random({1, o.offered}, o.seed + 6, device).to(at::kDouble);
  const Contestant torch{
      "topk_of_priorities", [=] {
        const at::Tensor priority =
            *in.log_weight + in.rank.to(at::kDouble) * options.decay + drawn;
        const at::Tensor joint =
            at::cat({in.held, priority.masked_fill(in.valid.logical_not(), -INFINITY)}, 1);
        std::get<1>(joint.topk(o.held, 1)).sort(1);
      }};
  compare(records, "time", own, torch, device, o.timing);
  add_time_in_graph(records, own, device, o.timing);
  if (o.kernels) add_kernels(records, own, device);
  all.insert(all.end(), records.all.begin(), records.all.end());
}

}  // namespace

RetrievalCase parse_retrieval_case(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(':', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  RetrievalCase size;
  if (parts.size() == 3 || parts.size() == 4) {
    size.tokens = parse_positive(parts[0]);
    size.width = parse_positive(parts[1]);
    size.picks = parse_positive(parts[2]);
    if (parts.size() == 4) size.type = parts[3];
    if (size.tokens > 0 && size.width > 0 && size.picks > 0) return size;
  }
  throw ConfigError(concat("--retrieval-cases: expected TOKENS:WIDTH:PICKS, as 1000000:128:512, ",
                           "got ", quote(text), "; change it"));
}

std::vector<ResultRecord> run_retrieval_suite(const RetrievalSuiteOptions& options,
                                              c10::Device device) {
  std::vector<ResultRecord> all;
  for (const auto& size : options.cases) run_case(all, options, size, device);
  run_choice(all, options, device);
  run_reservoir(all, options, device);
  return all;
}

}  // namespace dsrsq::bench
