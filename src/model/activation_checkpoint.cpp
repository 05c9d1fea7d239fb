#include "dsrsq/model/activation_checkpoint.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/torch.h>

#include <optional>

#include "dsrsq/ops/autocast.h"

namespace dsrsq {

namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

class Replay : public torch::autograd::Node {
 public:
  Replay(CheckpointBody body, const variable_list& inputs) : body_(std::move(body)) {
    for (const auto& input : inputs) {
      needs_gradient_.push_back(input.defined() && input.requires_grad());
      inputs_.emplace_back(input, /*is_output=*/false);
      if (input.defined()) device_ = input.device();
    }
    autocast_ = at::autocast::is_autocast_enabled(device_.type());
  }

  variable_list apply(variable_list&& gradients) override {
    TORCH_CHECK(body_ != nullptr, "run_checkpointed: one backward pass only");
    variable_list inputs;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      auto input = inputs_[i].unpack(shared_from_this());
      inputs.push_back(input.defined() ? input.detach().set_requires_grad(needs_gradient_[i])
                                       : input);
    }
    at::AutoGradMode with_gradients(true);
    variable_list outputs;
    {
      ops::AutocastGuard autocast(device_, autocast_);
      outputs = body_(inputs, /*again=*/true);
    }
    variable_list roots, seeds;
    size_t next = 0;  // gradients come for defined outputs alone
    for (const auto& output : outputs) {
      if (!output.defined()) continue;
      const auto& seed = gradients.at(next++);
      if (!seed.defined() || !output.requires_grad()) continue;
      roots.push_back(output);
      seeds.push_back(seed);
    }
    if (!roots.empty()) torch::autograd::backward(roots, seeds);
    variable_list result;
    for (const auto& input : inputs)
      result.push_back(input.defined() ? input.grad() : at::Tensor());
    return result;
  }

  void release_variables() override {
    for (auto& input : inputs_) input.reset_data();
    body_ = nullptr;  // and what it captured
  }

 private:
  CheckpointBody body_;
  std::vector<SavedVariable> inputs_;
  std::vector<bool> needs_gradient_;
  at::Device device_ = at::kCPU;
  bool autocast_ = false;
};

}  // namespace

std::vector<at::Tensor> run_checkpointed(const CheckpointBody& body,
                                         const std::vector<at::Tensor>& inputs) {
  std::shared_ptr<Replay> node(new Replay(body, inputs), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  std::vector<at::Tensor> outputs;
  {
    at::NoGradGuard no_grad;
    outputs = body(inputs, /*again=*/false);
  }
  for (auto& output : outputs)
    if (output.defined()) torch::autograd::set_history(output, node);
  return outputs;
}

}  // namespace dsrsq
