// Random tokens for suites that time a whole model. Private to src/bench.
#pragma once

#include <c10/core/Device.h>

#include "dsrsq/batch/collate.h"

namespace dsrsq::bench {

// `size` sequences of `context` tokens and a tail of `tail` tokens without labels, which is the
// retriever's question, too. From torch's generator.
Batch random_batch(int64_t vocabulary, int64_t size, int64_t context, int64_t tail,
                   c10::Device device);

}  // namespace dsrsq::bench
