#include <algorithm>
#include <cstdio>
#include <map>

#include "dsrsq/core/error.h"
#include "dsrsq/train/profile.h"

namespace dsrsq {
namespace {

constexpr const char* kStep = "step";
constexpr size_t kShown = 20;  // rows of operators and of kernels; our own operators always

using Interval = std::pair<int64_t, int64_t>;

std::vector<Interval> merge(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end());
  std::vector<Interval> merged;
  for (const auto& [begin, end] : intervals) {
    if (!merged.empty() && begin <= merged.back().second)
      merged.back().second = std::max(merged.back().second, end);
    else
      merged.emplace_back(begin, end);
  }
  return merged;
}

// How much of [begin, end) the merged intervals cover.
int64_t covered(const std::vector<Interval>& merged, int64_t begin, int64_t end) {
  auto first = std::partition_point(merged.begin(), merged.end(),
                                    [begin](const Interval& i) { return i.second <= begin; });
  int64_t total = 0;
  for (auto it = first; it != merged.end() && it->first < end; ++it)
    total += std::min(end, it->second) - std::max(begin, it->first);
  return total;
}

bool is_own(const std::string& name) { return name.rfind("dsrsq::", 0) == 0; }

// What the thread was in, innermost last: events of a thread nest.
struct Open {
  const ProfileEvent* event;
  std::string path;   // phases
  int64_t inner = 0;  // nanoseconds of operators called within
};

class Summary {
 public:
  explicit Summary(std::vector<ProfileEvent> events) : events_(std::move(events)) {
    // Parents first: they begin earlier or end later.
    std::sort(events_.begin(), events_.end(), [](const ProfileEvent& a, const ProfileEvent& b) {
      return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
    });
  }

  ProfileSummary make() {
    find_cover();
    for (const auto& event : events_) add(event);
    for (auto& [thread, open] : open_)
      while (!open.empty()) close(open);
    if (result_.steps == 0) throw Error(ExitCode::kInternal, "profile: no step was recorded");
    return finish();
  }

 private:
  // Operators of all threads: the thread that trains waits for the others.
  void find_cover() {
    std::vector<Interval> all, torch_in_own, own;
    for (const auto& event : events_)
      if (event.kind == ProfileEvent::Kind::kOperator) {
        all.emplace_back(event.begin_ns, event.end_ns);
        if (is_own(event.name)) own.emplace_back(event.begin_ns, event.end_ns);
        if (event.name.rfind("aten::", 0) == 0)
          torch_in_own.emplace_back(event.begin_ns, event.end_ns);
      }
    all_ = merge(std::move(all));
    own_ = merge(std::move(own));
    torch_ = merge(std::move(torch_in_own));
  }

  void add(const ProfileEvent& event) {
    if (event.kind == ProfileEvent::Kind::kDevice) {
      count(kernels_, event.name, event.end_ns - event.begin_ns);
      device_.emplace_back(event.begin_ns, event.end_ns);
      return;
    }
    auto& open = open_[event.thread];
    while (!open.empty() && open.back().event->end_ns <= event.begin_ns) close(open);
    std::string path;
    if (event.kind == ProfileEvent::Kind::kPhase) {
      path = event.name;
      for (const auto& outer : open)
        if (!outer.path.empty() && outer.event->name != kStep) path = outer.path + "/" + event.name;
      add_phase(event, path);
    }
    open.push_back({&event, path, 0});
  }

  void add_phase(const ProfileEvent& event, const std::string& path) {
    auto length = event.end_ns - event.begin_ns;
    auto outside = length - covered(all_, event.begin_ns, event.end_ns);
    if (event.name == kStep) {
      ++result_.steps;
      result_.step_seconds += double(length);
      result_.outside_seconds += double(outside);
      int64_t own = 0;  // ours, without the torch operators that ours call
      for (const auto& [begin, end] : own_) {
        auto from = std::max(begin, event.begin_ns), to = std::min(end, event.end_ns);
        if (from < to) own += to - from - covered(torch_, from, to);
      }
      result_.own_seconds += double(own);
      return;
    }
    auto known = std::find_if(result_.phases.begin(), result_.phases.end(),
                              [&](const ProfileRow& row) { return row.name == path; });
    if (known == result_.phases.end()) known = result_.phases.insert(known, ProfileRow{path});
    known->seconds += double(length);
    known->unaccounted += double(outside);
    ++known->calls;
  }

