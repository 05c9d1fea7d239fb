#include "dsrsq/methods/rag.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "dsrsq/batch/loader.h"
#include "dsrsq/core/error.h"
#include "dsrsq/retriever/bm25.h"

namespace dsrsq {

void RagConfig::visit_fields(ConfigVisitor& v) {
  v.field("passage_words", passage_words, "Words of a passage.", at_least(1));
  v.field("stride", stride, "Part of a passage after which the next one begins.", between(0.01, 1));
  v.field("passages", passages, "Passages that are read, at most; 0: what the budget pays for.",
          at_least(0));
  v.field("retriever", retriever, "What ranks passages; dense: the cosine of rag.encoder.",
          one_of({"bm25", "dense"}));
  v.field("encoder", encoder, "Folder of the sentence encoder of retriever: dense.");
  v.field("bm25_k1", bm25_k1, "BM25's saturation of term counts.", at_least(0));
  v.field("bm25_b", bm25_b, "BM25's length normalisation.", between(0, 1));
  v.field("order", order, "best_last: the best passage stands before the question.",
          one_of({"best_last", "document"}));
  v.field("unit_tokens", unit_tokens, "longrag: tokens of a unit, at most.", at_least(1));
  v.field("demonstrations", demonstrations,
          "Answered questions of the training split that stand in front, each behind its passages "
          "(DRAG); outside the budget.",
          at_least(0));
  v.field("demonstration_passages", demonstration_passages, "Passages of each of them.",
          at_least(0));
  v.field("demonstration_end", demonstration_end, "Text behind each of them.");
  v.field(
      "iterations", iterations,
      "Follow-up questions that the model asks, at most, before it answers (IterDRAG); 0: none.",
      at_least(0));
  v.field("iteration_passages", iteration_passages,
          "Passages that a follow-up question adds, as far as the budget pays for them.",
          at_least(1));
  v.field("iteration_tokens", iteration_tokens,
          "Tokens of a follow-up question or an intermediate answer, at most; both end at a line "
          "break.",
          at_least(1));
  v.field("follow_up", follow_up, "Text that opens a follow-up question.");
  v.field("intermediate_answer", intermediate_answer,
          "Text between a follow-up question and its answer, where they are read on.");
  v.field("final_answer", final_answer,
          "Text that opens the answer: whichever of the two openings the model holds for more "
          "likely decides whether it asks on.");
}

void RagConfig::validate(const ConfigLocations& locations) const {
  if (retriever == "dense" && encoder.empty())
    throw ConfigError(concat(locations.of("rag.encoder"),
                             ": rag.encoder: expected a folder with rag.retriever: dense, got "
                             "nothing; scripts/import_minilm.py makes one"));
  if (iterations > 0 && (follow_up.empty() || final_answer.empty() || follow_up == final_answer))
    throw ConfigError(concat(locations.of("rag.follow_up"),
                             ": rag.follow_up: expected two different texts with rag.iterations, "
                             "got rag.follow_up '",
                             follow_up, "' and rag.final_answer '", final_answer, "'"));
}

namespace {
bool is_white(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// Where each word begins.
std::vector<int64_t> word_begins(const std::string& text) {
  std::vector<int64_t> begins;
  for (size_t i = 0; i < text.size(); ++i)
    if (!is_white(text[i]) && (i == 0 || is_white(text[i - 1]))) begins.push_back(int64_t(i));
  return begins;
}
}  // namespace

std::vector<TextUnit> cut_passages(const std::string& text,
                                   const std::vector<Tokenizer::Span>& spans, int64_t words,
                                   double stride) {
  auto begins = word_begins(text);
  auto number = int64_t(begins.size());
  auto step = std::max<int64_t>(1, std::llround(stride * double(words)));
  // Tokens ascend, so where one word ends and the next begins is found by its last byte.
  auto first_token = [&](int64_t word) {
    if (word <= 0) return int64_t{0};
    if (word >= number) return int64_t(spans.size());
    auto found = std::partition_point(spans.begin(), spans.end(), [&](const Tokenizer::Span& span) {
      return span.end - 1 < begins[size_t(word)];
    });
    return int64_t(found - spans.begin());
  };
  auto byte = [&](int64_t word) {
    return word <= 0 ? int64_t{0} : word >= number ? int64_t(text.size()) : begins[size_t(word)];
  };
  std::vector<TextUnit> passages;
  for (int64_t word = 0;; word += step) {
    auto last = word + words;
    TextUnit unit{first_token(word), first_token(last), {}};
    unit.text = text.substr(size_t(byte(word)), size_t(byte(last) - byte(word)));
    if (unit.end > unit.begin) passages.push_back(std::move(unit));
    if (last >= number) break;
  }
  return passages;
}

PassageRanker::PassageRanker(const RagConfig& config) : config_(config) {
  if (config.retriever != "dense") return;
  encoder_ = SentenceEncoder(config.encoder);
  encoder_->eval();
  collator_ = std::make_unique<EncoderCollator>(config.encoder, encoder_->config().positions);
}

std::vector<double> PassageRanker::scores(const std::vector<std::string>& passages,
                                          const std::string& question, at::Device device) const {
  if (config_.retriever == "bm25") {
    std::vector<std::vector<std::string>> documents;
    for (const auto& passage : passages) documents.push_back(bm25_terms(passage));
    return bm25_scores(documents, bm25_terms(question), config_.bm25_k1, config_.bm25_b);
  }
  at::NoGradGuard no_grad;
  auto encoder = encoder_;
  encoder->to(device);
  auto embed = [&](const std::vector<std::string>& texts) {
    auto input = collator_->texts(texts);
    return encoder->embed(input.ids.to(device), input.valid.to(device)).to(at::kCPU, at::kDouble);
  };
  auto wanted = embed({question})[0];
  constexpr size_t kTexts = 32;  // at a time
  std::vector<double> scores;
  for (size_t begin = 0; begin < passages.size(); begin += kTexts) {
    auto end = std::min(begin + kTexts, passages.size());
    auto cosine =
        at::mv(embed({passages.begin() + long(begin), passages.begin() + long(end)}), wanted)
            .contiguous();
    scores.insert(scores.end(), cosine.data_ptr<double>(),
                  cosine.data_ptr<double>() + cosine.numel());
  }
  return scores;
}

RagMethod::RagMethod(std::shared_ptr<Method> reader, const RagConfig& config,
                     std::shared_ptr<const Tokenizer> tokenizer, RagExamples examples)
    : SelectorMethod(std::move(reader), {}, 0),
      rag_(config),
      tokenizer_(std::move(tokenizer)),
      ranker_(config),
      examples_(std::move(examples)) {}

std::vector<int32_t> RagMethod::context_ids(const Batch& batch, int64_t b) const {
  auto row = batch.context[b].to(at::kCPU).contiguous();
  auto length = batch.context_valid[b].sum().item<int64_t>();
  const auto* ids = row.data_ptr<int64_t>();
  return {ids, ids + length};
}

std::vector<RagMethod::RankedUnit> RagMethod::units(const Batch& batch, int64_t b,
                                                    const std::string& query) const {
  std::vector<Tokenizer::Span> spans;
  auto text = tokenizer_->decode_with_spans(context_ids(batch, b), spans);
  auto passages = cut_passages(text, spans, rag_.passage_words, rag_.stride);
  std::vector<std::string> texts;
  for (const auto& passage : passages) texts.push_back(passage.text);
  auto scores = ranker_.scores(texts, query, batch.context.device());
  std::vector<RankedUnit> ranked;
  for (size_t i = 0; i < passages.size(); ++i)
    ranked.push_back({passages[i].begin, passages[i].end, scores[i]});
  return ranked;
}

std::vector<RagMethod::RankedUnit> RagMethod::best_first(const Batch& batch, int64_t b,
                                                         const std::string& query) const {
  auto ranked = units(batch, b, query);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const RankedUnit& x, const RankedUnit& y) { return x.score > y.score; });
  return ranked;
}

