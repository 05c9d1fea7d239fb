// What a sentence encoder reads of a batch: the texts once more, in its own word pieces, cut into
// windows that it can take, and which pieces stand behind each token of the backbone.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct EncoderInput {
  at::Tensor windows;        // [B, E, L] int64: [CLS] pieces [SEP], 0 where padded
  at::Tensor windows_valid;  // [B, E, L] bool
  at::Tensor pieces;  // [B, M] int64: places e L + l of the pieces of token 0, of token 1, ...,
                      // then padding; a piece that overlaps two tokens stands twice
  at::Tensor piece_counts;     // [B, N + 1] int64: pieces of each token; last the padding
  at::Tensor questions;        // [B, Q, T] int64: [CLS] pieces [SEP]
  at::Tensor questions_valid;  // [B, Q, T] bool
  bool defined() const { return windows.defined(); }
  std::vector<at::Tensor*> tensors() {
    return {&windows, &windows_valid, &pieces, &piece_counts, &questions, &questions_valid};
  }
};

class EncoderCollator {
 public:
  // The tokenizer of the encoder's folder; `window`: word pieces of a window, [CLS] and [SEP]
  // included, at least 8. Throws DataError where it has no [CLS] and [SEP].
  EncoderCollator(const std::string& folder, int64_t window);

  // A context's windows: cut at the last line break or sentence end in their second half, else
  // where they are full.
  struct Context {
    std::vector<std::vector<int32_t>> windows;
    std::vector<std::pair<int64_t, int64_t>> pieces;  // window, place in it; token after token
    std::vector<int64_t> counts;                      // of each token of the context
  };
  // `ids`: of the backbone's tokenizer.
  Context context(const Tokenizer& backbone, const std::vector<int32_t>& ids) const;
  // [CLS] pieces [SEP]; a longer text is cut to a window.
  std::vector<int32_t> text(const std::string& text) const;

  // One row a context; questions[b] are texts() of that row's questions.
  static EncoderInput stack(const std::vector<Context>& contexts,
                            const std::vector<std::vector<std::vector<int32_t>>>& questions,
                            int64_t context_tokens);
  // Texts [P, L] and their validity, as SentenceEncoder::embed takes them.
  struct Texts {
    at::Tensor ids, valid;
  };
  Texts texts(const std::vector<std::string>& texts) const;

 private:
  bool ends_sentence(int32_t id) const {
    return id == stops_[0] || id == stops_[1] || id == stops_[2];
  }

  Tokenizer tokenizer_;
  int64_t window_;
  int32_t first_, last_;  // [CLS], [SEP]
  int32_t stops_[3];      // . ? !
};

}  // namespace dsrsq
