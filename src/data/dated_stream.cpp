#include "dsrsq/data/dated_stream.h"

#include <algorithm>
#include <map>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

constexpr size_t kDay = 10;   // 2026-11-24
constexpr size_t kOlder = 3;  // versions before those that are asked, which make an answer stale

// One line of the file: news of `subject`, whose latest value it is. Commits of no component are
// news of nothing, and text like others.
struct Entry {
  std::string subject, value;
  std::string heading;  // after the day
  std::string text;
};

struct Release {
  std::string version;
  ByteSpan stated;
  int64_t end = 0;    // tokens of the text up to the end of the statement
  int64_t begin = 0;  // and up to its begin
};

std::string text_of(const nlohmann::json& line, const char* key, const std::string& where) {
  auto found = line.is_object() ? line.find(key) : line.end();
  if (!line.is_object() || found == line.end() || !found->is_string())
    throw DataError(concat(where, "expected a text \"", key, "\""));
  return found->get<std::string>();
}

Entry read_release(const nlohmann::json& line, const std::string& where) {
  auto package = text_of(line, "package", where), version = text_of(line, "version", where);
  return {package, version, package + " " + version, text_of(line, "text", where)};
}

// "ignore/types: add Typst": the first word names the component, as many projects ask for.
Entry read_commit(const nlohmann::json& line, const std::string& where) {
  auto subject = text_of(line, "subject", where), body = text_of(line, "body", where);
  auto colon = subject.find(": ");
  bool component = colon != std::string::npos && colon > 0 && subject.find(' ') > colon;
  auto value = component ? subject.substr(colon + 2) : "";
  if (value.empty()) return {"", "", subject, body};
  return {subject.substr(0, colon), value, subject, body};
}

class DatedStreamMaker {
 public:
  DatedStreamMaker(const std::string& path, const Tokenizer& tokenizer,
                   const DatedStreamConfig& config)
      : path_(path),
        tokenizer_(tokenizer),
        config_(config),
        random_(uint64_t(config.seed), Purpose::kSynthetic, kStream, 0) {}

  FactStream make() {
    read();
    place();
    probe();
    std::stable_sort(
        stream_.probes.begin(), stream_.probes.end(),
        [](const StreamProbe& x, const StreamProbe& y) { return x.prefix_bytes < y.prefix_bytes; });
    stream_.segment = config_.segment;
    stream_.source = concat(commits_ ? "commits to " : "releases of ", releases_.size(),
                            commits_ ? " components, " : " packages, ", spans_.size(),
                            " tokens, since ", config_.since.empty() ? "the first" : config_.since);
    return std::move(stream_);
  }

 private:
  static constexpr uint64_t kStream = 4;  // fact_stream.cpp has 3

  int64_t below(size_t bound) { return int64_t(random_.below(position_++, uint64_t(bound))); }

  void read() {
    int64_t tokens = 0;
    for_each_line(path_, [&](int64_t number, const std::string& text) {
      if (tokens >= config_.tokens || text.empty()) return;
      auto where = concat(path_, ":", number, ": ");
      nlohmann::json line;
      try {
        line = parse_json(text);
      } catch (const JsonError& error) {
        throw DataError(where + error.what());
      }
      auto date = text_of(line, "date", where);
      if (date.size() < kDay) throw DataError(concat(where, "\"date\": expected a day"));
      if (date.substr(0, kDay) < config_.since) return;
      bool commit = line.contains("subject");
      auto news = commit ? read_commit(line, where) : read_release(line, where);
      commits_ = commits_ || commit;
      auto heading = concat(date.substr(0, kDay), " ", news.heading);
      auto entry = heading + "\n" + first_lines(news.text) + "\n\n";
      tokens += int64_t(tokenizer_.encode(entry).size());
      if (tokens > config_.tokens) return;
      auto begin = int64_t(stream_.text.size());
      stream_.text += entry;
      if (news.subject.empty()) return;
      // A package that says its version again says nothing new.
      auto& own = releases_[news.subject];
      if (own.empty() || own.back().version != news.value)
        own.push_back({news.value, {begin, begin + int64_t(heading.size())}, 0, 0});
    });
  }

  std::string first_lines(const std::string& text) const {
    if (int64_t(text.size()) <= config_.text_bytes) return text;
    auto end = text.rfind('\n', size_t(config_.text_bytes));
    return end == std::string::npos ? "" : text.substr(0, end);
  }

  // The releases in tokens of the whole text.
  void place() {
    tokenizer_.encode_with_spans(stream_.text, spans_);
    auto ends_by = [&](int64_t byte) {
      return int64_t(std::partition_point(spans_.begin(), spans_.end(),
                                          [&](const auto& span) { return span.end <= byte; }) -
                     spans_.begin());
    };
    for (auto& [package, releases] : releases_)
      for (auto& release : releases) {
        release.begin = ends_by(release.stated.begin);
        release.end = ends_by(release.stated.end);
      }
  }

