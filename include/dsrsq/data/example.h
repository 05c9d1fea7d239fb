// A question over a document, as the readers give it: text and byte spans, before any tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

// Half-open byte range of the document's text.
struct ByteSpan {
  int64_t begin = 0;
  int64_t end = 0;
};

struct Question {
  std::string id;  // of the source, e.g. NQ's int64 example_id in decimal
  std::string text;
  std::vector<std::string> answers;  // empty: unanswerable, kept as such
  std::vector<ByteSpan>
      evidence;  // what supports the answer (supporting sentence, long answer); may be empty
  std::vector<ByteSpan> answer_spans;  // where the answer itself stands; may be empty
  std::string timestamp;               // ISO 8601 or empty
  int64_t source_line = 0;             // line in the source file, for messages
};

// Questions of one document stand together: consecutive pairs may share a training sequence
// (data.questions_per_sequence).
struct DocumentExample {
  std::string document;  // UTF-8; empty: closed-book questions, which have no context
  std::string title;
  std::vector<Question> questions;
  // Of a document that is put together from passages: their ranges, titles included, in order.
  // Empty (or one): the document is one passage.
  std::vector<ByteSpan> passages = {};
  // What a split may not cut, where neither the document nor the question says it: two cuts of one
  // source file are other documents, "What is the next line?" is asked of all. Documents that share
  // a key are in one split; without keys, those that share a question, the document or a passage.
  std::vector<std::string> split_keys = {};
};

}  // namespace dsrsq
