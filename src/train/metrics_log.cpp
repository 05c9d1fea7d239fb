#include "dsrsq/train/metrics_log.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "event_file.h"

namespace dsrsq {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

const Clock::time_point kProcessStart = Clock::now();

ordered_json json_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// Empty for what is no line of ours: a kill can cut off the last one.
std::optional<int64_t> step_of_line(const std::string& text) {
  const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer())
    return std::nullopt;
  return line["step"].get<int64_t>();
}

void drop_lines_from(const std::string& path, int64_t resume_step) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  std::string kept;
  for_each_line(path, [&](int64_t number, const std::string& text) {
    const std::optional<int64_t> step = step_of_line(text);
    if (!step)
      log_warning(path, ":", number, ": dropped, not a line of metrics (cut off by a kill?)");
    if (step && *step < resume_step) kept += text + "\n";
  });
  write_file_atomic(path, kept);
}

}  // namespace

struct MetricsLog::Impl {
  std::unique_ptr<AppendFile> lines;
  std::unique_ptr<EventFile> events;
};

MetricsLog::MetricsLog(const std::string& run_folder, int64_t resume_step)
    : impl_(std::make_unique<Impl>()) {
  std::error_code error;
  std::filesystem::create_directories(run_folder, error);
  if (error)
    throw Error(ExitCode::kCheckpoint,
                concat(run_folder, ": cannot be created: ", error.message()));
  const std::string path = run_folder + "/metrics.jsonl";
  drop_lines_from(path, resume_step);
  impl_->lines = std::make_unique<AppendFile>(path);
  impl_->events = std::make_unique<EventFile>(run_folder + "/tensorboard", resume_step);
}

MetricsLog::~MetricsLog() = default;

void MetricsLog::write(int64_t step, const std::map<std::string, double>& values) {
  ordered_json line;
  line["step"] = step;
  line["time"] = std::chrono::duration<double>(Clock::now() - kProcessStart).count();
  for (const auto& [name, value] : values) {
    if (name == "step" || name == "time")
      throw Error(ExitCode::kInternal,
                  concat("metrics: the name ", name, " is taken by every line's own"));
    line[name] = json_number(value);
  }
  impl_->lines->append(line.dump() + "\n");
  impl_->events->write_scalars(step, values);
}

}  // namespace dsrsq
