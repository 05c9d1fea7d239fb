#include "dsrsq/eval/efficiency.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef DSRSQ_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace dsrsq {

namespace {

constexpr double kMultiplyAdd = 2;

// Projections, convolution and MLP of one token in one layer.
double block_flops(const TransformerConfig& model) {
  double width = double(model.width);
  double queries = double(model.heads * model.head_width());
  double keys = double(model.key_value_heads * model.head_width());
  double projections = width * queries + 2 * width * keys + queries * width;
  double mlp_matrices = model.mlp == "swiglu" ? 3 : 2;
  double mlp = mlp_matrices * width * double(model.mlp_width);
  return kMultiplyAdd * (projections + width * double(model.conv_width) + mlp);
}

double attention_flops(const TransformerConfig& model, const FlopSettings& settings,
                       const SequenceWork& work) {
  double head = double(model.head_width());
  double exact = work.attended_pairs * 2 * head;
  double latent = work.latent_pairs * (head + double(settings.latent_width));
  double routing = work.routed_pairs * head;
  return kMultiplyAdd * double(model.heads) * (exact + latent + routing);
}

double compression_flops(const TransformerConfig& model, const FlopSettings& settings,
                         const SequenceWork& work) {
  if (work.latent_pairs <= 0) return 0;
  double latent = double(settings.latent_width), head = double(model.head_width());
  double joint = double(model.key_value_heads) * head;
  double token_layers = work.reader_tokens * double(model.layers);
  double compress = token_layers * 2 * latent * joint;  // the key and the value
  double expand = token_layers * double(model.heads) * latent * head;
  double rebuild = work.rebuilt_latents * latent * joint;
  return kMultiplyAdd * (compress + expand + rebuild);
}

double retriever_flops(const TransformerConfig& model, const FlopSettings& settings,
                       const SequenceWork& work) {
  if (settings.retriever_width <= 0) return 0;
  bool encodes = settings.encoder_width > 0;
  double width = double(encodes ? settings.encoder_width : model.width),
         retriever = double(settings.retriever_width);
  double token = width * double(settings.retriever_conv_width) + width * retriever + retriever;
  if (encodes)
    token += double(settings.encoder_layers) *
             (4 * width * width + 2 * width * double(settings.encoder_mlp_width) +
              2 * width * double(settings.encoder_window));
  double question = width * retriever;  // one pooled vector
  return kMultiplyAdd * (work.context_tokens * token + question);
}

// A field of /proc/self/status in bytes.
std::optional<double> process_status(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field + ":"))
      return std::stod(line.substr(field.size() + 1)) * 1024;  // the kernel's kB is 1024
  return std::nullopt;
}

bool reset_resident_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

#ifdef DSRSQ_WITH_CUDA
c10::DeviceIndex cuda_index(at::Device device) {
  return device.has_index() ? device.index() : c10::cuda::current_device();
}

c10::CachingAllocator::Stat allocated_bytes(at::Device device) {
  auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(cuda_index(device));
  return stats.allocated_bytes[size_t(c10::CachingAllocator::StatType::AGGREGATE)];
}
#endif

}  // namespace

double forward_flops(const TransformerConfig& model, const FlopSettings& settings,
                     const SequenceWork& work) {
  double blocks = work.reader_tokens * double(model.layers) * block_flops(model);
  double head =
      kMultiplyAdd * work.predicted_tokens * double(model.width) * double(settings.vocabulary_size);
  return blocks + head + attention_flops(model, settings, work) +
         compression_flops(model, settings, work) + retriever_flops(model, settings, work);
}

bool PeakMemory::restart() {
  if (device_.is_cpu()) {
#ifdef __GLIBC__
    // What was freed before but is still resident would be reused without being seen.
    malloc_trim(0);
#endif
    return reset_resident_peak();
  }
#ifdef DSRSQ_WITH_CUDA
  if (device_.is_cuda()) {
    c10::cuda::CUDACachingAllocator::resetPeakStats(cuda_index(device_));
    return true;
  }
#endif
  return false;
}

void PeakMemory::resume() { usable_ = usable_ && restart(); }

PeakMemory::PeakMemory(at::Device device) : device_(device) {
  usable_ = restart();
  if (device.is_cpu()) {
    auto resident = process_status("VmRSS");
    usable_ = usable_ && resident.has_value();
    start_ = resident.value_or(0);
    return;
  }
#ifdef DSRSQ_WITH_CUDA
  if (device.is_cuda()) start_ = double(allocated_bytes(device).current);
#endif
}

double PeakMemory::bytes() const {
  if (!usable_) return -1;
#ifdef DSRSQ_WITH_CUDA
  if (device_.is_cuda()) return std::max(before_, double(allocated_bytes(device_).peak) - start_);
#endif
  auto peak = process_status("VmHWM");
  return peak ? std::max(before_, *peak - start_) : -1;
}

}  // namespace dsrsq
