#include "dsrsq/batch/collate.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/batch/answer_tokens.h"
#include "dsrsq/core/error.h"
#include "dsrsq/text/question_parts.h"

namespace dsrsq {

namespace {

constexpr int64_t kNoLabel = -100;

using Values = std::vector<std::pair<std::string, std::string>>;  // of placeholders

// Values are text: a placeholder in one stays as it is.
std::string filled(const std::string& pattern, const Values& values) {
  std::string text;
  for (size_t at = 0; at < pattern.size();) {
    auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) {
      return pattern.compare(at, value.first.size(), value.first) == 0;
    });
    text += found == values.end() ? pattern.substr(at, 1) : found->second;
    at += found == values.end() ? 1 : found->first.size();
  }
  return text;
}

std::vector<int32_t> encode_filled(const Tokenizer& tokenizer, const std::string& pattern,
                                   const Values& values) {
  std::vector<int32_t> ids;
  auto add = [&](const std::string& part) {
    auto more = tokenizer.encode(filled(part, values));
    ids.insert(ids.end(), more.begin(), more.end());
  };
  size_t begin = 0;  // of the text that holds no special token
  for (size_t open = pattern.find('<'); open != std::string::npos;
       open = pattern.find('<', open + 1)) {
    auto close = pattern.find('>', open);
    if (close == std::string::npos) break;
    auto id = tokenizer.token_id(pattern.substr(open, close + 1 - open));
    if (id < 0) continue;
    add(pattern.substr(begin, open - begin));
    ids.push_back(id);
    begin = close + 1;
    open = close;
  }
  add(pattern.substr(begin));
  return ids;
}

std::vector<int32_t> encode_question(const Tokenizer& tokenizer, const std::string& pattern,
                                     const std::string& question) {
  auto parts = question_parts(question);
  return encode_filled(tokenizer, pattern,
                       {{"{question}", question},
                        {"{stem}", parts.stem},
                        {"{options}", parts.options},
                        {"{quoted}", parts.quoted}});
}

}  // namespace

std::vector<int32_t> encode_template(const Tokenizer& tokenizer, const std::string& pattern,
                                     const std::string& placeholder, const std::string& value) {
  return encode_filled(tokenizer, pattern,
                       placeholder.empty() ? Values{} : Values{{placeholder, value}});
}

namespace {

struct Sequence {
  std::vector<int32_t> context;
  std::vector<int64_t> passages;
  std::vector<std::vector<int32_t>> questions;
  std::vector<int64_t> tail;
  std::vector<int64_t> labels;
  std::vector<int64_t> label_question;
  std::vector<StoredRecord> records;
  int64_t sample_id = 0;
};

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

}  // namespace

void PromptConfig::visit_fields(ConfigVisitor& v) {
  v.field(
      "prefix", prefix,
      "Text in front of every context: an instruction, examples. The begin of a chat template's "
      "turn may stand here: tokens such as <|im_start|> are recognised, in question and answer "
      "too.");
  v.field("question", question,
          "Text of a question in the reader's sequence; must contain {question}.");
  v.field("answer", answer, "Text of an answer after it; must contain {answer}.");
  v.field("end_answer", end_answer, "End each answer with the end token, and learn to stop.");
}

void PromptConfig::validate(const ConfigLocations& locations) const {
  for (auto [key, pattern, placeholder] : {std::tuple{"prompt.question", &question, "{question}"},
                                           {"prompt.answer", &answer, "{answer}"}})
    if (pattern->find(placeholder) == std::string::npos)
      throw ConfigError(concat(locations.of(key), ": ", key, ": expected a text that contains ",
                               placeholder, ", got '", *pattern, "'"));
}

int64_t Batch::label_tokens() const {
  return labels.defined() ? (labels >= 0).sum().item<int64_t>() : 0;
}
int64_t Batch::questions_with_evidence() const { return evidence.any(-1).sum().item<int64_t>(); }