void RagMethod::take(const RankedUnit& unit, Text& text) {
  std::vector<int64_t> part;
  for (auto i = unit.begin; i < unit.end && text.room > 0; ++i) {
    if (text.taken[size_t(i)]) continue;
    text.taken[size_t(i)] = true;
    part.push_back(i);
    --text.room;
  }
  text.parts.push_back(std::move(part));
}

std::vector<int64_t> RagMethod::Text::reading_order(bool document) const {
  std::vector<int64_t> tokens;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part)
    tokens.insert(tokens.end(), part->begin(), part->end());
  if (document) std::sort(tokens.begin(), tokens.end());
  return tokens;
}

const std::vector<int64_t>& RagMethod::demonstrations() {
  if (demonstrations_) return *demonstrations_;
  demonstrations_.emplace();
  if (rag_.demonstrations == 0) return *demonstrations_;
  LoaderOptions options;
  options.shuffle = false;
  options.maximum_sequences = rag_.demonstrations;
  Loader loader(examples_.data, *tokenizer_, examples_.prompt, options);
  if (loader.sequences() < rag_.demonstrations)
    throw DataError(concat(examples_.data, ": rag.demonstrations: expected ", rag_.demonstrations,
                           " questions for training, got ", loader.sequences()));
  auto end = encode_template(*tokenizer_, rag_.demonstration_end);
  for (int64_t i = 0; i < rag_.demonstrations; ++i) {
    auto batch = loader.single(i);
    Text text;
    text.taken.resize(size_t(batch.context.size(1)));
    text.room = batch.context.size(1);
    auto ranked = best_first(batch, 0, batch.records[0][0].question);
    for (size_t p = 0; p < ranked.size() && int64_t(p) < rag_.demonstration_passages; ++p)
      take(ranked[p], text);
    const auto* context = batch.context.data_ptr<int64_t>();
    for (auto token : text.reading_order(false)) demonstrations_->push_back(context[token]);
    const auto* tail = batch.tail.data_ptr<int64_t>();
    demonstrations_->insert(demonstrations_->end(), tail, tail + batch.tail.size(1));
    demonstrations_->insert(demonstrations_->end(), end.begin(), end.end());
  }
  return *demonstrations_;
}

