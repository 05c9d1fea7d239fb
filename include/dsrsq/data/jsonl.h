// Examples as the project's own plain JSONL (format `jsonl` of data/readers.h): what every format
// is read as, for other tools and for the training of tokenizers.
#pragma once

#include <string>

#include "dsrsq/data/example.h"

namespace dsrsq {

// A line for each question, newline included: id, timestamp (where there is one), context (or, of a
// document put together from passages, documents), question, answers, evidence and answer_spans as
// code points of the context. read_jsonl gives the same example, but for its title.
std::string to_jsonl(const DocumentExample& example);

}  // namespace dsrsq