  std::vector<std::string> draw(std::vector<std::string> from, int64_t count, const char* what) {
    if (int64_t(from.size()) < count)
      throw DataError(concat(path_, ": expected ", count,
                             commits_ ? " components that " : " packages that ", what, ", found ",
                             from.size(), " in ", spans_.size(),
                             " tokens; ask for fewer, or for more tokens"));
    for (int64_t i = 0; i < count; ++i)
      std::swap(from[size_t(i)], from[size_t(i + below(from.size() - size_t(i)))]);
    from.resize(size_t(count));
    return from;
  }

  void probe() {
    std::vector<std::string> updated, later;
    for (const auto& [package, releases] : releases_) {
      if (releases.size() >= 2) updated.push_back(package);
      if (releases[0].begin > config_.segment) later.push_back(package);
    }
    int64_t fact = 0;
    for (const auto& package :
         draw(updated, config_.packages, commits_ ? "have two changes" : "have two releases"))
      probe_package(package, fact++);
    for (const auto& package : draw(later, config_.controls, "come later")) {
      const auto& first = releases_[package][0];
      auto tokens = 1 + below(size_t(first.begin));
      auto probe = make_probe(package, fact++, tokens, draw_distractors(package));
      probe.values = {first.version};
      stream_.probes.push_back(std::move(probe));
    }
  }

  std::vector<std::string> draw_distractors(const std::string& package) {
    std::vector<std::string> others, chosen;
    for (const auto& [name, releases] : releases_)
      if (name != package) others.push_back(name);
    auto known = [&](const std::string& version) {
      for (const auto& own : releases_[package])
        if (own.version == version) return true;
      return std::find(chosen.begin(), chosen.end(), version) != chosen.end();
    };
    constexpr int64_t kTries = 20;  // a distractor: versions such as "1.0-1" are many packages'
    for (int64_t i = 0; !others.empty() && i < kTries * config_.distractors; ++i) {
      if (int64_t(chosen.size()) == config_.distractors) break;
      const auto& releases = releases_[others[size_t(below(others.size()))]];
      const auto& version = releases[size_t(below(releases.size()))].version;
      if (!known(version)) chosen.push_back(version);
    }
    return chosen;
  }

  StreamProbe make_probe(const std::string& package, int64_t fact, int64_t tokens,
                         const std::vector<std::string>& distractors) {
    StreamProbe probe;
    probe.id = concat(package, "-", tokens);
    probe.question =
        concat("What is the latest ", commits_ ? "change to " : "version of ", package, "?");
    probe.fact = fact;
    probe.prefix_bytes = spans_[size_t(tokens - 1)].end;
    probe.distractors = distractors;
    return probe;
  }

  void probe_package(const std::string& package, int64_t fact) {
    const auto& releases = releases_[package];
    auto distractors = draw_distractors(package);
    auto first = size_t(below(releases.size() - 1));
    auto oldest = first - std::min(first, kOlder);
    std::vector<std::string> values;
    for (auto i = oldest; i <= first + 1; ++i) values.push_back(releases[i].version);
    for (auto i : {first, first + 1}) {
      bool last = i + 1 == releases.size();
      auto end = releases[i].end;
      auto until = (last ? int64_t(spans_.size()) : releases[i + 1].begin) - end;
      std::vector<int64_t> lags;
      for (int64_t lag = 0; lag <= until; lag = lag == 0 ? config_.segment : 2 * lag)
        lags.push_back(lag);
      if (!last && !lags.empty() && lags.back() != until) lags.push_back(until);
      for (auto lag : lags) {
        auto probe = make_probe(package, fact, end + lag, distractors);
        probe.values = values;
        probe.update = int64_t(i - oldest);
        probe.lag = lag;
        probe.stated = releases[i].stated;
        stream_.probes.push_back(std::move(probe));
      }
    }
  }

  const std::string& path_;
  const Tokenizer& tokenizer_;
  const DatedStreamConfig& config_;
  RandomStream random_;
  uint64_t position_ = 0;
  std::map<std::string, std::vector<Release>> releases_;
  bool commits_ = false;
  std::vector<Tokenizer::Span> spans_;
  FactStream stream_;
};

}  // namespace

void DatedStreamConfig::visit_fields(ConfigVisitor& v) {
  v.field("seed", seed, "Seed of what is asked.", at_least(0));
  v.field("since", since, "YYYY-MM-DD: earlier entries are left out; empty: none.");
  v.field("tokens", tokens, "Tokens of the text: as many entries as fit.", between(16, 1 << 28));
  v.field("segment", segment, "S: probes are asked at lags 0 and S 2^j tokens.", at_least(1));
  v.field("text_bytes", text_bytes, "Bytes of an entry's text, at most; whole lines.", at_least(0));
  v.field("packages", packages, "Packages that are asked around one of their releases.",
          at_least(1));
  v.field("controls", controls, "Packages that are asked before their first release.", at_least(0));
  v.field("distractors", distractors, "Versions of other packages as candidate answers.",
          between(0, 1 << 10));
}

FactStream make_dated_stream(const std::string& path, const Tokenizer& tokenizer,
                             const DatedStreamConfig& config) {
  return DatedStreamMaker(path, tokenizer, config).make();
}

}  // namespace dsrsq
