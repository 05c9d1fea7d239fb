// The text files of a folder, such as a git checkout. Private to src/data.
#pragma once

#include <functional>
#include <string>

#include "dsrsq/data/readers.h"

namespace dsrsq {

// Calls `file(path, text)` for every text file below `folder`, in the order of the paths (relative
// to it, with "/"). Left out, and counted in a log line: files over 1 MiB and files that are no
// UTF-8 or hold a zero byte. Hidden files and folders (.git) and links are not looked at. Throws
// DataError for what cannot be read, and where there is no text file.
void for_each_text_file(
    const std::string& folder, const ReadOptions& options,
    const std::function<void(const std::string& path, std::string&& text)>& file);

}  // namespace dsrsq
