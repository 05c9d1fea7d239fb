#include "dsrsq/eval/stream_answers.h"

#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/text/task_metrics.h"
#include "stream_choice.h"

namespace dsrsq {

namespace {

bool answers(const std::string& prediction, const std::string& value) {
  return exact_match(prediction, {value}) == 1;
}

// Fills what the prediction says.
void score(const StreamProbe& probe, StreamAnswer& answer) {
  answer.id = probe.id;
  auto& scored = answer.scored;
  scored.fact = probe.fact;
  scored.update = probe.update;
  scored.lag = probe.lag;
  scored.right = answers(answer.prediction, probe.answer());
  for (int64_t i = 0; i < int64_t(probe.values.size()); ++i) {
    bool given = !scored.right && answers(answer.prediction, probe.values[size_t(i)]);
    scored.stale = scored.stale || (given && i < probe.update);
    scored.foresees = scored.foresees || (given && !probe.is_control() && i == probe.update + 1);
  }
}

std::vector<std::string> candidates_of(const StreamProbe& probe) {
  std::vector<std::string> candidates;
  for (const auto* list : {&probe.values, &probe.distractors})
    for (const auto& value : *list)
      if (std::find(candidates.begin(), candidates.end(), value) == candidates.end())
        candidates.push_back(value);
  return candidates;
}

std::vector<double> normalised(const std::vector<double>& log_likelihood) {
  auto most = *std::max_element(log_likelihood.begin(), log_likelihood.end());
  std::vector<double> shares;
  double sum = 0;
  for (auto one : log_likelihood) sum += shares.emplace_back(std::exp(one - most));
  for (auto& share : shares) share /= sum;
  return shares;
}

class StreamReader {
 public:
  StreamReader(LanguageModel& model, const Tokenizer& tokenizer, const PromptConfig& prompt,
               const FactStream& stream, const StreamOptions& options)
      : model_(model), tokenizer_(tokenizer), prompt_(prompt), stream_(stream), options_(options) {}

  std::vector<StreamAnswer> answer(const std::string& label) {
    tokens_ = tokenise_stream(tokenizer_, prompt_, stream_);
    if (tokens_.prefix.front() == 0)
      throw DataError(concat("probe ", stream_.probes.front().id,
                             ": expected a prefix_bytes that covers a whole token, got ",
                             stream_.probes.front().prefix_bytes));
    picks_ = choose_stream_tokens(model_, tokens_, options_, label);
    inputs_ = gather_stream_inputs(model_, tokens_, picks_);
    auto probes = int64_t(stream_.probes.size());
    Progress progress(label + ", answering", probes);
    std::vector<StreamAnswer> all;
    for (int64_t begin = 0; begin < probes; begin += options_.batch_size) {
      auto batch = answer_batch(begin, std::min(probes, begin + options_.batch_size));
      all.insert(all.end(), batch.begin(), batch.end());
      progress.update(int64_t(all.size()));
    }
    progress.finish();
    return all;
  }

 private:
  Batch tail_batch(int64_t begin, int64_t end) const {
    size_t longest = 1;
    for (auto p = begin; p < end; ++p)
      longest = std::max(longest, tokens_.questions[size_t(p)].size());
    Batch batch;
    auto longs = at::TensorOptions().dtype(at::kLong);
    batch.context = at::zeros({end - begin, 1}, longs);  // what is read of it is in inputs_
    batch.context_valid = at::zeros_like(batch.context, at::kBool);
    batch.tail = at::zeros({end - begin, int64_t(longest)}, longs);
    batch.tail_valid = at::zeros_like(batch.tail, at::kBool);
    for (auto p = begin; p < end; ++p) {
      const auto& question = tokens_.questions[size_t(p)];
      auto* out = batch.tail.data_ptr<int64_t>() + (p - begin) * int64_t(longest);
      std::copy(question.begin(), question.end(), out);
      batch.tail_valid[p - begin].slice(0, 0, int64_t(question.size())).fill_(true);
      batch.sample_ids.push_back(p);
    }
    return batch;
  }

