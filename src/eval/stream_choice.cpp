#include "stream_choice.h"

#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/random.h"
#include "dsrsq/retriever/bm25.h"

namespace dsrsq {

StreamTokens tokenise_stream(const Tokenizer& tokenizer, const PromptConfig& prompt,
                             const FactStream& stream) {
  StreamTokens tokens;
  std::vector<Tokenizer::Span> spans;
  auto ids = tokenizer.encode_with_spans(stream.text, spans);
  tokens.ids.assign(ids.begin(), ids.end());
  // Tokens are ascending in both ends: how many of them end by `byte`, or begin before it.
  auto count = [&](auto&& before) {
    return int64_t(std::partition_point(spans.begin(), spans.end(), before) - spans.begin());
  };
  for (const auto& probe : stream.probes) {
    auto ends_by = [&](int64_t byte) {
      return count([&](const auto& span) { return span.end <= byte; });
    };
    auto begins_before = [&](int64_t byte) {
      return count([&](const auto& span) { return span.begin < byte; });
    };
    tokens.prefix.push_back(ends_by(probe.prefix_bytes));
    tokens.stated.push_back({ends_by(probe.stated.begin),
                             std::min(tokens.prefix.back(), begins_before(probe.stated.end))});
    tokens.questions.push_back(
        encode_template(tokenizer, prompt.question, "{question}", probe.question));
  }
  return tokens;
}

namespace {

// No causal convolution reaches further back (dsr.conv_width is at most 64).
constexpr int64_t kOverlap = 64;
constexpr int64_t kChunk = 4096;

// What the method makes of the tokens [begin, end) for the questions of the probes [first, P).
struct EncodedChunk {
  int64_t begin = 0, end = 0;
  at::Tensor scores;  // [1, Q, end - begin]; undefined: the method has no retriever
  at::Tensor inputs;  // [1, end - begin, D]
};

Batch chunk_batch(const StreamTokens& tokens, int64_t begin, int64_t end, size_t first,
                  size_t last) {
  Batch batch;
  auto longs = at::TensorOptions().dtype(at::kLong);
  std::vector<int64_t> ids(tokens.ids.begin() + begin, tokens.ids.begin() + end);
  batch.context = at::tensor(ids, longs).unsqueeze(0);
  batch.context_valid = at::ones_like(batch.context, at::kBool);
  batch.passage = at::zeros_like(batch.context);
  size_t longest = 1;
  for (auto q = first; q < last; ++q) longest = std::max(longest, tokens.questions[q].size());
  batch.questions = at::zeros({1, int64_t(last - first), int64_t(longest)}, longs);
  batch.questions_valid = at::zeros_like(batch.questions, at::kBool);
  auto* out = batch.questions.data_ptr<int64_t>();
  auto* valid = batch.questions_valid.data_ptr<bool>();
  for (auto q = first; q < last; ++q)
    for (size_t t = 0; t < tokens.questions[q].size(); ++t) {
      out[(q - first) * longest + t] = tokens.questions[q][t];
      valid[(q - first) * longest + t] = true;
    }
  batch.evidence = at::zeros({1, int64_t(last - first), end - begin}, at::kBool);
  batch.answer_tokens = batch.evidence;
  batch.tail = at::zeros({1, 1}, longs);
  batch.tail_valid = at::ones({1, 1}, at::kBool);
  batch.sample_ids = {0};
  return batch;
}

EncodedChunk encode_chunk(LanguageModel& model, const StreamTokens& tokens, int64_t begin,
                          int64_t end, size_t first, size_t last) {
  auto from = std::max<int64_t>(0, begin - kOverlap);
  auto batch = chunk_batch(tokens, from, end, first, last).to(model->device());
  PassOptions options;
  options.budget = 1;  // its own choice is not used
  options.select_per_segment = false;
  options.observe = true;  // the scores are wanted
  auto state = model->method().make_state(batch, options);
  model->choose_tokens(batch, state);
  EncodedChunk chunk{begin, end, {}, {}};
  if (state.scores.defined()) chunk.scores = state.scores.narrow(2, begin - from, end - begin);
  auto inputs = state.context_inputs.defined() ? state.context_inputs
                                               : model->backbone()->embed(batch.context);
  chunk.inputs = inputs.narrow(1, begin - from, end - begin);
  return chunk;
}

// The best tokens of all that came before each probe, kept while the chunks go by. Probes are in
// the order of time, so that those whose text has ended are a prefix of the list.
StreamPicks retrieve(LanguageModel& model, const StreamTokens& tokens, int64_t budget,
                     const std::string& label) {
  constexpr size_t kQuestions = 512;  // scored at once
  auto probes = tokens.prefix.size();
  auto length = *std::max_element(tokens.prefix.begin(), tokens.prefix.end());
  auto best = at::full({int64_t(probes), budget}, -INFINITY, at::kFloat);
  auto place = at::zeros({int64_t(probes), budget}, at::kLong);
  auto prefix = at::tensor(tokens.prefix, at::kLong).unsqueeze(1);
  Progress progress(label + ", retrieving", length);
  for (int64_t begin = 0; begin < length; begin += kChunk) {
    auto end = std::min(begin + kChunk, length);
    size_t open = size_t(std::upper_bound(tokens.prefix.begin(), tokens.prefix.end(), begin) -
                         tokens.prefix.begin());
    for (auto first = open; first < probes; first += kQuestions) {
      auto last = std::min(first + kQuestions, probes);
      auto chunk = encode_chunk(model, tokens, begin, end, first, last);
      if (!chunk.scores.defined())
        throw ConfigError(
            "--stream: expected a run with a retriever (method dsrsq, dsr.enabled: true), got one "
            "without; give such a run first");
      auto rows = at::indexing::Slice(int64_t(first), int64_t(last));
      auto own = at::arange(begin, end, at::kLong).unsqueeze(0).expand({int64_t(last - first), -1});
      auto scores = chunk.scores[0].to(at::kCPU, at::kFloat);
      scores = scores.masked_fill(own >= prefix.index({rows}), -INFINITY);
      auto all = at::cat({best.index({rows}), scores}, 1);
      auto [value, index] = all.topk(budget, 1);
      best.index_put_({rows}, value);
      place.index_put_({rows}, at::cat({place.index({rows}), own}, 1).gather(1, index));
    }
    progress.update(end);
  }
  progress.finish();
  auto mask = best.isfinite();
  // Ascending, those that are none at the end.
  auto [sorted, order] = place.masked_fill(mask.logical_not(), length).sort(1);
  return {sorted.masked_fill(sorted >= length, 0), mask.gather(1, order)};
}

// `choose(probe)` gives its tokens, any order, at most `budget`.
StreamPicks pick_each(const StreamTokens& tokens, int64_t budget,
                      const std::function<std::vector<int64_t>(size_t)>& choose) {
  auto probes = int64_t(tokens.prefix.size());
  StreamPicks picks{at::zeros({probes, budget}, at::kLong), at::zeros({probes, budget}, at::kBool)};
  for (int64_t p = 0; p < probes; ++p) {
    auto chosen = choose(size_t(p));
    std::sort(chosen.begin(), chosen.end());
    for (size_t i = 0; i < chosen.size(); ++i) {
      picks.index.data_ptr<int64_t>()[p * budget + int64_t(i)] = chosen[i];
      picks.mask.data_ptr<bool>()[p * budget + int64_t(i)] = true;
    }
  }
  return picks;
}

// `chosen` and random ones of [0, length) to `budget`, or all where there are no more.
std::vector<int64_t> fill_randomly(std::set<int64_t> chosen, int64_t length, int64_t budget,
                                   const RandomStream& random) {
  auto wanted = size_t(std::min(budget, length));
  for (uint64_t i = 0; chosen.size() < wanted; ++i)
    chosen.insert(int64_t(random.below(i, uint64_t(length))));
  return {chosen.begin(), chosen.end()};
}

std::vector<int64_t> bm25_choice(const StreamTokens& tokens, size_t probe,
                                 const StreamOptions& options) {
  auto size = options.selector.bm25_passage;
  if (size <= 0)
    throw ConfigError("bm25 over a stream: selectors.bm25_passage: expected above 0, got 0");
  auto length = tokens.prefix[probe];
  std::vector<std::vector<int64_t>> passages;
  for (int64_t begin = 0; begin < length; begin += size)
    passages.emplace_back(tokens.ids.begin() + begin,
                          tokens.ids.begin() + std::min(begin + size, length));
  std::vector<int64_t> question(tokens.questions[probe].begin(), tokens.questions[probe].end());
  auto scores = bm25_scores(passages, question, options.selector.bm25_k1, options.selector.bm25_b);
  std::vector<int64_t> ranked(scores.size());
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](int64_t x, int64_t y) { return scores[size_t(x)] > scores[size_t(y)]; });
  std::vector<int64_t> chosen;
  for (auto passage : ranked)
    for (size_t i = 0; i < passages[size_t(passage)].size(); ++i)
      if (int64_t(chosen.size()) < options.budget) chosen.push_back(passage * size + int64_t(i));
  return chosen;
}

}  // namespace

