// ConfigNode -> structs, with every check.
#include <charconv>
#include <cmath>
#include <utility>

#include "config_tree.h"

namespace dsrsq {
namespace {

[[noreturn]] void fail(const ConfigNode& node, const std::string& key, const std::string& what) {
  throw ConfigError(concat(node.location, ": ", key, ": ", what));
}

[[noreturn]] void fail_type(const ConfigNode& node, const std::string& key,
                            const std::string& expected) {
  fail(node, key, concat("expected ", expected, ", got ", describe(node)));
}

std::string number_text(double value) {
  const bool whole = std::floor(value) == value && std::abs(value) < 1e15;
  return whole ? std::to_string(static_cast<int64_t>(value)) : format_double(value);
}

std::string range_text(const FieldRule& rule) {
  std::string out;
  if (rule.minimum)
    out = (rule.minimum_excluded ? "more than " : "at least ") + number_text(*rule.minimum);
  if (rule.maximum)
    out += (out.empty() ? "at most " : " and at most ") + number_text(*rule.maximum);
  return out;
}

template <typename Number>
void check_range(const ConfigNode& node, const std::string& key, Number value,
                 const FieldRule& rule) {
  const auto number = static_cast<double>(value);
  const bool low =
      rule.minimum && (rule.minimum_excluded ? number <= *rule.minimum : number < *rule.minimum);
  const bool high = rule.maximum && number > *rule.maximum;
  if (low || high)
    fail(node, key,
         concat(node.text, " is out of range; allowed: ", range_text(rule),
                rule.word.empty() ? "" : " or " + rule.word));
}

void check_choice(const ConfigNode& node, const std::string& key, const std::string& value,
                  const FieldRule& rule) {
  if (rule.choices.empty() && rule.unbuilt.empty()) return;
  for (const std::string& choice : rule.choices) {
    if (choice == value) return;
  }
  for (const std::string& choice : rule.unbuilt) {
    if (choice == value)
      fail(node, key, concat("'", value, "' is not built yet; built: ", join_names(rule.choices)));
  }
  const std::string near = nearest_name(value, rule.choices);
  fail(node, key,
       concat(quote(value), " is not one of: ", join_names(rule.choices),
              near.empty() ? "" : "; did you mean '" + near + "'?"));
}

void read_value(const ConfigNode& node, const std::string& key, const FieldRule&, bool& value) {
  const bool plain = node.kind == ConfigNode::Kind::kScalar && !node.quoted;
  if (!plain || (node.text != "true" && node.text != "false"))
    fail_type(node, key, "true or false");
  value = node.text == "true";
}

// -?(0|[1-9][0-9]*): 010 would be 8 for some YAML readers and 10 for others.
bool is_plain_integer(const std::string& text) {
  const std::string digits = !text.empty() && text[0] == '-' ? text.substr(1) : text;
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos) return false;
  return digits.size() == 1 || digits[0] != '0';
}

void read_value(const ConfigNode& node, const std::string& key, const FieldRule& rule,
                int64_t& value) {
  const bool plain = node.kind == ConfigNode::Kind::kScalar && !node.quoted;
  if (plain && !rule.word.empty() && node.text == rule.word) {
    value = rule.word_value;
    return;
  }
  if (!plain || !is_plain_integer(node.text)) {
    fail_type(node, key,
              "an integer in plain digits" + (rule.word.empty() ? "" : " or " + rule.word));
  }
  int64_t parsed = 0;
  const char* end = node.text.data() + node.text.size();
  if (std::from_chars(node.text.data(), end, parsed).ec != std::errc()) {
    fail(node, key, concat(quote(node.text), " does not fit in 64 bits"));
  }
  if (node.location != kDefaultLocation) check_range(node, key, parsed, rule);
  value = parsed;
}

void read_value(const ConfigNode& node, const std::string& key, const FieldRule& rule,
                double& value) {
  const char* begin = node.text.data();
  const char* end = begin + node.text.size();
  double parsed = 0;
  const auto [stop, error] = std::from_chars(begin, end, parsed);
  if (error == std::errc::result_out_of_range && stop == end && !node.quoted) {
    fail(node, key, concat(quote(node.text), " is too large or too small for a double"));
  }
  const bool number = error == std::errc() && stop == end && std::isfinite(parsed);
  if (node.kind != ConfigNode::Kind::kScalar || node.quoted || !number)
    fail_type(node, key, "a finite number");
  if (node.location != kDefaultLocation) check_range(node, key, parsed, rule);
  value = parsed;
}

void read_value(const ConfigNode& node, const std::string& key, const FieldRule& rule,
                std::string& value) {
  if (node.kind == ConfigNode::Kind::kNull)
    fail_type(node, key, "text (for an empty text write \"\")");
  if (node.kind != ConfigNode::Kind::kScalar) fail_type(node, key, "text");
  if (node.location != kDefaultLocation) check_choice(node, key, node.text, rule);
  value = node.text;
}

template <typename T>
void read_value(const ConfigNode& node, const std::string& key, const FieldRule& rule,
                std::vector<T>& values) {
  if (node.kind != ConfigNode::Kind::kList) fail_type(node, key, "a list such as [a, b]");
  std::vector<T> read(node.items.size());
  for (size_t i = 0; i < read.size(); ++i)
    read_value(node.items[i], join_key(key, std::to_string(i)), rule, read[i]);
  values = std::move(read);
}

class Loader : public ConfigVisitor {
 public:
  Loader(const ConfigNode& root, const std::vector<std::string>& all_keys,
         ConfigLocations& locations)
      : node_(&root), all_keys_(all_keys), locations_(locations) {}

