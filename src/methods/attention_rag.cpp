#include "dsrsq/methods/attention_rag.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "dsrsq/methods/prompt_reader.h"

namespace dsrsq {

void AttentionRagConfig::visit_fields(ConfigVisitor& v) {
  v.field("chunk", chunk, "Tokens that are read at a time.", at_least(1));
  v.field("tokens", tokens,
          "Most attended tokens of a chunk whose sentences stay, without --budget.", at_least(1));
  v.field("instruction", instruction, "Text behind a chunk that says what to answer without one.");
}

namespace {

bool is_white(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::string lower(std::string text) {
  for (auto& c : text)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return text;
}

// Without white space and question marks around it.
std::string trimmed(const std::string& text) {
  size_t begin = 0, end = text.size();
  while (begin < end && is_white(text[begin])) ++begin;
  while (end > begin && (is_white(text[end - 1]) || text[end - 1] == '?')) --end;
  return text.substr(begin, end - begin);
}

}  // namespace

std::string answer_prefix(const std::string& question) {
  auto asked = trimmed(question);
  auto lowered = lower(asked);
  struct Rule {
    const char* opening;
    const char* before;
    const char* behind;
  };
  // Longer openings first.
  static constexpr Rule kRules[] = {{"how many ", "The number of ", " is"},
                                    {"who ", "The person who ", " is"},
                                    {"when ", "The time when ", " is"},
                                    {"where ", "The place where ", " is"},
                                    {"which ", "The ", " is"},
                                    {"what is ", "", " is"},
                                    {"what was ", "", " was"},
                                    {"what ", "The answer to what ", " is"}};
  for (const auto& rule : kRules) {
    std::string opening = rule.opening;
    if (lowered.rfind(opening, 0) != 0) continue;
    auto rest = trimmed(asked.substr(opening.size()));
    if (rest.empty()) return "";
    auto prefix = rule.before + rest + rule.behind;
    if (prefix[0] >= 'a' && prefix[0] <= 'z') prefix[0] = char(prefix[0] - 'a' + 'A');
    return prefix;
  }
  return "";
}

std::vector<int64_t> sentences(const std::string& text, const std::vector<Tokenizer::Span>& spans) {
  std::vector<int64_t> of_byte(text.size(), 0);
  int64_t sentence = 0;
  bool ended = false, any = false;  // any: the sentence has a word
  for (size_t i = 0; i < text.size(); ++i) {
    if (!is_white(text[i]) && ended && any) {
      ++sentence;
      any = false;
    }
    if (!is_white(text[i])) {
      any = true;
      ended = false;
    }
    bool stops = text[i] == '.' || text[i] == '!' || text[i] == '?';
    if (text[i] == '\n' || (stops && i + 1 < text.size() && is_white(text[i + 1]))) ended = true;
    of_byte[i] = sentence;
  }
  std::vector<int64_t> of_token;
  for (const auto& span : spans)
    of_token.push_back(span.end > 0 ? of_byte[size_t(span.end - 1)] : 0);
  return of_token;
}

AttentionRagMethod::AttentionRagMethod(std::shared_ptr<Method> reader,
                                       const AttentionRagConfig& config, const PromptConfig& prompt,
                                       std::shared_ptr<const Tokenizer> tokenizer)
    : SelectorMethod(std::move(reader), {}, 0),
      own_(config),
      opening_(prompt.answer.substr(0, prompt.answer.find("{answer}"))),
      tokenizer_(std::move(tokenizer)) {}

std::vector<AttentionRagMethod::Reading> AttentionRagMethod::read_chunks(
    const std::vector<Text>& texts, const LanguageModelView& model, at::Device device) {
  const auto instruction = tokenizer_->encode(own_.instruction);
  struct Chunk {
    size_t text, begin, tokens;
  };
  std::vector<Chunk> chunks;
  std::vector<std::vector<int64_t>> rows;
  std::vector<Reading> readings(texts.size());
  spent_.assign(texts.size(), 0);
  for (size_t t = 0; t < texts.size(); ++t) {
    const auto& [context, question, prefix] = texts[t];
    const auto hint = tokenizer_->encode(prefix.empty() ? "" : opening_ + prefix);
    readings[t].attention.assign(context.size(), 0);
    for (size_t begin = 0; begin < context.size(); begin += size_t(own_.chunk)) {
      auto end = std::min(begin + size_t(own_.chunk), context.size());
      auto row = model.front_ids;
      row.insert(row.end(), context.begin() + long(begin), context.begin() + long(end));
      for (const auto* part : {&instruction, &question, &hint})
        row.insert(row.end(), part->begin(), part->end());
      rows.push_back(std::move(row));
      chunks.push_back({t, begin, end - begin});
    }
  }
  auto front = int64_t(model.front_ids.size());
  for (auto [first, end] : prompt_parts(rows)) {
    PromptReader reader(shape_, model, device);
    auto anchor =
        reader.read({rows.begin() + long(first), rows.begin() + long(end)}).argmax(-1, true);
    reader.next(anchor, /*record=*/true);
    auto mass =
        reader.read_mass().select(1, 0).to(at::kCPU, at::kDouble).contiguous();  // [C, ranks]
    auto said = anchor.to(at::kCPU).contiguous();
    for (size_t i = 0; i < end - first; ++i) {
      const auto& [text, begin, tokens] = chunks[first + i];
      spent_[text] += int64_t(rows[first + i].size()) + 1;
      auto& reading = readings[text];
      const auto* own = mass.data_ptr<double>() + int64_t(i) * mass.size(1) + front;
      std::copy(own, own + tokens, reading.attention.begin() + long(begin));
      auto word = lower(trimmed(tokenizer_->decode({int32_t(said.data_ptr<int64_t>()[i])})));
      reading.answers.push_back(!word.empty() && word != "none");
    }
  }
  return readings;
}

// Higher is read first; -inf: never. A sentence's tokens have one score, that of its best token,
// but for a little that keeps them in order.
std::vector<double> AttentionRagMethod::token_scores(const std::vector<int32_t>& context,
                                                     const Reading& reading, bool budgeted) const {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  std::vector<Tokenizer::Span> spans;
  auto text = tokenizer_->decode_with_spans(context, spans);
  auto sentence = sentences(text, spans);
  bool any =
      std::find(reading.answers.begin(), reading.answers.end(), true) != reading.answers.end();
  auto chunk_of = [&](size_t i) { return i / size_t(own_.chunk); };
  std::vector<size_t> ranked;  // tokens of the chunks that answer, most attended first
  for (size_t i = 0; i < context.size(); ++i)
    if (!any || reading.answers[chunk_of(i)]) ranked.push_back(i);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](size_t x, size_t y) { return reading.attention[x] > reading.attention[y]; });
  std::vector<int64_t> taken(reading.answers.size(), 0);
  std::vector<int64_t> best;  // sentences
  std::set<int64_t> chosen;
  for (auto i : ranked) {
    if (!budgeted && taken[chunk_of(i)]++ >= own_.tokens) continue;
    if (chosen.insert(sentence[i]).second) best.push_back(sentence[i]);
  }
  std::vector<double> scores(context.size(), kNever);
  double next = 0;  // falls token by token, sentence by sentence
  for (auto one : best) {
    auto [begin, end] = std::equal_range(sentence.begin(), sentence.end(), one);
    for (auto i = begin - sentence.begin(); i < end - sentence.begin(); ++i)
      scores[size_t(i)] = next--;
  }
  return scores;
}