  // Reads what was picked, then the question; -> log-probabilities of the next token [B, V].
  at::Tensor read(int64_t begin, int64_t end, MethodState& state) {
    auto device = model_->device();
    auto batch = tail_batch(begin, end).to(device);
    PassOptions pass;
    pass.budget = std::max<int64_t>(1, options_.budget);
    pass.select_per_segment = false;
    state = model_->method().make_state(batch, pass);
    auto& selected = state.selected;
    selected.index = picks_.index.narrow(0, begin, end - begin).to(device);
    selected.mask = picks_.mask.narrow(0, begin, end - begin).to(device);
    // A stream is longer than any position that was trained: what is read is numbered in a row.
    selected.reordered = true;
    for (auto left = selected.index.size(1); left > 0; left -= options_.segment)
      selected.lengths.push_back(std::min(left, options_.segment));
    state.selected_inputs = inputs_.narrow(0, begin, end - begin)
                                .to(device, model_->backbone()->embed(batch.tail).scalar_type());
    auto hidden = model_->read_selected(batch, state);
    auto last = (batch.tail_valid.sum(1) - 1).view({-1, 1});
    return log_probabilities(gather_entries(hidden, last, 1));
  }

  at::Tensor log_probabilities(const at::Tensor& hidden) const {  // [B, 1, D] -> [B, V]
    return at::log_softmax(model_->backbone()->logits(hidden.squeeze(1)).to(at::kFloat), -1);
  }

  std::vector<std::string> decode(at::Tensor log_p, MethodState state) {
    auto size = log_p.size(0);
    auto rows = size_t(size);
    std::vector<std::vector<int32_t>> tokens(rows);
    std::vector<bool> open(rows, true);
    for (int64_t step = 0; step < options_.maximum_tokens; ++step) {
      auto next = log_p.argmax(-1);
      auto host = next.to(at::kCPU);
      auto valid = at::zeros({size}, at::kBool);
      for (int64_t b = 0; b < size; ++b) {
        auto token = int32_t(host.data_ptr<int64_t>()[b]);
        open[size_t(b)] = open[size_t(b)] && token != tokenizer_.end_id();
        if (!open[size_t(b)]) continue;
        tokens[size_t(b)].push_back(token);
        valid.data_ptr<bool>()[b] = true;
      }
      if (step + 1 == options_.maximum_tokens || !valid.any().item<bool>()) break;
      log_p = log_probabilities(model_->read_next(next, valid.to(model_->device()), state));
    }
    std::vector<std::string> texts;
    for (const auto& ids : tokens) texts.push_back(tokenizer_.decode(ids));
    return texts;
  }

  std::vector<int32_t> answer_tokens(const std::string& value) const {
    auto ids = encode_template(tokenizer_, prompt_.answer, "{answer}", value);
    if (prompt_.end_answer) ids.push_back(tokenizer_.end_id());
    return ids;
  }

  // Teacher-forced log-likelihoods of one candidate a probe; empty: that probe has no such one.
  std::vector<double> likelihoods(const std::vector<std::vector<int32_t>>& candidates,
                                  at::Tensor log_p, MethodState state) {
    size_t longest = 0;
    for (const auto& ids : candidates) longest = std::max(longest, ids.size());
    auto size = int64_t(candidates.size());
    std::vector<double> sums(candidates.size(), 0);
    for (size_t t = 0; t < longest; ++t) {
      auto ids = at::zeros({size}, at::kLong), valid = at::zeros({size}, at::kBool);
      for (size_t b = 0; b < candidates.size(); ++b) {
        if (t >= candidates[b].size()) continue;
        ids.data_ptr<int64_t>()[b] = candidates[b][t];
        valid.data_ptr<bool>()[b] = true;
      }
      auto own = log_p.to(at::kCPU).gather(1, ids.unsqueeze(1));
      for (size_t b = 0; b < candidates.size(); ++b)
        if (t < candidates[b].size()) sums[b] += double(own.data_ptr<float>()[b]);
      if (t + 1 == longest) break;
      auto device = model_->device();
      log_p = log_probabilities(model_->read_next(ids.to(device), valid.to(device), state));
    }
    return sums;
  }

