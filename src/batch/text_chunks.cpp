#include "dsrsq/batch/text_chunks.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "dsrsq/core/error.h"
#include "sequence.h"

namespace dsrsq {

bool is_text(const StoredRecord& record) {
  return record.question.empty() && record.answers.empty();
}

std::vector<TextChunk> text_chunks(int64_t record, int64_t tokens, int64_t chunk,
                                   int64_t maximum_context) {
  std::vector<TextChunk> chunks;
  for (int64_t begin = chunk; begin < tokens; begin += chunk) {
    auto query = begin - chunk;
    auto first = maximum_context > 0 ? std::max<int64_t>(0, query - maximum_context) : 0;
    chunks.push_back({record, first, query, begin, std::min(begin + chunk, tokens)});
  }
  return chunks;
}

TextCollator::TextCollator(const Store& store, const Tokenizer& tokenizer,
                           std::shared_ptr<const EncoderCollator> encoder)
    : store_(store), tokenizer_(tokenizer), passages_(tokenizer), encoder_(std::move(encoder)) {}

Batch TextCollator::collate(const std::vector<TextChunk>& chunks) const {
  std::vector<Sequence> rows;
  for (const auto& chunk : chunks) {
    auto record = store_.record(chunk.record);
    if (!is_text(record))
      throw DataError(concat(store_.path(), ": record ", chunk.record, " (id ", record.id,
                             ") has a question among texts without; prepare them apart"));
    auto document = store_.document_tokens(record.document);
    TORCH_CHECK(0 <= chunk.first && chunk.first <= chunk.query && chunk.query < chunk.begin &&
                    chunk.begin < chunk.end && chunk.end <= int64_t(document.size()),
                "text chunk of record ", chunk.record, ": places ", chunk.first, ", ", chunk.query,
                ", ", chunk.begin, ", ", chunk.end, " of ", document.size(), " tokens");
    auto part = [&](int64_t begin, int64_t end) {
      return std::vector<int32_t>(document.begin() + begin, document.begin() + end);
    };
    Sequence row;
    row.context = part(chunk.first, chunk.query);
    row.passages = passages_.passages(row.context);
    row.questions.push_back(part(chunk.query, chunk.begin));
    for (auto place = chunk.query; place < chunk.end; ++place) {
      auto predicts = place + 1 >= chunk.begin && place + 1 < chunk.end;
      row.tail.push_back(document[size_t(place)]);
      row.labels.push_back(predicts ? document[size_t(place) + 1] : kNoLabel);
      row.label_question.push_back(predicts ? 0 : -1);
    }
    record.question = tokenizer_.decode(row.questions[0]);
    row.records.push_back(std::move(record));
    row.sample_id = (chunk.begin << 32) | chunk.record;
    rows.push_back(std::move(row));
  }
  return stack(std::move(rows), tokenizer_, encoder_.get());
}

}  // namespace dsrsq
