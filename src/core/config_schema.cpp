// What the structs declare: the names of all keys, and their documentation.
#include <algorithm>
#include <stdexcept>

#include "config_tree.h"

namespace dsrsq {
namespace {

std::string number_text(double value) {
  std::string text = format_double(value);
  if (text.size() > 2 && text.compare(text.size() - 2, 2, ".0") == 0) text.resize(text.size() - 2);
  return text;
}

std::string allowed_text(const FieldRule& rule) {
  std::string out;
  if (rule.minimum) out = (rule.minimum_excluded ? "> " : ">= ") + number_text(*rule.minimum);
  if (rule.maximum) out += (out.empty() ? "<= " : ", <= ") + number_text(*rule.maximum);
  if (!rule.word.empty()) out += (out.empty() ? "`" : " or `") + rule.word + "`";
  for (const std::string& choice : rule.choices)
    out += (out.empty() ? "`" : ", `") + (choice.empty() ? "\"\"" : choice) + "`";
  if (!rule.unbuilt.empty()) {
    out += out.empty() ? "not built yet: " : "; not built yet: ";
    out += join_names(rule.unbuilt);
  }
  return out;
}

// A cell of a Markdown table: one line, no bar.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

struct Row {
  std::string name, type, standard, allowed, doc;
};

struct Section {
  std::string key;  // "" for the top level; "stages.0" for the elements of a list
  std::string doc;
  std::vector<Row> rows;
};

// Visits the groups in order; an element of a list is shown once, with its defaults, under index 0.
class SchemaVisitor : public ConfigVisitor {
 public:
  SchemaVisitor(std::vector<Section>& sections, std::string key, std::string doc)
      : sections_(sections), index_(sections.size()), key_(std::move(key)) {
    sections_.push_back({key_, std::move(doc), {}});
  }

  void field(const char* name, bool& value, const char* doc, const FieldRule& rule) override {
    add(name, "bool", value ? "true" : "false", doc, rule);
  }
  void field(const char* name, int64_t& value, const char* doc, const FieldRule& rule) override {
    const bool word = !rule.word.empty() && value == rule.word_value;
    add(name, "integer", word ? rule.word : std::to_string(value), doc, rule);
  }
  void field(const char* name, double& value, const char* doc, const FieldRule& rule) override {
    add(name, "number", number_text(value), doc, rule);
  }
  void field(const char* name, std::string& value, const char* doc,
             const FieldRule& rule) override {
    add(name, "text", value.empty() ? "\"\"" : value, doc, rule);
  }
  void field(const char* name, std::vector<std::string>& value, const char* doc,
             const FieldRule& rule) override {
    add(name, "list of text", "[" + join_names(value) + "]", doc, rule);
  }
  void field(const char* name, std::vector<int64_t>& value, const char* doc,
             const FieldRule& rule) override {
    std::vector<std::string> texts;
    for (const int64_t number : value) texts.push_back(std::to_string(number));
    add(name, "list of integers", "[" + join_names(texts) + "]", doc, rule);
  }

 protected:
  void visit_group(const char* name, const char* doc,
                   const std::function<void(ConfigVisitor&)>& visit) override {
    declare(name);
    SchemaVisitor inner(sections_, join_key(key_, name), doc);
    visit(inner);
  }
  void visit_list(const char* name, const char* doc, size_t size,
                  const std::function<void(size_t)>&,
                  const std::function<void(size_t, ConfigVisitor&)>& visit_element) override {
    declare(name);
    SchemaVisitor inner(
        sections_, join_key(join_key(key_, name), "0"),
        concat(doc, " A list of groups, ", size, " by default; below, one element."));
    visit_element(static_cast<size_t>(-1), inner);
  }

 private:
  void add(const char* name, const char* type, const std::string& standard, const char* doc,
           const FieldRule& rule) {
    declare(name);
    sections_[index_].rows.push_back({name, type, standard, allowed_text(rule), doc});
  }

  // Declared twice, the second field would shadow the first in a file: a bug of the struct, not of
  // the user.
  void declare(const std::string& name) {
    if (std::find(declared_.begin(), declared_.end(), name) != declared_.end()) {
      throw std::logic_error("configuration key declared twice: " + join_key(key_, name));
    }
    declared_.push_back(name);
  }

  std::vector<Section>& sections_;
  size_t index_;
  std::string key_;
  std::vector<std::string> declared_;
};

std::vector<Section> sections_of(const VisitFields& visit) {
  std::vector<Section> sections;
  SchemaVisitor visitor(sections, "", "");
  visit(visitor);
  return sections;
}

}  // namespace

std::vector<std::string> config_keys(const VisitFields& visit) {
  std::vector<std::string> keys;
  for (const Section& section : sections_of(visit)) {
    for (const Row& row : section.rows) keys.push_back(join_key(section.key, row.name));
  }
  return keys;
}

std::string unknown_key_hint(const std::string& prefix, const std::string& name,
                             const std::vector<std::string>& here,
                             const std::vector<std::string>& all_keys) {
  const std::string near = nearest_name(name, here);
  std::string hint;
  if (!near.empty()) hint = "; did you mean '" + join_key(prefix, near) + "'?";
  // The same name in another group: the key stands under the wrong heading. A group counts by its
  // own name.
  for (const std::string& key : all_keys) {
    std::string path;
    for (const std::string& part : split_key(key)) {
      path = join_key(path, part);
      if (part == name && hint.find("'" + path + "'") == std::string::npos)
        hint += "; there is '" + path + "'";
    }
  }
  if (!hint.empty()) return hint;
  // `lerning_rate` at the top level, where `optimizer.learning_rate` was meant.
  std::vector<std::string> names;
  for (const std::string& key : all_keys) names.push_back(split_key(key).back());
  const std::string far = nearest_name(name, names);
  for (size_t i = 0; i < names.size() && !far.empty(); ++i) {
    if (names[i] == far) return "; did you mean '" + all_keys[i] + "'?";
  }
  return "; valid here: " + join_names(here);
}

std::string document_config(const VisitFields& visit) {
  std::string out;
  for (const Section& section : sections_of(visit)) {
    if (section.rows.empty() && section.doc.empty()) continue;
    if (!section.key.empty()) out += "## " + section.key + "\n\n";
    if (!section.doc.empty()) out += section.doc + "\n\n";
    if (section.rows.empty()) continue;
    out += "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n";
    for (const Row& row : section.rows) {
      out += concat("| `", row.name, "` | ", row.type, " | `", cell(row.standard), "` | ",
                    cell(row.allowed), " | ", cell(row.doc), " |\n");
    }
    out += "\n";
  }
  while (out.size() > 1 && out[out.size() - 2] == '\n') out.pop_back();
  return out;
}

}  // namespace dsrsq