Batch Batch::to(at::Device device) const {
  Batch moved = *this;
  for (auto* tensor : {&moved.context, &moved.context_valid, &moved.passage, &moved.questions,
                       &moved.questions_valid, &moved.evidence, &moved.answer_tokens, &moved.tail,
                       &moved.tail_valid, &moved.labels, &moved.label_question})
    if (tensor->defined()) *tensor = tensor->to(device);
  for (auto* tensor : moved.encoder.tensors())
    if (tensor->defined()) *tensor = tensor->to(device);
  return moved;
}

Batch Batch::rows(const std::vector<int64_t>& index) const {
  Batch chosen = *this;
  auto on_device = at::tensor(index, at::kLong).to(context.device());
  for (auto* tensor : {&chosen.context, &chosen.context_valid, &chosen.passage, &chosen.questions,
                       &chosen.questions_valid, &chosen.evidence, &chosen.answer_tokens,
                       &chosen.tail, &chosen.tail_valid, &chosen.labels, &chosen.label_question})
    if (tensor->defined()) *tensor = tensor->index_select(0, on_device);
  for (auto* tensor : chosen.encoder.tensors())
    if (tensor->defined()) *tensor = tensor->index_select(0, on_device);
  chosen.sample_ids.clear();
  chosen.records.clear();
  for (auto row : index) {
    chosen.sample_ids.push_back(sample_ids.at(size_t(row)));
    chosen.records.push_back(records.at(size_t(row)));
  }
  return chosen;
}

Collator::Collator(const Store& store, const Tokenizer& tokenizer, const PromptConfig& prompt,
                   int64_t maximum_context, std::shared_ptr<const EncoderCollator> encoder)
    : store_(store),
      tokenizer_(tokenizer),
      prompt_(prompt),
      maximum_context_(maximum_context),
      passages_(tokenizer),
      encoder_(std::move(encoder)) {}

namespace {

void add_question(Sequence& row, std::vector<int32_t> question) {
  row.tail.insert(row.tail.end(), question.begin(), question.end());
  row.labels.resize(row.tail.size(), kNoLabel);
  row.label_question.resize(row.tail.size(), -1);
  row.questions.push_back(std::move(question));
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

}  // namespace

Batch Collator::collate(const std::vector<std::vector<int64_t>>& sequences,
                        bool with_answers) const {
  std::vector<Sequence> rows;
  for (const auto& indices : sequences) {
    Sequence row;
    row.context = store_.document_tokens(store_.document_of(indices.at(0)));
    if (maximum_context_ > 0 && int64_t(row.context.size()) > maximum_context_) {
      row.context.resize(size_t(maximum_context_));
    }
    row.passages = passages_.passages(row.context);
    for (auto index : indices) {
      row.records.push_back(store_.record(index));
      const auto& record = row.records.back();
      add_question(row, encode_question(tokenizer_, prompt_.question, record.question));
      if (with_answers) {
        for (auto token : answer_tokens(tokenizer_, prompt_, record)) {
          row.labels.back() = token;  // the position before predicts it
          row.label_question.back() = int64_t(row.questions.size()) - 1;
          row.tail.push_back(token);
          row.labels.push_back(kNoLabel);
          row.label_question.push_back(-1);
        }
      }
    }
    row.sample_id = indices[0];
    rows.push_back(std::move(row));
  }
  return stack(std::move(rows), tokenizer_, encoder_.get());
}

Batch collate_text(const Tokenizer& tokenizer, const PromptConfig& prompt,
                   const std::vector<TextQuestion>& sequences, const EncoderCollator* encoder) {
  TextPassages passages(tokenizer);
  std::vector<Sequence> rows;
  for (const auto& [context, question] : sequences) {
    Sequence row;
    row.context = tokenizer.encode(context);
    row.passages = passages.passages(row.context);
    add_question(row, encode_question(tokenizer, prompt.question, question));
    StoredRecord record;
    record.question = question;
    row.records.push_back(std::move(record));
    row.sample_id = int64_t(rows.size());
    rows.push_back(std::move(row));
  }
  return stack(std::move(rows), tokenizer, encoder);
}

}  // namespace dsrsq
