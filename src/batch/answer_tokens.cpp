#include "dsrsq/batch/answer_tokens.h"

namespace dsrsq {

std::vector<int32_t> answer_tokens(const Tokenizer& tokenizer, const PromptConfig& prompt,
                                   const StoredRecord& record) {
  std::vector<int32_t> answer;
  if (!record.answers.empty())
    answer = encode_template(tokenizer, prompt.answer, "{answer}", record.answers[0]);
  if (prompt.end_answer) answer.push_back(tokenizer.end_id());
  return answer;
}

}  // namespace dsrsq