SelectedTokens RagMethod::select(const Batch& batch, const LanguageModelView& model,
                                 MethodState& state) {
  auto slots = batch.context.size(1);
  auto asked = requested_budget(state.options, batch.context_valid);
  auto budget = asked.defined() ? asked.to(at::kCPU) : at::full({batch.size()}, slots, at::kLong);
  spent_.assign(size_t(batch.size()), 0);
  std::vector<Text> texts(static_cast<size_t>(batch.size()));
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto& text = texts[size_t(b)];
    text.taken.resize(size_t(slots));
    text.room = budget[b].item<int64_t>();  // on the CPU
    auto ranked = best_first(batch, b, batch.records.at(size_t(b)).at(0).question);
    auto most = ranked.size();
    if (rag_.passages > 0) most = std::min(most, size_t(rag_.passages));
    for (size_t i = 0; i < most; ++i) take(ranked[i], text);
  }
  if (rag_.iterations > 0) iterate(batch, model, texts);
  return assemble(batch, model, texts, state);
}

SelectedTokens RagMethod::assemble(const Batch& batch, const LanguageModelView& model,
                                   const std::vector<Text>& texts, MethodState& state) {
  const auto& before = demonstrations();
  std::vector<std::vector<int64_t>> rows;
  size_t longest = 0;
  bool added = !before.empty();
  for (const auto& text : texts) {
    std::vector<int64_t> row(before.size(), -1);
    auto tokens = text.reading_order(rag_.order == "document");
    row.insert(row.end(), tokens.begin(), tokens.end());
    row.insert(row.end(), text.follow_ups.size(), -1);
    added |= !text.follow_ups.empty();
    longest = std::max(longest, row.size());
    rows.push_back(std::move(row));
  }
  SelectedTokens selected;
  selected.index = at::zeros({batch.size(), int64_t(longest)}, at::kLong);
  selected.mask = at::zeros(selected.index.sizes(), at::kBool);
  for (int64_t b = 0; b < batch.size(); ++b) {
    const auto& row = rows[size_t(b)];
    std::copy(row.begin(), row.end(), selected.index[b].data_ptr<int64_t>());
    selected.mask[b].narrow(0, 0, int64_t(row.size())).fill_(true);
  }
  if (added) {
    auto ids = batch.context.to(at::kCPU).gather(1, selected.index.clamp_min(0));
    for (int64_t b = 0; b < batch.size(); ++b) {
      auto* row = ids[b].data_ptr<int64_t>();
      const auto& behind = texts[size_t(b)].follow_ups;
      std::copy(before.begin(), before.end(), row);
      std::copy(behind.begin(), behind.end(), row + rows[size_t(b)].size() - behind.size());
    }
    state.selected_inputs = model.embed(ids.to(batch.context.device()));
  }
  selected.index = selected.index.to(batch.context.device());
  selected.mask = selected.mask.to(batch.context.device());
  // What is put together anew is numbered in a row.
  selected.reordered = rag_.order == "best_last" || added;
  if (longest > 0) selected.lengths.push_back(int64_t(longest));
  return selected;
}

}  // namespace dsrsq
