// A stream's state on disk: <folder>/{state.safetensors, state.json, manifest.json}, written into a
// temporary folder that is renamed when complete (core/files.h), so that a kill at any moment
// leaves the last snapshot or the new one. The manifest is that of checkpoints (core/manifest.h).
// Weights are not part of it: state.json names theirs.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/train/checkpoint.h"

namespace dsrsq {

struct StreamSnapshot {
  std::string weights;      // weights_fingerprint of the model that read the stream
  int64_t input_bytes = 0;  // of the text, read up to here
  int64_t questions = 0;    // answered
  NamedTensors tensors;     // TextStream::tensors
};

// SHA-256 (hex) over names, shapes and values of a module's parameters and buffers.
std::string weights_fingerprint(const torch::nn::Module& module);

// Throws Error with ExitCode::kCheckpoint where it cannot be written; the last snapshot stays.
void save_stream_snapshot(const std::string& folder, const StreamSnapshot& snapshot);
// Throws CheckpointError where it is damaged, no snapshot, or of other weights than `weights`.
StreamSnapshot load_stream_snapshot(const std::string& folder, const std::string& weights);

}  // namespace dsrsq
