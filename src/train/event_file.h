// A TensorBoard event file: TFRecord framing around protobuf messages whose few fields are encoded
// by hand, since torch ships a protobuf that clashes with the system's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "dsrsq/core/files.h"

namespace dsrsq {

uint32_t crc32c(const std::string& bytes);         // Castagnoli
uint32_t masked_crc32c(const std::string& bytes);  // as TFRecord stores it

class EventFile {
 public:
  // A new file in `folder`, which sorts after those that are there. Its first events say the
  // version and that every scalar of `first_step` and later in older files is void. Throws Error.
  EventFile(const std::string& folder, int64_t first_step);
  // One event with all scalars; flushed. Throws Error on a failed write.
  void write_scalars(int64_t step, const std::map<std::string, double>& values);

 private:
  void write_record(const std::string& event);
  std::unique_ptr<AppendFile> file_;
};

}  // namespace dsrsq
