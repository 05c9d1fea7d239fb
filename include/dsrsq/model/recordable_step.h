// Methods whose decoding step can be recorded and replayed (decode_step.h): reading one token behind
// a prompt changes no shape of the state but that of the layers' exact entries, and nothing in it
// waits for the device or copies from the host.
#pragma once

#include <string>

#include "dsrsq/model/method.h"

namespace dsrsq {

class RecordableStep {
 public:
  virtual ~RecordableStep() = default;
  // Why it cannot be after what `state` has read; empty: it can.
  virtual std::string step_obstacle(const MethodState& state) const = 0;
};

}  // namespace dsrsq