  void field(const char* name, bool& value, const char*, const FieldRule& rule) override {
    read(name, value, rule);
  }
  void field(const char* name, int64_t& value, const char*, const FieldRule& rule) override {
    read(name, value, rule);
  }
  void field(const char* name, double& value, const char*, const FieldRule& rule) override {
    read(name, value, rule);
  }
  void field(const char* name, std::string& value, const char*, const FieldRule& rule) override {
    read(name, value, rule);
  }
  void field(const char* name, std::vector<std::string>& value, const char*,
             const FieldRule& rule) override {
    read(name, value, rule);
  }
  void field(const char* name, std::vector<int64_t>& value, const char*,
             const FieldRule& rule) override {
    read(name, value, rule);
  }

  // Every key of the present node must have been declared by the visit that just ended.
  void check_unknown() const {
    for (const ConfigEntry& entry : node_->entries) {
      bool known = false;
      for (const std::string& name : declared_) known = known || name == entry.key;
      if (known) continue;
      throw ConfigError(concat(entry.location, ": unknown key ",
                               quote(join_key(prefix_, entry.key)),
                               unknown_key_hint(prefix_, entry.key, declared_, all_keys_)));
    }
  }

 protected:
  void visit_group(const char* name, const char*,
                   const std::function<void(ConfigVisitor&)>& visit) override {
    const ConfigEntry* entry = take(name);
    if (entry == nullptr) return;
    enter(entry->value, join_key(prefix_, name), visit);
  }

  void visit_list(const char* name, const char*, size_t, const std::function<void(size_t)>& resize,
                  const std::function<void(size_t, ConfigVisitor&)>& visit_element) override {
    const ConfigEntry* entry = take(name);
    if (entry == nullptr) return;
    const std::string key = join_key(prefix_, name);
    if (entry->value.kind != ConfigNode::Kind::kList)
      fail_type(entry->value, key, "a list of groups ('- key: value')");
    const std::vector<ConfigNode>& items = entry->value.items;
    resize(items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      enter(items[i], join_key(key, std::to_string(i)),
            [&](ConfigVisitor& v) { visit_element(i, v); });
    }
  }

 private:
  template <typename T>
  void read(const char* name, T& value, const FieldRule& rule) {
    if (const ConfigEntry* entry = take(name))
      read_value(entry->value, join_key(prefix_, name), rule, value);
  }

  const ConfigEntry* take(const char* name) {
    declared_.emplace_back(name);
    const ConfigEntry* entry = node_->find(name);
    if (entry != nullptr) locations_.set(join_key(prefix_, name), entry->value.location);
    return entry;
  }

  void enter(const ConfigNode& node, const std::string& key,
             const std::function<void(ConfigVisitor&)>& visit) {
    if (node.kind != ConfigNode::Kind::kMap) fail_type(node, key, "a group of keys");
    Loader inner(node, all_keys_, locations_);
    inner.prefix_ = key;
    visit(inner);
    inner.check_unknown();
  }

  const ConfigNode* node_;
  const std::vector<std::string>& all_keys_;
  ConfigLocations& locations_;
  std::string prefix_;
  std::vector<std::string> declared_;
};

ConfigLocations load_tree(const ConfigNode& tree, const std::vector<std::string>& keys,
                          const VisitFields& visit) {
  ConfigLocations locations;
  Loader loader(tree, keys, locations);
  visit(loader);
  loader.check_unknown();
  return locations;
}

}  // namespace

ConfigLocations load_config(const ConfigSource& source, const VisitFields& visit) {
  const std::vector<std::string> keys = config_keys(visit);
  ConfigNode tree;
  tree.kind = ConfigNode::Kind::kMap;
  if (!source.name.empty()) tree = read_config_tree(source.name, source.search_folders);
  if (!source.overrides.empty()) {
    const ConfigNode defaults = config_tree_of(visit);
    for (const std::string& text : source.overrides) apply_override(tree, text, defaults);
  }
  return load_tree(tree, keys, visit);
}

ConfigLocations load_config_text(const std::string& text, const std::string& name,
                                 const VisitFields& visit) {
  const ConfigNode tree = parse_config_text(text, name);
  if (const ConfigEntry* extends = tree.find("extends")) {
    throw ConfigError(concat(extends->location,
                             ": extends is not allowed here: the text was not read from a file"));
  }
  return load_tree(tree, config_keys(visit), visit);
}

}  // namespace dsrsq
