// Finding retrieval heads: what a random text that repeats makes heads attend.
#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/attention/dense.h"
#include "dsrsq/core/random.h"
#include "dsrsq/methods/razor.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq {

namespace {

// Dense attention that looks, for every row behind the first repeat, at the earlier copies of its
// token. The text: one begin token, then repeats x tokens.
class HeadSearch : public Method {
 public:
  HeadSearch(const AttentionShape& shape, int64_t tokens, int64_t repeats)
      : Method(shape), tokens_(tokens), repeats_(repeats) {
    scores.echo = at::zeros({shape.layers, shape.query_heads}, at::kFloat);
    scores.induction = scores.echo.clone();
  }
  std::string method_name() const override { return "razor_search"; }

  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto q = input.rotated(input.q), k = input.rotated(input.k);
    constexpr int64_t kRows = 256;
    auto length = 1 + tokens_ * repeats_;
    auto echo = at::zeros({shape_.query_heads}, q.options().dtype(at::kFloat));
    auto induction = at::zeros_like(echo);
    for (int64_t begin = 1 + tokens_; begin < length; begin += kRows) {
      auto end = std::min(begin + kRows, length);
      auto row = at::arange(begin, end, input.order.options());
      auto mask = at::arange(end, row.options()).unsqueeze(0) <= row.unsqueeze(1);
      auto read = masked_attention(q.slice(2, begin, end), k.slice(2, 0, end),
                                   input.v.slice(2, 0, end), mask);
      auto probability = (read.logits - read.lse.unsqueeze(-1)).exp()[0];  // [H, rows, end]
      // The copies in repeats 0 to repeats - 2 that stand before the row.
      auto copy = at::arange(repeats_ - 1, row.options()) * tokens_;
      auto same = ((row - 1).remainder(tokens_).unsqueeze(1) + copy) + 1;  // [rows, repeats - 1]
      auto earlier = same < row.unsqueeze(1);
      auto sum_at = [&](const at::Tensor& place) {
        auto index = place.masked_fill(earlier.logical_not(), 0).unsqueeze(0);
        auto found = probability.gather(2, index.expand({probability.size(0), -1, -1}));
        return found.masked_fill(earlier.logical_not(), 0).sum(at::IntArrayRef{1, 2});
      };
      echo += sum_at(same).to(at::kFloat);
      induction += sum_at(same + 1).to(at::kFloat);
    }
    auto rows = double(length - 1 - tokens_);
    scores.echo[input.layer].copy_(echo / rows);
    scores.induction[input.layer].copy_(induction / rows);
    return causal_attention(q, k, input.v);
  }

  HeadScores scores;

 private:
  int64_t tokens_, repeats_;
};

}  // namespace

HeadScores search_heads(const LanguageModelView& model, const AttentionShape& shape,
                        const RazorConfig& config, at::Device device) {
  at::NoGradGuard no_grad;
  auto longs = at::device(device).dtype(at::kLong);
  auto vocabulary = model.logits(model.embed(at::zeros({1}, longs))).size(-1);
  auto tokens = std::min(config.search_tokens, vocabulary);
  constexpr uint64_t kSeed = 0;  // of the text: part of the method, not of a run
  std::vector<int64_t> ids{model.begin_id};
  for (int64_t r = 0; r < config.search_repeats; ++r)
    for (int64_t i = 0; i < tokens; ++i)
      ids.push_back(int64_t(permute_index(kSeed, 0, uint64_t(i), uint64_t(vocabulary))));
  auto length = int64_t(ids.size());
  ReaderInput reader;
  reader.inputs = model.embed(at::tensor(ids, at::kLong).to(device).unsqueeze(0));
  reader.valid = at::ones({1, length}, longs.dtype(at::kBool));
  reader.positions = at::arange(length, longs).unsqueeze(0);
  reader.order = reader.positions;
  reader.segments = {length};
  HeadSearch search(shape, tokens, config.search_repeats);
  MethodState state;
  state.layers.resize(size_t(shape.layers));
  model.forward(reader, search, state);
  return search.scores;
}

}  // namespace dsrsq
