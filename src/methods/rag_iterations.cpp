// IterDRAG: follow-up questions of the model's own, each with passages and an answer, in front of
// the question that is asked.
#include <torch/torch.h>

#include <algorithm>
#include <string>

#include "dsrsq/methods/prompt_reader.h"
#include "dsrsq/methods/rag.h"

namespace dsrsq {

namespace {

template <typename Ids>
void append(std::vector<int64_t>& to, const Ids& ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

// Without white space around it.
std::string trimmed(const std::string& text) {
  const char* white = " \n\t\r";
  auto begin = text.find_first_not_of(white);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(white) + 1 - begin);
}

// Sequences whose model had nothing to ask are done.
void drop_silent(std::vector<int64_t>& open, std::vector<std::vector<int32_t>>& questions) {
  std::vector<int64_t> asking;
  std::vector<std::vector<int32_t>> asked;
  for (size_t s = 0; s < open.size(); ++s) {
    if (questions[s].empty()) continue;
    asking.push_back(open[s]);
    asked.push_back(std::move(questions[s]));
  }
  open = std::move(asking);
  questions = std::move(asked);
}

}  // namespace

// What the reader would read now of each sequence in `open`, up to the question.
std::vector<std::vector<int64_t>> RagMethod::prompts(const Batch& batch,
                                                     const LanguageModelView& model,
                                                     const std::vector<Text>& texts,
                                                     const std::vector<int64_t>& open) {
  auto context = batch.context.to(at::kCPU).contiguous();
  std::vector<std::vector<int64_t>> rows;
  for (auto b : open) {
    auto row = model.front_ids;
    append(row, demonstrations());
    const auto* ids = context.data_ptr<int64_t>() + b * context.size(1);
    for (auto token : texts[size_t(b)].reading_order(rag_.order == "document"))
      row.push_back(ids[token]);
    append(row, texts[size_t(b)].follow_ups);
    rows.push_back(std::move(row));
  }
  return rows;
}

// Whether the model holds rag.follow_up for a likelier opening than rag.final_answer: by the first
// token in which they differ, behind what they share.
std::vector<bool> RagMethod::asks_on(const std::vector<std::vector<int64_t>>& prompts,
                                     const std::vector<int64_t>& open,
                                     const LanguageModelView& model, at::Device device) {
  auto asks = encode_template(*tokenizer_, rag_.follow_up),
       ends = encode_template(*tokenizer_, rag_.final_answer);
  size_t shared = 0;
  auto least = std::min(asks.size(), ends.size());
  while (shared < least && asks[shared] == ends[shared]) ++shared;
  // Where one is the other's beginning, the last token of the shorter is compared with the next.
  shared = std::min(shared, least - 1);
  auto rows = prompts;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].insert(rows[i].end(), asks.begin(), asks.begin() + long(shared));
    spent_[size_t(open[i])] += int64_t(rows[i].size());
  }
  std::vector<bool> result;
  for (auto [begin, end] : prompt_parts(rows)) {
    PromptReader reader(shape_, model, device);
    auto logits = reader.read({rows.begin() + long(begin), rows.begin() + long(end)});
    auto more = logits.select(1, asks[shared]).gt(logits.select(1, ends[shared])).to(at::kCPU);
    for (size_t i = 0; i < end - begin; ++i) result.push_back(more.data_ptr<bool>()[i]);
  }
  return result;
}

// A line each.
std::vector<std::vector<int32_t>> RagMethod::write(std::vector<std::vector<int64_t>> prompts,
                                                   const std::vector<int64_t>& open,
                                                   const LanguageModelView& model,
                                                   at::Device device) {
  auto stops = [&](int32_t token) {
    // A special token (the end of an answer) is no text.
    auto text = tokenizer_->decode({token});
    return text.empty() || text.find('\n') != std::string::npos;
  };
  auto written = continue_prompts(prompts, rag_.iteration_tokens, stops, shape_, model, device);
  for (size_t i = 0; i < open.size(); ++i)
    spent_[size_t(open[i])] += int64_t(prompts[i].size() + written[i].size());
  return written;
}

void RagMethod::iterate(const Batch& batch, const LanguageModelView& model,
                        std::vector<Text>& texts) {
  at::NoGradGuard no_grad;
  auto device = batch.context.device();
  auto asks = encode_template(*tokenizer_, rag_.follow_up),
       answers = encode_template(*tokenizer_, rag_.intermediate_answer);
  auto tail = batch.tail.to(at::kCPU).contiguous(), tail_valid = batch.tail_valid.to(at::kCPU);
  std::vector<int64_t> open;
  for (int64_t b = 0; b < batch.size(); ++b) open.push_back(b);
  for (int64_t i = 0; i < rag_.iterations && !open.empty(); ++i) {
    auto asked = prompts(batch, model, texts, open);
    for (size_t s = 0; s < open.size(); ++s) {
      const auto* question = tail.data_ptr<int64_t>() + open[s] * tail.size(1);
      auto length = tail_valid[open[s]].sum().item<int64_t>();
      asked[s].insert(asked[s].end(), question, question + length);
    }
    auto more = asks_on(asked, open, model, device);
    std::vector<std::vector<int64_t>> asking;
    std::vector<int64_t> still;
    for (size_t s = 0; s < open.size(); ++s) {
      if (!more[s]) continue;
      append(asked[s], asks);
      asking.push_back(std::move(asked[s]));
      still.push_back(open[s]);
    }
    open = std::move(still);
    auto questions = write(std::move(asking), open, model, device);
    drop_silent(open, questions);
    retrieve(batch, open, questions, texts);
    // A follow-up question is answered as the question itself will be.
    auto prompted = prompts(batch, model, texts, open);
    for (size_t s = 0; s < open.size(); ++s)
      append(prompted[s], encode_template(*tokenizer_, examples_.prompt.question, "{question}",
                                          trimmed(tokenizer_->decode(questions[s]))));
    auto found = write(std::move(prompted), open, model, device);
    for (size_t s = 0; s < open.size(); ++s)
      for (const auto* part : {&asks, &questions[s], &answers, &found[s]})
        append(texts[size_t(open[s])].follow_ups, *part);
  }
}

void RagMethod::retrieve(const Batch& batch, const std::vector<int64_t>& open,
                         const std::vector<std::vector<int32_t>>& questions,
                         std::vector<Text>& texts) const {
  for (size_t s = 0; s < open.size(); ++s) {
    auto& text = texts[size_t(open[s])];
    int64_t added = 0;
    for (const auto& unit : best_first(batch, open[s], trimmed(tokenizer_->decode(questions[s])))) {
      if (added == rag_.iteration_passages || text.room == 0) break;
      auto room = text.room;
      take(unit, text);
      added += text.room < room;  // a unit that was read already is none
    }
  }
}

}  // namespace dsrsq
