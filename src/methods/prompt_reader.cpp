#include "dsrsq/methods/prompt_reader.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/methods/standard.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq {

namespace {

// Dense attention; flagged rows are recorded by the default stage.
struct DenseReader : Method {
  using Method::Method;
  std::string method_name() const override { return "prompt_reader"; }
  // Prompts are padded behind their ends only.
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto& layer = state.layers[size_t(input.layer)];
    return layer.entries() == 0 ? attend_first_chunk(input, layer, nullptr)
                                : Method::attend(input, state);
  }
};

ReaderInput reader_input(const LanguageModelView& model, const at::Tensor& ids,
                         const at::Tensor& valid, const at::Tensor& order) {
  ReaderInput reader;
  reader.inputs = model.embed(ids);
  reader.valid = valid;
  reader.padded = ids.size(0) > 1 && ids.size(1) > 1;
  reader.order = reader.positions = order;
  reader.segments = {ids.size(1)};
  return reader;
}

}  // namespace

PromptReader::PromptReader(const AttentionShape& shape, const LanguageModelView& model,
                           at::Device device)
    : model_(model), method_(std::make_unique<DenseReader>(shape)), device_(device) {
  state_.layers.resize(size_t(shape.layers));
}

PromptReader::~PromptReader() = default;

at::Tensor PromptReader::read(const std::vector<std::vector<int64_t>>& prompts) {
  size_t longest = 1;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  auto ids = at::zeros({int64_t(prompts.size()), int64_t(longest)}, at::kLong);
  auto valid = at::zeros(ids.sizes(), at::kBool);
  auto length = at::empty({int64_t(prompts.size()), 1}, at::kLong);
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto row = int64_t(i), own = int64_t(prompts[i].size());
    std::copy(prompts[i].begin(), prompts[i].end(), ids[row].data_ptr<int64_t>());
    valid[row].narrow(0, 0, own).fill_(true);
    length.data_ptr<int64_t>()[i] = own;
  }
  valid = valid.to(device_);
  length_ = length.to(device_);
  auto order = (valid.cumsum(1) - 1).clamp_min(0);
  auto hidden =
      model_.forward(reader_input(model_, ids.to(device_), valid, order), *method_, state_);
  return model_.logits(gather_entries(hidden, length_ - 1, 1).squeeze(1));
}

at::Tensor PromptReader::next(const at::Tensor& ids, bool record) {
  auto input = reader_input(model_, ids, at::ones_like(ids, at::kBool), length_);
  if (record) input.record_rows = at::zeros_like(ids);
  length_ = length_ + 1;
  return model_.logits(model_.forward(input, *method_, state_).squeeze(1));
}

std::vector<std::pair<size_t, size_t>> prompt_parts(
    const std::vector<std::vector<int64_t>>& prompts) {
  constexpr size_t kTokens = size_t{1} << 16;  // padding included
  std::vector<std::pair<size_t, size_t>> parts;
  size_t begin = 0, longest = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    longest = std::max(longest, prompts[i].size());
    if (i > begin && (i + 1 - begin) * longest > kTokens) {
      parts.emplace_back(begin, i);
      begin = i;
      longest = prompts[i].size();
    }
  }
  if (begin < prompts.size()) parts.emplace_back(begin, prompts.size());
  return parts;
}

std::vector<std::vector<int32_t>> continue_prompts(const std::vector<std::vector<int64_t>>& prompts,
                                                   int64_t most,
                                                   const std::function<bool(int32_t)>& stops,
                                                   const AttentionShape& shape,
                                                   const LanguageModelView& model,
                                                   at::Device device) {
  std::vector<std::vector<int32_t>> written(prompts.size());
  for (auto [begin, end] : prompt_parts(prompts)) {
    PromptReader reader(shape, model, device);
    auto logits = reader.read({prompts.begin() + long(begin), prompts.begin() + long(end)});
    std::vector<bool> open(end - begin, true);
    for (int64_t step = 0; step < most; ++step) {
      auto next = logits.argmax(-1);
      auto host = next.to(at::kCPU);
      bool any = false;
      for (size_t i = 0; i < open.size(); ++i) {
        auto token = int32_t(host.data_ptr<int64_t>()[i]);
        open[i] = open[i] && !stops(token);
        if (open[i]) written[begin + i].push_back(token);
        any |= open[i];
      }
      if (!any || step + 1 == most) break;
      logits = reader.next(next.unsqueeze(1));
    }
  }
  return written;
}

}  // namespace dsrsq
