// Where the answers of a batch stood when they were decoded.
#pragma once

#include "dsrsq/batch/collate.h"
#include "dsrsq/eval/answers.h"
#include "dsrsq/model/method.h"

namespace dsrsq {

// Fills place, retained and answer_held of the batch's questions, [B] of them, from the state that
// decoding left. `sinks`: tokens in front of what was selected. What is counted is read once a
// batch: on a GPU every number that is read waits.
void locate_answers(const Batch& batch, const MethodState& state, int64_t sinks,
                    QuestionResult* questions);

}  // namespace dsrsq
