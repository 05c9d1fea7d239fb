#include "dsrsq/data/splits.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

std::string normalize_question(const std::string& question) {
  std::string out;
  for (const char c : question) {
    const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
    if (blank) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '?')) out.pop_back();
  return out;
}

SplitShare parse_share(const std::string& item, const std::string& text) {
  const size_t equals = item.find('=');
  SplitShare share;
  share.name = item.substr(0, equals);
  const bool plain_name =
      !share.name.empty() && std::all_of(share.name.begin(), share.name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-';
      });
  bool number = false;
  if (equals != std::string::npos) {
    const char* begin = item.data() + equals + 1;
    const char* end = item.data() + item.size();
    const auto [stop, error] = std::from_chars(begin, end, share.share);
    number = error == std::errc() && stop == end && std::isfinite(share.share) && share.share > 0;
  }
  if (!plain_name || !number) {
    throw ConfigError(concat("splits \"", text, "\": \"", item,
                             "\" is not name=share with a share above 0; expected e.g. "
                             "train=0.8,validation=0.1,test=0.1"));
  }
  return share;
}

// Union-find with path halving.
uint32_t find_root(std::vector<uint32_t>& parent, uint32_t node) {
  while (parent[node] != node) {
    parent[node] = parent[parent[node]];
    node = parent[node];
  }
  return node;
}

// Joins the owners of equal hashes; the owner of hash i is owners[i], or i itself.
void join_equal(std::vector<uint32_t>& parent, const std::vector<uint64_t>& hashes,
                const std::vector<uint32_t>* owners) {
  std::vector<uint32_t> order(hashes.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return hashes[a] < hashes[b]; });
  const auto owner = [owners](uint32_t i) { return owners == nullptr ? i : (*owners)[i]; };
  for (size_t i = 1; i < order.size(); ++i) {
    if (hashes[order[i]] != hashes[order[i - 1]]) continue;
    parent[find_root(parent, owner(order[i]))] = find_root(parent, owner(order[i - 1]));
  }
}

}  // namespace

std::vector<SplitShare> parse_splits(const std::string& text) {
  std::vector<SplitShare> shares;
  double sum = 0;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    shares.push_back(parse_share(text.substr(begin, comma - begin), text));
    sum += shares.back().share;
    begin = comma + 1;
  }
  if (shares.size() > 255) throw ConfigError(concat("splits: at most 255, got ", shares.size()));
  for (size_t i = 0; i < shares.size(); ++i) {
    shares[i].share /= sum;
    for (size_t j = 0; j < i; ++j) {
      if (shares[j].name == shares[i].name)
        throw ConfigError(concat("splits \"", text, "\": \"", shares[i].name, "\" stands twice"));
    }
  }
  return shares;
}

std::vector<uint8_t> split_by_time(const std::vector<std::string>& timestamps,
                                   const std::vector<SplitShare>& shares) {
  std::map<std::string, int64_t> records;  // of each timestamp, in their order
  for (size_t i = 0; i < timestamps.size(); ++i) {
    if (timestamps[i].empty())
      throw DataError(concat("record ", i, " has no timestamp: splits by time need one in each"));
    ++records[timestamps[i]];
  }
  std::map<std::string, uint8_t> splits;
  int64_t before = 0;
  size_t split = 0;
  double end = shares[0].share;  // of the split, in shares of all records
  for (const auto& [timestamp, count] : records) {
    const double middle = (static_cast<double>(before) + static_cast<double>(count) / 2) /
                          static_cast<double>(timestamps.size());
    while (split + 1 < shares.size() && middle >= end) end += shares[++split].share;
    splits[timestamp] = static_cast<uint8_t>(split);
    before += count;
  }
  std::vector<uint8_t> out;
  for (const std::string& timestamp : timestamps) out.push_back(splits.at(timestamp));
  return out;
}

SplitAssigner::SplitAssigner(std::vector<SplitShare> shares, uint64_t seed)
    : shares_(std::move(shares)), seed_(seed) {
  if (shares_.empty() || shares_.size() > 255)
    throw ConfigError(concat("splits: expected 1 to 255, got ", shares_.size()));
}

void SplitAssigner::add_hash(uint64_t hash) {
  if (questions_.size() == std::numeric_limits<uint32_t>::max())
    throw DataError("splits: over 2^32 - 1 records in one data set; prepare it in parts");
  questions_.push_back(hash);
}

void SplitAssigner::add_document(std::string_view document) {
  if (document.empty()) return;
  if (documents_.size() == std::numeric_limits<uint32_t>::max())
    throw DataError("splits: over 2^32 - 1 passages in one data set; prepare it in parts");
  documents_.push_back(stable_hash(document));
  owners_.push_back(static_cast<uint32_t>(questions_.size() - 1));
}

void SplitAssigner::add(const std::string& question, const std::string& document) {
  add_hash(stable_hash(normalize_question(question)));
  add_document(document);
}

void SplitAssigner::add(const DocumentExample& example) {
  const std::string_view document = example.document;
  for (const Question& question : example.questions) {
    if (!example.split_keys.empty()) {
      // A line feed is in no normalised question.
      add_hash(stable_hash("\n" + example.split_keys[0]));
      for (const std::string& key : example.split_keys) add_document("\n" + key);
      continue;
    }
    add_hash(stable_hash(normalize_question(question.text)));
    if (example.passages.empty()) add_document(document);
    for (const ByteSpan& passage : example.passages)
      add_document(document.substr(passage.begin, passage.end - passage.begin));
  }
}

std::vector<uint8_t> SplitAssigner::assign() const {
  const size_t records = questions_.size();
  std::vector<uint32_t> parent(records);
  std::iota(parent.begin(), parent.end(), 0u);
  join_equal(parent, questions_, nullptr);
  join_equal(parent, documents_, &owners_);

  // The smallest hash of a group does not depend on the order of its records. Kept at the root's
  // place.
  std::vector<uint64_t> smallest(records, std::numeric_limits<uint64_t>::max());
  const auto lower = [&](uint32_t record, uint64_t hash) {
    uint64_t& value = smallest[find_root(parent, record)];
    value = std::min(value, hash);
  };
  for (uint32_t i = 0; i < records; ++i) lower(i, questions_[i]);
  for (size_t i = 0; i < documents_.size(); ++i) lower(owners_[i], documents_[i]);
  std::vector<uint8_t> splits(records);
  for (uint32_t i = 0; i < records; ++i) {
    const double u =
        RandomStream(seed_, Purpose::kSplit, 0, smallest[find_root(parent, i)]).uniform(0);
    double below = 0;
    size_t split = 0;
    while (split + 1 < shares_.size() && u >= (below += shares_[split].share)) ++split;
    splits[i] = static_cast<uint8_t>(split);
  }
  return splits;
}

}  // namespace dsrsq
