// The one legend of dimension letters. Every tensor in a header ends its line with its shape in
// these letters.
//
//   B    batch: sequences
//   N    context tokens of a sequence
//   n    tokens that were selected out of N
//   T    tokens of the reader's sequence or of a part of it: [sinks][selected
//   context][question][answer] H    query heads          H_kv  key-value heads          d  head
//   width D    model width          r     retriever width          V  vocabulary size m    clusters
//   a head      k     clusters a query attends c    latent width         L     latent buffer length
//   S    segment length: context tokens of one segment; W: exact window, tokens
//
// Units: tokens, bytes, seconds; MB = 10^6 bytes.
#pragma once
