// What the process itself holds in memory.
#pragma once

#include <cstdint>

namespace dsrsq {

// Resident memory that is the process's own (RssAnon of /proc/self/status), bytes: neither
// libraries nor mapped files, which the kernel can drop. -1 where the system does not tell.
int64_t own_memory_bytes();

}  // namespace dsrsq
