// YAML configuration: what loads is dumped, and the dump loads to the same.
#include "dsrsq/core/config.h"
#include "fuzz.h"

namespace dsrsq {
namespace {

struct Stage {
  std::string name = "warm";
  double rate = 1e-3;
  void visit_fields(ConfigVisitor& v) {
    v.field("name", name, "Name.");
    v.field("rate", rate, "Rate.", more_than(0));
  }
};

struct Settings {
  int64_t seed = 7;
  bool enabled = true;
  std::string kind = "codebook";
  std::vector<std::string> probes = {"niah"};
  std::vector<int64_t> layers = {0, 1};
  std::vector<Stage> stages = {Stage{}};
  Stage group;
  void visit_fields(ConfigVisitor& v) {
    v.field("seed", seed, "Seed.", at_least(-5));
    v.field("enabled", enabled, "Switch.");
    v.field("kind", kind, "Kind.", one_of({"codebook", "text"}, {"segment"}));
    v.field("probes", probes, "Texts.");
    v.field("layers", layers, "Integers.");
    v.list("stages", stages, "Groups.");
    v.group("group", group, "A group.");
  }
};

VisitFields visitor(Settings& settings) {
  return [&settings](ConfigVisitor& v) { settings.visit_fields(v); };
}

void load(const std::string& text) {
  Settings settings;
  load_config_text(text, "fuzz.yaml", visitor(settings));
  const std::string dumped = dump_config(visitor(settings));
  Settings again;
  load_config_text(dumped, "dump.yaml", visitor(again));
  if (dump_config(visitor(again)) != dumped) std::abort();
}

}  // namespace
}  // namespace dsrsq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const std::string text = fuzz::text_of(data, size);
  fuzz::expect_no_other_error([&] { load(text); });
  fuzz::expect_no_other_error([&] {  // the same bytes as a value of --set
    Settings settings;
    load_config({"", {text}, {}}, visitor(settings));
  });
  return 0;
}