  std::vector<StreamAnswer> answer_batch(int64_t begin, int64_t end) {
    MethodState state;
    auto log_p = read(begin, end, state);
    auto predictions = decode(log_p, state);
    auto size = size_t(end - begin);
    std::vector<StreamAnswer> batch(size);
    std::vector<std::vector<std::string>> candidates;
    std::vector<std::vector<double>> scores(size);
    size_t most = 0;
    for (size_t b = 0; b < size; ++b) {
      const auto& probe = stream_.probes[size_t(begin) + b];
      batch[b].prediction = predictions[b];
      score(probe, batch[b]);
      count_tokens(begin + int64_t(b), batch[b]);
      candidates.push_back(candidates_of(probe));
      most = std::max(most, candidates.back().size());
    }
    for (size_t c = 0; c < most; ++c) {
      std::vector<std::vector<int32_t>> ids(size);
      for (size_t b = 0; b < size; ++b)
        if (c < candidates[b].size()) ids[b] = answer_tokens(candidates[b][c]);
      auto own = likelihoods(ids, log_p, state);
      for (size_t b = 0; b < size; ++b)
        if (c < candidates[b].size()) scores[b].push_back(own[b]);
    }
    for (size_t b = 0; b < size; ++b) batch[b].scored.candidates = normalised(scores[b]);
    return batch;
  }

  void count_tokens(int64_t probe, StreamAnswer& answer) const {
    auto& scored = answer.scored;
    scored.available = tokens_.prefix[size_t(probe)];
    auto stated = tokens_.stated[size_t(probe)];
    int64_t found = 0;
    auto slots = picks_.index.size(1);
    for (int64_t i = probe * slots; i < (probe + 1) * slots; ++i) {
      if (!picks_.mask.data_ptr<bool>()[i]) continue;
      ++scored.attended;
      auto token = picks_.index.data_ptr<int64_t>()[i];
      found += token >= stated.begin && token < stated.end;
    }
    if (stated.begin < stated.end)
      answer.evidence_recall = double(found) / double(stated.end - stated.begin);
  }

  LanguageModel& model_;
  const Tokenizer& tokenizer_;
  const PromptConfig& prompt_;
  const FactStream& stream_;
  const StreamOptions& options_;
  StreamTokens tokens_;
  StreamPicks picks_;
  at::Tensor inputs_;  // [P, n, D]
};

}  // namespace

std::vector<StreamAnswer> answer_stream(LanguageModel& model, const Tokenizer& tokenizer,
                                        const PromptConfig& prompt, const FactStream& stream,
                                        const StreamOptions& options, const std::string& label) {
  at::NoGradGuard no_grad;
  return StreamReader(model, tokenizer, prompt, stream, options).answer(label);
}

std::vector<StreamAnswer> answer_constantly(const FactStream& stream) {
  std::map<std::string, int64_t> counts;
  for (const auto& probe : stream.probes)
    if (!probe.is_control()) ++counts[probe.answer()];
  std::string answer;
  for (const auto& [value, count] : counts)
    if (answer.empty() || count > counts[answer]) answer = value;
  std::vector<StreamAnswer> all;
  for (const auto& probe : stream.probes) {
    StreamAnswer own;
    own.prediction = answer;
    score(probe, own);
    // Of no candidate does it know more than of another, whatever it has read.
    auto candidates = candidates_of(probe).size();
    own.scored.candidates.assign(candidates, 1 / double(candidates));
    own.scored.available = probe.prefix_bytes;
    all.push_back(std::move(own));
  }
  return all;
}

}  // namespace dsrsq
