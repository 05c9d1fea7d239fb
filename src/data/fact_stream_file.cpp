#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/data/fact_stream.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "dsrsq-stream";
constexpr int64_t kVersion = 1;

// What is wrong with a line, without its place.
struct BadLine {
  std::string what;
};

const json& require_key(const json& object, const char* key) {
  if (!object.is_object()) throw BadLine{"expected an object"};
  auto found = object.find(key);
  if (found == object.end()) throw BadLine{concat("expected \"", key, "\"")};
  return *found;
}

std::string text_of(const json& object, const char* key) {
  const auto& value = require_key(object, key);
  if (!value.is_string() || value.get_ref<const std::string&>().empty())
    throw BadLine{concat("\"", key, "\": expected a text")};
  return value.get<std::string>();
}

int64_t number_of(const json& object, const char* key, int64_t least, int64_t most) {
  const auto& value = require_key(object, key);
  bool inside = value.is_number_integer() && value.get<double>() >= double(least) &&
                value.get<double>() <= double(most);
  if (!inside)
    throw BadLine{concat("\"", key, "\": expected a whole number from ", least, " to ", most)};
  return value.get<int64_t>();
}

std::vector<std::string> texts_of(const json& object, const char* key) {
  const auto& value = require_key(object, key);
  if (!value.is_array()) throw BadLine{concat("\"", key, "\": expected a list of texts")};
  std::vector<std::string> texts;
  for (const auto& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty())
      throw BadLine{concat("\"", key, "\": expected texts that are not empty")};
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

ByteSpan span_of(const json& object, const char* key, int64_t end) {
  const auto& value = require_key(object, key);
  auto bad = BadLine{concat("\"", key, "\": expected [begin, end) before byte ", end)};
  if (!value.is_array() || value.size() != 2) throw bad;
  if (!value[0].is_number_integer() || !value[1].is_number_integer()) throw bad;
  ByteSpan span{value[0].get<int64_t>(), value[1].get<int64_t>()};
  if (span.begin < 0 || span.begin >= span.end || span.end > end) throw bad;
  return span;
}

void read_head(const json& head, FactStream& stream) {
  if (!head.is_object() || head.value("format", json()) != kFormat)
    throw BadLine{concat("expected {\"format\": \"", kFormat, "\", ...}; see dsrsq-data stream")};
  if (head.value("version", json()) != kVersion)
    throw BadLine{concat("expected \"version\": ", kVersion)};
  stream.source = text_of(head, "source");
  stream.segment = number_of(head, "segment", 1, int64_t{1} << 40);
  stream.text = text_of(head, "text");
}

StreamProbe read_probe(const json& line, int64_t text_bytes) {
  StreamProbe probe;
  probe.id = text_of(line, "id");
  probe.question = text_of(line, "question");
  probe.fact = number_of(line, "fact", 0, int64_t{1} << 52);
  probe.values = texts_of(line, "values");
  if (probe.values.empty()) throw BadLine{"\"values\": expected at least one"};
  probe.update = number_of(line, "update", -1, int64_t(probe.values.size()) - 1);
  probe.prefix_bytes = number_of(line, "prefix_bytes", 1, text_bytes);
  probe.distractors = texts_of(line, "distractors");
  if (probe.is_control()) return probe;
  probe.lag = number_of(line, "lag", 0, int64_t{1} << 52);
  probe.stated = span_of(line, "stated", probe.prefix_bytes);
  return probe;
}

ordered_json probe_line(const StreamProbe& probe) {
  ordered_json line = {
      {"id", probe.id},         {"fact", probe.fact},     {"question", probe.question},
      {"values", probe.values}, {"update", probe.update}, {"prefix_bytes", probe.prefix_bytes}};
  if (!probe.is_control()) {
    line["lag"] = probe.lag;
    line["stated"] = {probe.stated.begin, probe.stated.end};
  }
  line["distractors"] = probe.distractors;
  return line;
}

}  // namespace

std::string fact_stream_lines(const FactStream& stream) {
  ordered_json head = {{"format", kFormat},
                       {"version", kVersion},
                       {"source", stream.source},
                       {"segment", stream.segment},
                       {"text", stream.text}};
  std::string lines = head.dump() + "\n";
  for (const auto& probe : stream.probes) lines += probe_line(probe).dump() + "\n";
  return lines;
}

FactStream read_fact_stream(const std::string& path) {
  FactStream stream;
  for_each_line(path, [&](int64_t number, const std::string& text) {
    auto where = concat(path, ":", number, ": ");
    try {
      auto line = parse_json(text);
      if (number == 1) {
        read_head(line, stream);
        return;
      }
      auto probe = read_probe(line, int64_t(stream.text.size()));
      if (!stream.probes.empty() && probe.prefix_bytes < stream.probes.back().prefix_bytes)
        throw BadLine{concat("\"prefix_bytes\": expected at least the ",
                             stream.probes.back().prefix_bytes, " of the line before, got ",
                             probe.prefix_bytes)};
      stream.probes.push_back(std::move(probe));
    } catch (const BadLine& bad) {
      throw DataError(where + bad.what);
    } catch (const JsonError& error) {
      throw DataError(where + error.what());
    }
  });
  if (stream.probes.empty())
    throw DataError(concat(path, ": expected a stream and its probes, found no probe"));
  return stream;
}

}  // namespace dsrsq
