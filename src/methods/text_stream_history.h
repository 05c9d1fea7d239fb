// What the retriever found in the histories of a TextStream.
#pragma once

#include "dsrsq/methods/text_stream.h"

namespace dsrsq {

// Tokens brought back, ascending, padding at the end.
struct TextStream::Found {
  at::Tensor windows;  // [B, n, w] int64 ids of the token (last) and of those before it, as far as
                       // the retriever's convolution reaches; -1: before the document's beginning
  at::Tensor valid;    // [B, n] bool
  at::Tensor order;    // [B, n] int64 rank in the reader's sequence; below the sinks' end: of an
                       // earlier document
  int64_t slots() const { return windows.defined() ? windows.size(1) : 0; }
};

}  // namespace dsrsq
