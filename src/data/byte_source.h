// A plain or gzip file as chunks of bytes, for JSON documents that have no lines to speak of.
// Private to src/data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace dsrsq {

// Calls `chunk(bytes, size)` for the (decompressed) bytes in order until it returns false.
// `bytes_read` as for_each_line's. Throws DataError where the file cannot be read, is truncated or
// corrupt gzip, or is zstd (which for_each_line alone reads).
void for_each_chunk(const std::string& path,
                    const std::function<bool(const char* bytes, size_t size)>& chunk,
                    const std::function<void(int64_t done, int64_t total)>& bytes_read = {});

}  // namespace dsrsq
