#include "text_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLargestFile = int64_t{1} << 20;

struct FolderFile {
  std::string path;  // relative
  int64_t size = 0;
};

std::vector<FolderFile> list_files(const std::string& folder) {
  std::vector<FolderFile> files;
  try {
    for (auto entry = fs::recursive_directory_iterator(folder);
         entry != fs::recursive_directory_iterator(); ++entry) {
      if (entry->path().filename().string()[0] == '.') {
        entry.disable_recursion_pending();
      } else if (entry->symlink_status().type() == fs::file_type::regular) {
        files.push_back({fs::relative(entry->path(), folder).generic_string(),
                         static_cast<int64_t>(entry->file_size())});
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw DataError(concat(error.path1().empty() ? folder : error.path1().string(),
                           ": cannot be read: ", error.code().message()));
  }
  std::sort(files.begin(), files.end(),
            [](const FolderFile& a, const FolderFile& b) { return a.path < b.path; });
  return files;
}

bool is_text(const std::string& bytes) {
  return bytes.find('\0') == std::string::npos && is_utf8(bytes);
}

int64_t sum_of_sizes(const std::vector<FolderFile>& files) {
  int64_t sum = 0;
  for (const FolderFile& file : files) sum += file.size;
  return sum;
}

}  // namespace

void for_each_text_file(
    const std::string& folder, const ReadOptions& options,
    const std::function<void(const std::string& path, std::string&& text)>& file) {
  const std::vector<FolderFile> files = list_files(folder);
  const int64_t total = sum_of_sizes(files);
  int64_t done = 0, large = 0, binary = 0, read = 0;
  for (const FolderFile& entry : files) {
    done += entry.size;
    if (entry.size > kLargestFile) {
      ++large;
      continue;
    }
    std::string bytes = read_file((fs::path(folder) / entry.path).string());
    if (!is_text(bytes)) {
      ++binary;
      continue;
    }
    ++read;
    file(entry.path, std::move(bytes));
    if (options.progress) options.progress(done, total);
  }
  if (large + binary > 0)
    log_warning(folder, ": left out ", binary, " files that are not UTF-8 text and ", large,
                " over ", bytes_text(kLargestFile));
  if (read == 0)
    throw DataError(concat(folder, ": no text file in this folder, of ", files.size(),
                           " files; expected the checkout of a repository"));
}

int64_t input_bytes(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return sum_of_sizes(list_files(path));
  const auto size = fs::file_size(path, error);
  if (error) throw DataError(concat(path, ": cannot be read: ", error.message()));
  return static_cast<int64_t>(size);
}

}  // namespace dsrsq
