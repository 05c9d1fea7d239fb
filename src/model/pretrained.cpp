#include "dsrsq/model/pretrained.h"

#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/mapped_tensor.h"

namespace dsrsq {
namespace {

void copy_weight(const at::Tensor& target, const WeightMapping& weight,
                 const PretrainedFolder& folder) {
  const auto& source = folder.tensor(weight.source);
  auto value = ops::mapped_tensor(source, folder.folder());
  auto wanted = target.sizes().vec();
  wanted[0] *= weight.parts;
  if (weight.transposed) std::swap(wanted[0], wanted[1]);
  if (value.sizes() != at::IntArrayRef(wanted))
    throw CheckpointError(concat(folder.folder(), ": ", weight.source, ": expected shape ",
                                 at::IntArrayRef(wanted), " by config.json, got ", value.sizes()));
  if (weight.transposed) value = value.t();
  auto rows = target.size(0);
  at::Tensor(target).copy_(value.narrow(0, weight.part * rows, rows));
  if (!target.sum().isfinite().item<bool>())
    throw CheckpointError(concat(folder.folder(), ": ", weight.source,
                                 ": expected finite weights, got infinity or NaN; the file is "
                                 "damaged, copy it again"));
}

}  // namespace

void load_pretrained(Transformer& backbone, const PretrainedFolder& folder) {
  at::NoGradGuard no_grad;
  folder.verify_checksums();
  folder.require_all_used();
  auto parameters = backbone->named_parameters();
  for (const auto& weight : folder.weights()) {
    if (backbone->left_out().count(weight.name) > 0) continue;
    auto* target = parameters.find(weight.name);
    TORCH_CHECK(target != nullptr, "load_pretrained: the backbone has no ", weight.name);
    copy_weight(*target, weight, folder);
  }
  int64_t convolutions = 0;
  for (auto& item : parameters) {
    const auto& name = item.key();
    if (name.size() < 5 || name.compare(name.size() - 5, 5, "_conv") != 0) continue;
    item.value().zero_();
    item.value().select(1, item.value().size(1) - 1).fill_(1);
    ++convolutions;
  }
  log_info("pretrained weights of ", folder.folder(), " (", folder.architecture(),
           "): ", folder.weights().size(), " tensors",
           convolutions > 0 ? "; convolutions start as the identity" : "",
           backbone->left_out().empty()
               ? ""
               : "; queries and keys of layers that share attention are left out");
}

}  // namespace dsrsq
