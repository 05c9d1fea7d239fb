// Documents that are put together from passages or paragraphs. Private to src/data.
#pragma once

#include <string>

#include "dsrsq/data/example.h"

namespace dsrsq {

// Appends a passage to the document: after a blank line, the title (where there is one) as a line
// of its own. Returns the range of `text`.
ByteSpan append_passage(DocumentExample& example, const std::string& title,
                        const std::string& text);

// The same for a document that is one text: its paragraphs are no passages.
ByteSpan append_paragraph(std::string& document, const std::string& heading,
                          const std::string& text);

}  // namespace dsrsq