  void close(std::vector<Open>& open) {
    auto done = std::move(open.back());
    open.pop_back();
    auto length = done.event->end_ns - done.event->begin_ns;
    if (done.event->kind != ProfileEvent::Kind::kOperator) return;
    count(operators_, done.event->name, length - done.inner);
    for (auto outer = open.rbegin(); outer != open.rend(); ++outer)
      if (outer->event->kind == ProfileEvent::Kind::kOperator) {
        outer->inner += length;
        break;
      }
  }

  static void count(std::map<std::string, ProfileRow>& rows, const std::string& name,
                    int64_t nanoseconds) {
    auto& row = rows[name];
    row.name = name;
    row.seconds += double(nanoseconds);
    ++row.calls;
  }

  void scale(ProfileRow& row) const {
    row.seconds *= 1e-9 / double(result_.steps);
    row.unaccounted *= 1e-9 / double(result_.steps);
    row.calls /= double(result_.steps);
  }

  std::vector<ProfileRow> largest_first(const std::map<std::string, ProfileRow>& rows) const {
    std::vector<ProfileRow> sorted;
    for (const auto& [name, row] : rows) {
      sorted.push_back(row);
      scale(sorted.back());
    }
    std::stable_sort(sorted.begin(), sorted.end(), [](const ProfileRow& a, const ProfileRow& b) {
      return a.seconds > b.seconds;
    });
    return sorted;
  }

  ProfileSummary finish() {
    auto per_step = 1e-9 / double(result_.steps);
    result_.step_seconds *= per_step;
    result_.outside_seconds *= per_step;
    result_.own_seconds *= per_step;
    result_.torch_seconds = result_.step_seconds - result_.outside_seconds - result_.own_seconds;
    for (auto& row : result_.phases) scale(row);
    for (const auto& [begin, end] : merge(std::move(device_)))
      result_.device_seconds += double(end - begin) * per_step;
    result_.operators = largest_first(operators_);
    result_.kernels = largest_first(kernels_);
    return std::move(result_);
  }

  std::vector<ProfileEvent> events_;
  std::vector<Interval> all_, own_, torch_, device_;
  std::map<uint64_t, std::vector<Open>> open_;
  std::map<std::string, ProfileRow> operators_, kernels_;
  ProfileSummary result_;
};

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string milliseconds(double seconds) { return number("%.3f", 1e3 * seconds); }

std::string percent(double part, double whole) {
  return number("%.1f %%", whole > 0 ? 100 * part / whole : 0);
}

std::string operator_table(const std::string& title, const std::vector<ProfileRow>& rows,
                           double step_seconds) {
  std::string text =
      concat("\n| ", title, " | ms a step | share | calls a step |\n|---|---|---|---|\n");
  double rest = 0, rest_calls = 0;
  int64_t others = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i];
    if (i >= kShown && !is_own(row.name)) {
      ++others;
      rest += row.seconds;
      rest_calls += row.calls;
      continue;
    }
    text += concat("| `", row.name, "` | ", milliseconds(row.seconds), " | ",
                   percent(row.seconds, step_seconds), " | ", number("%.1f", row.calls), " |\n");
  }
  if (others > 0)
    text += concat("| ", others, " others | ", milliseconds(rest), " | ",
                   percent(rest, step_seconds), " | ", number("%.1f", rest_calls), " |\n");
  return text;
}

}  // namespace

ProfileSummary summarise_profile(std::vector<ProfileEvent> events) {
  return Summary(std::move(events)).make();
}

std::string profile_markdown(const ProfileSummary& s) {
  auto row = [&](const std::string& name, double seconds) {
    return concat("| ", name, " | ", milliseconds(seconds), " | ", percent(seconds, s.step_seconds),
                  " |\n");
  };
  std::string text =
      concat("Mean of ", s.steps, " recorded steps.\n\n| step | ms | share |\n|---|---|---|\n");
  text += row("whole", s.step_seconds) + row("in torch's operators", s.torch_seconds) +
          row("in DSRSQ's operators", s.own_seconds) + row("outside both", s.outside_seconds);
  if (s.device_seconds > 0) text += row("device busy", s.device_seconds);
  text +=
      "\n| phase | ms a step | share | outside operators, ms | calls a step "
      "|\n|---|---|---|---|---|\n";
  for (const auto& phase : s.phases)
    text += concat("| ", phase.name, " | ", milliseconds(phase.seconds), " | ",
                   percent(phase.seconds, s.step_seconds), " | ", milliseconds(phase.unaccounted),
                   " | ", number("%.1f", phase.calls), " |\n");
  text += operator_table("operator (self)", s.operators, s.step_seconds);
  if (!s.kernels.empty()) text += operator_table("kernel", s.kernels, s.step_seconds);
  return text;
}

}  // namespace dsrsq
