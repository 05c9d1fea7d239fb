// `dsrsq-generate --stream`: follows text on standard input, answers the lines that ask, at
// constant memory.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "dsrsq/model/generate.h"
#include "dsrsq/registry.h"

namespace dsrsq {

struct StreamRequest {
  bool stream = false;
  std::string marker = "? ", document_end;
  std::string snapshot, store, metrics;
  bool replay = false;
  int64_t snapshot_every = 0, status_every = 50000, position_range = 0;
};

void add_stream_options(CLI::App& app, StreamRequest& request);

// Until standard input ends. `text_of` makes an answer of its tokens. Throws StoppedError after a
// snapshot where a signal asked for an end.
void run_stream(OpenModel& opened, const ModelSource& source, const StreamRequest& request,
                int64_t budget, const GenerateOptions& generate,
                const std::function<std::string(const std::vector<int32_t>&)>& text_of);

}  // namespace dsrsq