SelectedTokens AttentionRagMethod::select(const Batch& batch, const LanguageModelView& model,
                                          MethodState& state) {
  at::NoGradGuard no_grad;
  auto context = batch.context.to(at::kCPU).contiguous();
  auto context_valid = batch.context_valid.to(at::kCPU);
  auto question = batch.questions.select(1, 0).to(at::kCPU).contiguous();
  auto question_valid = batch.questions_valid.select(1, 0).to(at::kCPU);
  std::vector<Text> texts;
  for (int64_t b = 0; b < batch.size(); ++b) {
    const auto* ids = context[b].data_ptr<int64_t>();
    const auto* asked = question[b].data_ptr<int64_t>();
    Text text;
    text.context.assign(ids, ids + context_valid[b].sum().item<int64_t>());
    text.question.assign(asked, asked + question_valid[b].sum().item<int64_t>());
    text.prefix = answer_prefix(batch.records.at(size_t(b)).at(0).question);
    texts.push_back(std::move(text));
  }
  auto readings = read_chunks(texts, model, batch.context.device());
  for (auto& branch : state.branches) {
    prepare(batch, model, branch);
    branch.selected = choose_sentences(batch, texts, readings, branch);
  }
  return choose_sentences(batch, texts, readings, state);
}

SelectedTokens AttentionRagMethod::choose_sentences(const Batch& batch,
                                                    const std::vector<Text>& texts,
                                                    const std::vector<Reading>& readings,
                                                    MethodState& state) const {
  auto score = at::full({batch.size(), batch.context.size(1)},
                        -std::numeric_limits<double>::infinity(), at::kDouble);
  bool budgeted = state.options.budget > 0 || state.options.budget_share > 0;
  int64_t most = 1;
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto scores = token_scores(texts[size_t(b)].context, readings[size_t(b)], budgeted);
    std::copy(scores.begin(), scores.end(), score[b].data_ptr<double>());
    most = std::max<int64_t>(most, score[b].isfinite().sum().item<int64_t>());
  }
  auto own = state.options;
  if (!budgeted) state.options.budget = most;
  state.options.select_per_segment = false;
  auto selected = reader_->choose(score.to(batch.context.device()), batch, state);
  state.options = own;
  return selected;
}

}  // namespace dsrsq
