// Documents that are several passages. Private to src/data.
#pragma once

#include <string>

#include "dsrsq/data/example.h"

namespace dsrsq {

// Appends a passage to the document: after a blank line, the title (where there is one) as a line
// of its own. Returns the range of `text`.
ByteSpan append_passage(DocumentExample& example, const std::string& title,
                        const std::string& text);

}  // namespace dsrsq
