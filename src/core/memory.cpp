#include "dsrsq/core/memory.h"

#include <fstream>
#include <string>

namespace dsrsq {

int64_t own_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (int64_t kilobytes = 0; word == "RssAnon:" && status >> kilobytes) return kilobytes * 1024;
  return -1;
}

}  // namespace dsrsq