StreamPicks choose_stream_tokens(LanguageModel& model, const StreamTokens& tokens,
                                 const StreamOptions& options, const std::string& label) {
  auto budget = options.budget;
  auto random = [&](size_t probe) {
    return RandomStream(uint64_t(options.seed), Purpose::kSelection, 0, probe);
  };
  switch (options.choice) {
    case StreamChoice::kRetrieved:
      return retrieve(model, tokens, budget, label);
    case StreamChoice::kNothing:
      return pick_each(tokens, 0, [](size_t) { return std::vector<int64_t>(); });
    case StreamChoice::kWindow:
      return pick_each(tokens, budget, [&](size_t probe) {
        auto length = tokens.prefix[probe];
        std::vector<int64_t> last(size_t(std::min(budget, length)));
        std::iota(last.begin(), last.end(), length - int64_t(last.size()));
        return last;
      });
    case StreamChoice::kRandom:
      return pick_each(tokens, budget, [&](size_t probe) {
        return fill_randomly({}, tokens.prefix[probe], budget, random(probe));
      });
    case StreamChoice::kOracle:
      return pick_each(tokens, budget, [&](size_t probe) {
        std::set<int64_t> stated;
        for (auto i = tokens.stated[probe].begin; i < tokens.stated[probe].end; ++i)
          if (int64_t(stated.size()) < budget) stated.insert(i);
        return fill_randomly(stated, tokens.prefix[probe], budget, random(probe));
      });
    case StreamChoice::kBm25:
      break;
  }
  Progress progress(label + ", ranking", int64_t(tokens.prefix.size()));
  auto picks = pick_each(tokens, budget, [&](size_t probe) {
    progress.update(int64_t(probe) + 1);
    return bm25_choice(tokens, probe, options);
  });
  progress.finish();
  return picks;
}

at::Tensor gather_stream_inputs(LanguageModel& model, const StreamTokens& tokens,
                                const StreamPicks& picks) {
  auto probes = picks.index.size(0), slots = picks.index.size(1);
  auto width = model->backbone()->config().width;
  auto inputs = at::zeros({probes * slots, width}, at::kFloat);
  if (slots == 0) return inputs.view({probes, slots, width});
  auto index = picks.index.flatten();
  auto used = index.masked_fill(picks.mask.flatten().logical_not(), -1);
  auto length = *std::max_element(tokens.prefix.begin(), tokens.prefix.end());
  for (int64_t begin = 0; begin < length; begin += kChunk) {
    auto end = std::min(begin + kChunk, length);
    auto here = at::logical_and(used >= begin, used < end).nonzero().squeeze(1);
    if (here.numel() == 0) continue;
    auto chunk = encode_chunk(model, tokens, begin, end, 0, 1);
    auto own = chunk.inputs[0].to(at::kCPU, at::kFloat);
    inputs.index_copy_(0, here, own.index_select(0, index.index_select(0, here) - begin));
  }
  return inputs.view({probes, slots, width});
}

}  // namespace dsrsq
