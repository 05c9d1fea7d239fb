// Strict configuration. A component declares its settings once, in `visit_fields`; loading, the
// resolved dump and the documentation (configs/README.md) are visitors over that one declaration.
//
//   struct SqaConfig {
//     bool enabled = true;
//     int64_t clusters = 32;
//     std::string centroids = "codebook";
//     void visit_fields(ConfigVisitor& v) {
//       v.field("enabled", enabled, "Attend inside the top clusters only.");
//       v.field("clusters", clusters, "Clusters a key-value head.", at_least(1));
//       v.field("centroids", centroids, "Where centroids come from.", one_of({"codebook"},
//       {"segment", "kmeans"}));
//     }
//   };
//
// Files are YAML with an optional top-level `extends: other.yaml` (or a list; later wins, the file
// itself wins last; looked up beside the file, then in the search folders). Unknown keys,
// duplicates, wrong types, values out of range, anchors, aliases and tags, files over 1 MiB,
// nesting over 32 and choices that are not built yet are errors that name file, line, column, key,
// what is allowed and the nearest valid key.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace dsrsq {

// What a value may be; empty means anything of the type.
struct FieldRule {
  std::optional<double> minimum;
  std::optional<double> maximum;
  bool minimum_excluded = false;
  std::vector<std::string> choices;  // for strings: the values that are built
  std::vector<std::string>
      unbuilt;             // values of the design that are not built yet: an error that says so
  std::string word;        // for integers: what may stand instead of a number; empty: nothing
  int64_t word_value = 0;  // what the field holds then; outside the range
};

FieldRule at_least(double minimum);
FieldRule more_than(double minimum);
FieldRule between(double minimum, double maximum);  // both ends allowed
// An integer within `rule`, or a word, which the field holds as `value`.
FieldRule or_word(FieldRule rule, const std::string& word, int64_t value);
FieldRule one_of(std::vector<std::string> choices, std::vector<std::string> unbuilt = {});

class ConfigVisitor {
 public:
  virtual ~ConfigVisitor() = default;

  virtual void field(const char* name, bool& value, const char* doc,
                     const FieldRule& rule = {}) = 0;
  virtual void field(const char* name, int64_t& value, const char* doc,
                     const FieldRule& rule = {}) = 0;
  virtual void field(const char* name, double& value, const char* doc,
                     const FieldRule& rule = {}) = 0;
  virtual void field(const char* name, std::string& value, const char* doc,
                     const FieldRule& rule = {}) = 0;
  virtual void field(const char* name, std::vector<std::string>& value, const char* doc,
                     const FieldRule& rule = {}) = 0;
  virtual void field(const char* name, std::vector<int64_t>& value, const char* doc,
                     const FieldRule& rule = {}) = 0;

  template <typename T>
  void group(const char* name, T& value, const char* doc) {
    visit_group(name, doc, [&value](ConfigVisitor& v) { value.visit_fields(v); });
  }
  // A list of structs (curriculum stages). A list in a file replaces the whole list that it
  // extends.
  template <typename T>
  void list(const char* name, std::vector<T>& values, const char* doc) {
    visit_list(
        name, doc, values.size(), [&values](size_t size) { values.assign(size, T{}); },
        [&values](size_t i, ConfigVisitor& v) {
          if (i >= values.size()) {  // the documenter shows one default element
            T element{};
            element.visit_fields(v);
          } else {
            values[i].visit_fields(v);
          }
        });
  }

 protected:
  virtual void visit_group(const char* name, const char* doc,
                           const std::function<void(ConfigVisitor&)>& visit) = 0;
  virtual void visit_list(const char* name, const char* doc, size_t size,
                          const std::function<void(size_t)>& resize,
                          const std::function<void(size_t, ConfigVisitor&)>& visit_element) = 0;
};

using VisitFields = std::function<void(ConfigVisitor&)>;

// Where each value came from, for cross-field checks: "nq.yaml:12:5", "--set sqa.clusters=4" or
// "default".
class ConfigLocations {
 public:
  void set(const std::string& key, const std::string& location) { locations_[key] = location; }
  std::string of(const std::string& key) const;  // "default" where unset
 private:
  std::map<std::string, std::string> locations_;
};

struct ConfigSource {
  std::string
      name;  // a path, or a name that is looked up in search_folders; may be empty: defaults only
  std::vector<std::string> overrides;  // "a.b=c" from --set; c is a YAML scalar or flow list; list
                                       // elements: "stages.0.steps=5"
  std::vector<std::string> search_folders;
};

// Fills the visited structs. Throws ConfigError. Values not named keep their defaults.
ConfigLocations load_config(const ConfigSource& source, const VisitFields& visit);
// The same from text, for resolved configs kept in run folders and for tests; `name` stands in
// messages.
ConfigLocations load_config_text(const std::string& text, const std::string& name,
                                 const VisitFields& visit);

// All values as YAML that load_config reads back to the same values (doubles round-trip exactly).
std::string dump_config(const VisitFields& visit);
// Markdown: a table per group of key, type, default, allowed values (and which are not built yet),
// meaning.
std::string document_config(const VisitFields& visit);
// "dsr.budget" -> its value as text. Throws ConfigError for an unknown key. For tables and logs.
std::string config_value(const VisitFields& visit, const std::string& key);

// "did you mean": the candidate with the smallest edit distance if it is close enough, else "".
std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates);

}  // namespace dsrsq
