#include "dsrsq/core/config.h"

#include <algorithm>
#include <utility>

#include "config_tree.h"

namespace dsrsq {
namespace {

// Edits between two words: insert, delete, replace, swap of neighbours. `limit` bounds the work.
size_t edit_distance(const std::string& a, const std::string& b, size_t limit) {
  const size_t difference = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  if (difference > limit) return limit + 1;
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

FieldRule at_least(double minimum) {
  FieldRule rule;
  rule.minimum = minimum;
  return rule;
}

FieldRule more_than(double minimum) {
  FieldRule rule = at_least(minimum);
  rule.minimum_excluded = true;
  return rule;
}

FieldRule between(double minimum, double maximum) {
  FieldRule rule = at_least(minimum);
  rule.maximum = maximum;
  return rule;
}

FieldRule or_word(FieldRule rule, const std::string& word, int64_t value) {
  rule.word = word;
  rule.word_value = value;
  return rule;
}

FieldRule one_of(std::vector<std::string> choices, std::vector<std::string> unbuilt) {
  FieldRule rule;
  rule.choices = std::move(choices);
  rule.unbuilt = std::move(unbuilt);
  return rule;
}

std::string ConfigLocations::of(const std::string& key) const {
  const auto found = locations_.find(key);
  return found == locations_.end() ? kDefaultLocation : found->second;
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const size_t limit = std::max<size_t>(1, candidate.size() / 3);
    const size_t distance = edit_distance(name, candidate, limit);
    if (distance > limit || (!best.empty() && distance >= best_distance)) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

ConfigEntry* ConfigNode::find(const std::string& key) {
  return const_cast<ConfigEntry*>(std::as_const(*this).find(key));
}

const ConfigEntry* ConfigNode::find(const std::string& key) const {
  for (const ConfigEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

std::string describe(const ConfigNode& node) {
  switch (node.kind) {
    case ConfigNode::Kind::kNull:
      return "an empty value";
    case ConfigNode::Kind::kScalar:
      return node.quoted ? "the text " + quote(node.text) : quote(node.text);
    case ConfigNode::Kind::kList:
      return "a list";
    case ConfigNode::Kind::kMap:
      return "a group of keys";
  }
  return "";
}

std::string join_key(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

std::string join_names(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

std::vector<std::string> split_key(const std::string& key) {
  std::vector<std::string> parts(1);
  for (const char c : key) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

}  // namespace dsrsq
