// Language modelling (D2): a document without a question is predicted chunk by chunk. The
// retriever's query for a chunk is the chunk before it, and its candidates end before that one, so
// that whoever chooses sees nothing of what is to be predicted.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dsrsq/batch/collate.h"

namespace dsrsq {

// A record of the format `text`: no question and no answer.
bool is_text(const StoredRecord& record);

// Token places of a document, first <= query < begin < end.
struct TextChunk {
  int64_t record = 0;
  int64_t first = 0;  // Batch::context is [first, query): the candidates; may be empty
  int64_t query = 0;  // [query, begin) is what the retriever reads, and the reader reads it whole
  int64_t begin = 0;  // [begin, end) is predicted
  int64_t end = 0;
};

// The chunks of a document of `tokens` tokens, of `chunk` tokens each, the last one shorter, but
// for the first, which is only read. maximum_context: at most so many candidates, the nearest (0:
// all). Empty where the document is not longer than a chunk.
std::vector<TextChunk> text_chunks(int64_t record, int64_t tokens, int64_t chunk,
                                   int64_t maximum_context);

// One sequence a chunk: the tail is [query, end), with labels on what is predicted alone;
// loss.task_tokens: all adds the rest. The sample id is of (record, begin). The records have the
// query as their question.
class TextCollator {
 public:
  // `encoder` fills Batch::encoder; null where the run has no sentence encoder.
  TextCollator(const Store& store, const Tokenizer& tokenizer,
               std::shared_ptr<const EncoderCollator> encoder = nullptr);
  // Throws DataError for a record with a question.
  Batch collate(const std::vector<TextChunk>& chunks) const;

 private:
  const Store& store_;
  const Tokenizer& tokenizer_;
  TextPassages passages_;
  std::shared_ptr<const EncoderCollator> encoder_;
};

}  // namespace dsrsq
