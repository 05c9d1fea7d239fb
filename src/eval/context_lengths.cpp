#include "dsrsq/eval/context_lengths.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/text/resampling.h"

namespace dsrsq {

namespace {

void check(const ContextLengthOptions& options) {
  auto rising = std::adjacent_find(options.lengths.begin(), options.lengths.end(),
                                   std::greater_equal<>()) == options.lengths.end();
  if (options.lengths.empty() || !rising || options.lengths[0] < options.chunk_tokens)
    throw ConfigError(
        concat("--context-lengths: expected rising numbers of tokens, none below data.chunk_tokens "
               "= ",
               options.chunk_tokens, ", which the query takes"));
  if (options.scored_tokens < 1 || options.scored_tokens % options.chunk_tokens != 0)
    throw ConfigError(concat("--scored-tokens: expected a multiple of data.chunk_tokens = ",
                             options.chunk_tokens, ", got ", options.scored_tokens));
}

// Nats of the predicted tokens of each sequence, fp64 on the host.
std::vector<double> sequence_nats(LanguageModel& model, const Batch& batch,
                                  const at::Tensor& hidden) {
  std::vector<double> nats;
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto places = (batch.labels[b] >= 0).nonzero().squeeze(1);
    auto loss = model->backbone()->cross_entropy(hidden[b].index_select(0, places),
                                                 batch.labels[b].index_select(0, places));
    nats.push_back(loss.item<double>());
  }
  return nats;
}

}  // namespace

std::vector<ScoredText> find_scored_texts(const Store& store, const std::string& split,
                                          const ContextLengthOptions& options) {
  check(options);
  auto needed = options.lengths.back() + options.scored_tokens;
  std::vector<ScoredText> texts;
  int64_t longest = 0, all = 0;
  for (auto index : store.records_of_split(split)) {
    auto record = store.record(index);
    auto tokens = store.document_length(record.document);
    longest = std::max(longest, tokens);
    ++all;
    auto full = options.maximum_texts > 0 && int64_t(texts.size()) >= options.maximum_texts;
    if (tokens >= needed && !full) texts.push_back({index, tokens, record.id, {}, {}});
  }
  if (texts.empty())
    throw DataError(concat(store.path(), ": split '", split, "' holds no text of ", needed,
                           " tokens (", options.scored_tokens, " scored, ", options.lengths.back(),
                           " before them); the longest of ", all, " has ", longest,
                           "; give shorter --context-lengths"));
  log_info(store.path(), ": ", texts.size(), " of ", all, " texts of split '", split,
           "' are scored; they have at least ", needed, " tokens");
  return texts;
}

std::vector<TextChunk> scored_chunks(const ScoredText& text, int64_t length,
                                     const ContextLengthOptions& options) {
  std::vector<TextChunk> chunks;
  for (auto begin = text.tokens - options.scored_tokens; begin < text.tokens;
       begin += options.chunk_tokens)
    chunks.push_back({text.record, begin - length, begin - options.chunk_tokens, begin,
                      begin + options.chunk_tokens});
  return chunks;
}

void score_texts(LanguageModel& model, const TextCollator& collator, const PassOptions& pass,
                 const ContextLengthOptions& options, std::vector<ScoredText>& texts) {
  at::NoGradGuard no_grad;
  auto chunks_of_text = options.scored_tokens / options.chunk_tokens;
  Progress progress("chunks", int64_t(texts.size() * options.lengths.size()) * chunks_of_text);
  int64_t done = 0;
  for (auto& text : texts) {
    text.loss.assign(options.lengths.size(), 0);
    text.tokens_read.assign(options.lengths.size(), 0);
  }
  for (size_t n = 0; n < options.lengths.size(); ++n) {
    std::vector<TextChunk> chunks;
    std::vector<size_t> owner;
    for (size_t i = 0; i < texts.size(); ++i)
      for (const auto& chunk : scored_chunks(texts[i], options.lengths[n], options)) {
        chunks.push_back(chunk);
        owner.push_back(i);
      }
    auto size = size_t(options.batch_size);
    for (size_t begin = 0; begin < chunks.size(); begin += size) {
      auto end = std::min(begin + size, chunks.size());
      auto batch =
          collator.collate({chunks.begin() + int64_t(begin), chunks.begin() + int64_t(end)})
              .to(model->device());
      auto state = model->method().make_state(batch, pass);
      auto nats = sequence_nats(model, batch, model->read(batch, state));
      auto selected = state.selected.mask.sum(1).to(at::kCPU);
      for (size_t i = begin; i < end; ++i) {
        auto row = int64_t(i - begin);
        auto& text = texts[owner[i]];
        text.loss[n] += nats[size_t(row)] / double(options.scored_tokens);
        text.tokens_read[n] +=
            double(selected[row].item<int64_t>() + options.chunk_tokens) / double(chunks_of_text);
      }
      done += int64_t(end - begin);
      progress.update(done, concat("context ", options.lengths[n]));
    }
  }
  progress.finish(concat(texts.size(), " texts"));
}

std::vector<ResultRecord> context_length_records(const std::vector<ScoredText>& texts,
                                                 const ContextLengthOptions& options,
                                                 const std::string& case_name,
                                                 const std::string& row,
                                                 const std::vector<ScoredText>* baseline,
                                                 const std::string& baseline_row) {
  std::vector<ResultRecord> records;
  for (size_t n = 0; n < options.lengths.size(); ++n) {
    auto column = [&](const std::vector<ScoredText>& of, std::vector<double> ScoredText::*value) {
      std::vector<double> values;
      for (const auto& text : of) values.push_back((text.*value)[n]);
      return values;
    };
    auto length = options.lengths[n];
    std::map<std::string, double> shape{{"context_tokens", double(length)},
                                        {"scored_tokens", double(options.scored_tokens)},
                                        {"texts", double(texts.size())}};
    auto add = [&](const std::string& metric, const std::string& unit, const Interval& interval) {
      records.push_back({case_name, row, shape, concat(metric, "_context_", length), interval.mean,
                         unit, interval.low, interval.high});
    };
    auto losses = column(texts, &ScoredText::loss);
    auto loss = bootstrap_mean(losses);
    add("loss", "nats", loss);
    if (baseline != nullptr) {
      auto paired = compare_paired(losses, column(*baseline, &ScoredText::loss));
      records.back().baseline = baseline_row;
      records.back().difference = RowDifference{paired.difference.mean, paired.difference.low,
                                                paired.difference.high, paired.p,
                                                paired.exact,           paired.pairs};
    }
    add("perplexity", "perplexity", {std::exp(loss.mean), std::exp(loss.low), std::exp(loss.high)});
    add("tokens_read", "tokens", bootstrap_mean(column(texts, &ScoredText::tokens_read)));
  }
  return records;
}

}  // namespace dsrsq
