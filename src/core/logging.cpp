#include "dsrsq/core/logging.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>

#include "terminal.h"

namespace dsrsq {
namespace {

constexpr const char* kPattern = "%Y-%m-%d %H:%M:%S.%e %^%l%$ %v";

struct LogState {
  std::shared_ptr<spdlog::sinks::sink> terminal =
      std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  std::shared_ptr<spdlog::sinks::sink> file;
  std::shared_ptr<spdlog::logger> logger;
  std::chrono::steady_clock::time_point flushed = std::chrono::steady_clock::now();

  LogState() { rebuild(spdlog::level::info); }

  void rebuild(spdlog::level::level_enum level) {
    spdlog::sinks_init_list only_terminal{terminal};
    logger = std::make_shared<spdlog::logger>("dsrsq", only_terminal);
    if (file) logger->sinks().push_back(file);
    logger->set_pattern(kPattern);
    logger->set_level(level);
    // Info lines are rare (a few a second at most); with each flushed, a killed run leaves a
    // complete log.
    logger->flush_on(spdlog::level::info);
  }
};

// Never destroyed, so that destructors of other static objects may still log. stdio flushes the
// file at exit.
LogState& log_state() {
  static LogState* state = new LogState;
  return *state;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

LogLevel parse_log_level(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  throw ConfigError(concat("log level: expected debug, info, warning or error, got '", name, "'"));
}

void set_log_level(LogLevel level) {
  std::lock_guard<std::mutex> lock(terminal_state().mutex);
  log_state().logger->set_level(to_spdlog(level));
}

void set_log_file(const std::string& path) {
  std::lock_guard<std::mutex> lock(terminal_state().mutex);
  LogState& state = log_state();
  std::shared_ptr<spdlog::sinks::sink> file;
  if (!path.empty()) {
    try {
      file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    } catch (const spdlog::spdlog_ex& error) {
      throw ConfigError(concat(path, ": cannot open the log file: ", error.what()));
    }
  }
  state.logger->flush();
  state.file = file;
  state.rebuild(state.logger->level());
}

void log_line(LogLevel level, const std::string& message) {
  TerminalState& terminal = terminal_state();
  std::lock_guard<std::mutex> lock(terminal.mutex);
  LogState& state = log_state();
  const spdlog::level::level_enum spdlog_level = to_spdlog(level);
  if (!state.logger->should_log(spdlog_level)) return;
  if (terminal.bar_shown) {
    std::fputs("\r\033[K", stderr);
    terminal.bar_shown = false;
  }
  state.logger->log(spdlog_level, spdlog::string_view_t(message));
  const auto now = std::chrono::steady_clock::now();
  if (now - state.flushed > std::chrono::seconds(1)) {  // debug lines
    state.logger->flush();
    state.flushed = now;
  }
}

}  // namespace dsrsq
