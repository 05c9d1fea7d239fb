// Logging: one line on standard error, and in the run's log.txt once it is set. The only file that
// touches spdlog is logging.cpp, which sees no torch header: torch ships fmt 12, Debian's spdlog
// wants fmt 9.
#pragma once

#include <string>

#include "dsrsq/core/error.h"

namespace dsrsq {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

LogLevel parse_log_level(
    const std::string& name);  // debug, info, warning, error; throws ConfigError
void set_log_level(LogLevel level);
// Appends to `path`, in place of an earlier file; empty: no file. Throws ConfigError where it
// cannot be opened.
void set_log_file(const std::string& path);
void log_line(LogLevel level, const std::string& message);

template <typename... Parts>
void log_debug(const Parts&... parts) {
  log_line(LogLevel::kDebug, concat(parts...));
}
template <typename... Parts>
void log_info(const Parts&... parts) {
  log_line(LogLevel::kInfo, concat(parts...));
}
template <typename... Parts>
void log_warning(const Parts&... parts) {
  log_line(LogLevel::kWarning, concat(parts...));
}
template <typename... Parts>
void log_error(const Parts&... parts) {
  log_line(LogLevel::kError, concat(parts...));
}

}  // namespace dsrsq
