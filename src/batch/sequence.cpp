#include "sequence.h"

#include <torch/torch.h>

#include <algorithm>

namespace dsrsq {

namespace {

void mark(at::Tensor row, const std::vector<TokenSpan>& spans, int64_t length) {
  for (const auto& span : spans) {
    auto end = std::min(span.end, length);
    if (span.begin < end) row.slice(0, span.begin, end).fill_(true);
  }
}

template <typename Ids>
void copy_row(at::Tensor row, const Ids& ids) {
  auto* out = row.data_ptr<int64_t>();
  for (size_t i = 0; i < ids.size(); ++i) out[i] = int64_t(ids[i]);
}

EncoderInput encoder_input(const EncoderCollator& encoder, const Tokenizer& tokenizer,
                           const std::vector<Sequence>& rows, int64_t context_tokens) {
  std::vector<EncoderCollator::Context> contexts;
  std::vector<std::vector<std::vector<int32_t>>> questions;
  for (const auto& row : rows) {
    contexts.push_back(encoder.context(tokenizer, row.context));
    questions.emplace_back();
    for (const auto& record : row.records)
      questions.back().push_back(encoder.text(record.question));
  }
  return EncoderCollator::stack(contexts, questions, context_tokens);
}

}  // namespace

Batch stack(std::vector<Sequence> rows, const Tokenizer& tokenizer,
            const EncoderCollator* encoder) {
  int64_t longest_context = 1, longest_tail = 1, longest_question = 1, most_questions = 1;
  for (const auto& row : rows) {
    for (const auto& question : row.questions)
      longest_question = std::max<int64_t>(longest_question, int64_t(question.size()));
    longest_context = std::max<int64_t>(longest_context, int64_t(row.context.size()));
    longest_tail = std::max<int64_t>(longest_tail, int64_t(row.tail.size()));
    most_questions = std::max<int64_t>(most_questions, int64_t(row.questions.size()));
  }
  auto size = int64_t(rows.size());
  Batch batch;
  if (encoder != nullptr) batch.encoder = encoder_input(*encoder, tokenizer, rows, longest_context);
  batch.context = at::zeros({size, longest_context}, at::kLong);
  batch.context_valid = at::zeros({size, longest_context}, at::kBool);
  batch.passage = at::full({size, longest_context}, -1, at::kLong);
  batch.questions = at::zeros({size, most_questions, longest_question}, at::kLong);
  batch.questions_valid = at::zeros({size, most_questions, longest_question}, at::kBool);
  batch.evidence = at::zeros({size, most_questions, longest_context}, at::kBool);
  batch.answer_tokens = at::zeros_like(batch.evidence);
  batch.tail = at::zeros({size, longest_tail}, at::kLong);
  batch.tail_valid = at::zeros({size, longest_tail}, at::kBool);
  batch.labels = at::full({size, longest_tail}, kNoLabel, at::kLong);
  batch.label_question = at::full({size, longest_tail}, -1, at::kLong);
  for (int64_t b = 0; b < size; ++b) {
    auto& row = rows[size_t(b)];
    auto length = int64_t(row.context.size());
    copy_row(batch.context[b], row.context);
    copy_row(batch.passage[b], row.passages);
    batch.context_valid[b].slice(0, 0, length).fill_(true);
    copy_row(batch.tail[b], row.tail);
    copy_row(batch.labels[b], row.labels);
    copy_row(batch.label_question[b], row.label_question);
    batch.tail_valid[b].slice(0, 0, int64_t(row.tail.size())).fill_(true);
    for (size_t q = 0; q < row.questions.size(); ++q) {
      auto question = int64_t(q);
      copy_row(batch.questions[b][question], row.questions[q]);
      batch.questions_valid[b][question].slice(0, 0, int64_t(row.questions[q].size())).fill_(true);
      mark(batch.evidence[b][question], row.records[q].evidence, length);
      mark(batch.answer_tokens[b][question], row.records[q].answer_spans, length);
    }
    batch.sample_ids.push_back(row.sample_id);
    batch.records.push_back(std::move(row.records));
  }
  return batch;
}

}  // namespace dsrsq
