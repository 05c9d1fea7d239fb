#include "dsrsq/batch/encoder_input.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

void fill_row(const at::Tensor& ids, const at::Tensor& valid, const std::vector<int32_t>& pieces) {
  std::copy(pieces.begin(), pieces.end(), ids.data_ptr<int64_t>());
  valid.narrow(0, 0, int64_t(pieces.size())).fill_(true);
}

}  // namespace

EncoderCollator::EncoderCollator(const std::string& folder, int64_t window)
    : tokenizer_(Tokenizer::from_file(folder)), window_(window) {
  TORCH_CHECK(window >= 8, "encoder window of ", window, " word pieces");
  first_ = tokenizer_.token_id("[CLS]");
  last_ = tokenizer_.token_id("[SEP]");
  if (first_ < 0 || last_ < 0)
    throw DataError(concat(folder,
                           ": expected a tokenizer with the tokens [CLS] and [SEP], as BERT's "
                           "has; take the encoder's own"));
  const char* stops[] = {".", "?", "!"};
  for (size_t i = 0; i < 3; ++i) stops_[i] = tokenizer_.token_id(stops[i]);
}

std::vector<int32_t> EncoderCollator::text(const std::string& text) const {
  auto pieces = tokenizer_.encode(text);
  if (int64_t(pieces.size()) > window_ - 2) pieces.resize(size_t(window_ - 2));
  pieces.insert(pieces.begin(), first_);
  pieces.push_back(last_);
  return pieces;
}

EncoderCollator::Context EncoderCollator::context(const Tokenizer& backbone,
                                                  const std::vector<int32_t>& ids) const {
  std::vector<Tokenizer::Span> tokens, spans;
  auto text = backbone.decode_with_spans(ids, tokens);
  auto pieces = tokenizer_.encode_with_spans(text, spans);
  auto ends_line = [&](size_t piece) {  // a line break stands between this piece and the next
    auto begin = size_t(spans[piece].end), end = size_t(spans[piece + 1].begin);
    return text.find('\n', begin) < end;
  };
  Context out;
  std::vector<std::pair<int64_t, int64_t>> place(pieces.size());
  auto full = size_t(window_ - 2);
  for (size_t begin = 0; begin < pieces.size();) {
    auto end = std::min(begin + full, pieces.size());
    if (end < pieces.size()) {
      auto cut = end;
      while (cut > begin + full / 2 && !ends_sentence(pieces[cut - 1]) && !ends_line(cut - 1))
        --cut;
      if (cut > begin + full / 2) end = cut;
    }
    std::vector<int32_t> window{first_};
    for (; begin < end; ++begin) {
      place[begin] = {int64_t(out.windows.size()), int64_t(window.size())};
      window.push_back(pieces[begin]);
    }
    window.push_back(last_);
    out.windows.push_back(std::move(window));
  }
  // Both lists ascend; a piece may go on under the next token.
  size_t first = 0;
  for (const auto& token : tokens) {
    while (first < spans.size() && spans[first].end <= token.begin) ++first;
    int64_t count = 0;
    for (size_t i = first; i < spans.size() && spans[i].begin < token.end; ++i)
      if (spans[i].end > token.begin) {
        out.pieces.push_back(place[i]);
        ++count;
      }
    out.counts.push_back(count);
  }
  return out;
}

EncoderInput EncoderCollator::stack(const std::vector<Context>& contexts,
                                    const std::vector<std::vector<std::vector<int32_t>>>& questions,
                                    int64_t context_tokens) {
  size_t windows = 1, length = 1, pieces = 1, most = 1, longest = 1;
  for (const auto& context : contexts) {
    windows = std::max(windows, context.windows.size());
    pieces = std::max(pieces, context.pieces.size());
    for (const auto& window : context.windows) length = std::max(length, window.size());
  }
  for (const auto& row : questions) {
    most = std::max(most, row.size());
    for (const auto& question : row) longest = std::max(longest, question.size());
  }
  auto B = int64_t(contexts.size()), L = int64_t(length);
  EncoderInput input;
  input.windows = at::zeros({B, int64_t(windows), L}, at::kLong);
  input.windows_valid = at::zeros(input.windows.sizes(), at::kBool);
  input.pieces = at::zeros({B, int64_t(pieces)}, at::kLong);
  input.piece_counts = at::zeros({B, context_tokens + 1}, at::kLong);
  input.questions = at::zeros({B, int64_t(most), int64_t(longest)}, at::kLong);
  input.questions_valid = at::zeros(input.questions.sizes(), at::kBool);
  for (int64_t b = 0; b < B; ++b) {
    const auto& context = contexts[size_t(b)];
    for (size_t e = 0; e < context.windows.size(); ++e)
      fill_row(input.windows[b][int64_t(e)], input.windows_valid[b][int64_t(e)],
               context.windows[e]);
    auto* places = input.pieces[b].data_ptr<int64_t>();
    for (size_t i = 0; i < context.pieces.size(); ++i)
      places[i] = context.pieces[i].first * L + context.pieces[i].second;
    auto* counts = input.piece_counts[b].data_ptr<int64_t>();
    std::copy(context.counts.begin(), context.counts.end(), counts);
    counts[context_tokens] = int64_t(pieces - context.pieces.size());
    for (size_t q = 0; q < questions[size_t(b)].size(); ++q)
      fill_row(input.questions[b][int64_t(q)], input.questions_valid[b][int64_t(q)],
               questions[size_t(b)][q]);
  }
  return input;
}

EncoderCollator::Texts EncoderCollator::texts(const std::vector<std::string>& texts) const {
  std::vector<std::vector<int32_t>> rows;
  size_t longest = 1;
  for (const auto& one : texts) {
    rows.push_back(text(one));
    longest = std::max(longest, rows.back().size());
  }
  Texts out{at::zeros({int64_t(rows.size()), int64_t(longest)}, at::kLong), {}};
  out.valid = at::zeros(out.ids.sizes(), at::kBool);
  for (size_t i = 0; i < rows.size(); ++i)
    fill_row(out.ids[int64_t(i)], out.valid[int64_t(i)], rows[i]);
  return out;
}

}  // namespace dsrsq
