#include "dsrsq/batch/collate.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/batch/answer_tokens.h"
#include "dsrsq/batch/text_chunks.h"
#include "dsrsq/core/error.h"
#include "dsrsq/text/question_parts.h"
#include "sequence.h"

namespace dsrsq {

namespace {

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
      if (is_text(record))
        throw DataError(concat(store_.path(), ": record ", index, " (id ", record.id,
                               ") has no question among records that do; prepare them apart"));
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
