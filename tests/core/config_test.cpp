#include "dsrsq/core/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <stdexcept>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

struct Sqa {
  bool enabled = true;
  int64_t clusters = 32;
  double decay = 0.99;
  std::string centroids = "codebook";
  void visit_fields(ConfigVisitor& v) {
    v.field("enabled", enabled, "Attend inside the top clusters only.");
    v.field("clusters", clusters, "Clusters a head.", at_least(1));
    v.field("decay", decay, "Of the averages.", between(0, 1));
    v.field("centroids", centroids, "Source | kind.", one_of({"codebook"}, {"segment", "kmeans"}));
  }
};

struct Stage {
  std::string name = "joint";
  int64_t steps = 100;
  double rate = 1e-4;
  void visit_fields(ConfigVisitor& v) {
    v.field("name", name, "Of the stage.");
    v.field("steps", steps, "Length.", at_least(1));
    v.field("rate", rate, "Learning rate.", more_than(0));
  }
};

struct Settings {
  int64_t seed = 7;
  std::string output = "";
  std::vector<std::string> probes = {"niah"};
  std::vector<int64_t> layers = {0, 1};
  Sqa sqa;
  std::vector<Stage> stages = {{"warm", 10, 0.5}, {"joint", 20, 0.25}};
  int64_t sentinel = -1;  // a default outside its own rule means "not set"
  int64_t pages = 0;      // auto
  void visit_fields(ConfigVisitor& v) {
    v.field("seed", seed, "Of everything.");
    v.field("output", output, "Folder.");
    v.field("probes", probes, "Names.", one_of({"niah", "needle"}));
    v.field("layers", layers, "Indices.", at_least(0));
    v.group("sqa", sqa, "Semantic quantized attention.");
    v.list("stages", stages, "The curriculum.");
    v.field("sentinel", sentinel, "Default out of range.", at_least(0));
    v.field("pages", pages, "Or a word.", or_word(at_least(1), "auto", 0));
  }
};

VisitFields visitor(Settings& settings) {
  return [&settings](ConfigVisitor& v) { settings.visit_fields(v); };
}

Settings from_text(const std::string& text) {
  Settings settings;
  load_config_text(text, "t.yaml", visitor(settings));
  return settings;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string text_error(const std::string& text) {
  return error_of([&] { from_text(text); });
}

Settings with_overrides(std::vector<std::string> overrides) {
  Settings settings;
  load_config({"", std::move(overrides), {}}, visitor(settings));
  return settings;
}

std::string override_error(const std::string& text) {
  return error_of([&] { with_overrides({text}); });
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
}

class ConfigFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-config-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }
  std::string file_error(const std::string& name, const std::vector<std::string>& folders = {}) {
    return error_of([&] {
      Settings settings;
      load_config({name, {}, folders}, visitor(settings));
    });
  }
  fs::path folder_;
};

TEST(Config, ReadsEveryType) {
  Settings settings;
  const ConfigLocations locations = load_config_text(
      "seed: -3\noutput: runs/a b\nprobes: [needle, niah]\nlayers:\n  - 2\n  - 4\n"
      "sqa:\n  enabled: false\n  decay: 5e-1\nstages:\n  - name: only\n    steps: 5\n",
      "t.yaml", visitor(settings));
  EXPECT_EQ(settings.seed, -3);
  EXPECT_EQ(settings.output, "runs/a b");
  EXPECT_EQ(settings.probes, (std::vector<std::string>{"needle", "niah"}));
  EXPECT_EQ(settings.layers, (std::vector<int64_t>{2, 4}));
  EXPECT_FALSE(settings.sqa.enabled);
  EXPECT_EQ(settings.sqa.clusters, 32);
  EXPECT_EQ(settings.sqa.decay, 0.5);
  ASSERT_EQ(settings.stages.size(), 1u);
  EXPECT_EQ(settings.stages[0].name, "only");
  EXPECT_EQ(settings.stages[0].rate,
            1e-4);  // the element's default, not that of the list it replaces
  EXPECT_EQ(locations.of("sqa.decay"), "t.yaml:9:10");
  EXPECT_EQ(locations.of("stages.0.steps"), "t.yaml:12:12");
  EXPECT_EQ(locations.of("sqa.clusters"), "default");
}

TEST(Config, EmptyTextKeepsDefaults) {
  EXPECT_EQ(from_text("").seed, 7);
  EXPECT_EQ(from_text("# nothing\n").stages.size(), 2u);
  EXPECT_EQ(from_text("stages: []\n").stages.size(), 0u);
}

TEST(Config, UnknownKeysNameTheNearest) {
  expect_contains(text_error("sqa:\n  cluster: 3\n"),
                  "t.yaml:2:3: unknown key 'sqa.cluster'; did you mean 'sqa.clusters'?");
  expect_contains(text_error("clusters: 3\n"),
                  "t.yaml:1:1: unknown key 'clusters'; there is 'sqa.clusters'");
  expect_contains(text_error("clustrs: 3\n"), "did you mean 'sqa.clusters'?");
  expect_contains(text_error("sqa:\n  seed: 3\n"), "there is 'seed'");
  expect_contains(text_error("sqa:\n  zzzzzzzz: 3\n"),
                  "valid here: enabled, clusters, decay, centroids");
  expect_contains(text_error("stages:\n  - stepz: 3\n"),
                  "unknown key 'stages.0.stepz'; did you mean 'stages.0.steps'?");
  expect_contains(text_error("<<: {seed: 1}\n"), "unknown key '<<'");
  EXPECT_EQ(text_error("\"a\\nb\": 1\n").find('\n'), std::string::npos);
}

TEST(Config, WrongTypesAreErrors) {
  for (const char* value : {"yes", "True", "1", "\"true\"", "", "[true]", "{a: 1}"}) {
    expect_contains(text_error(std::string("sqa: {enabled: ") + value + "}\n"),
                    "sqa.enabled: expected true or false");
  }
  for (const char* value :
       {"1.0", "1e6", "1_000", "0x10", "010", "+1", "\"3\"", "3 4", "true", "[3]", "-", "''"}) {
    const std::string message = text_error(std::string("seed: ") + value + "\n");
    EXPECT_NE(message, "no error") << value;
    if (std::string(value) != "-")
      expect_contains(message, "seed: expected an integer in plain digits");
  }
  for (const char* value :
       {"abc", ".inf", "inf", "nan", ".nan", "1.0.0", "\"1\"", "1,5", "0x1p3", "1e"}) {
    expect_contains(text_error(std::string("sqa:\n  decay: ") + value + "\n"),
                    "sqa.decay: expected a finite number");
  }
  expect_contains(text_error("sqa:\n  decay: 1e999\n"), "too large or too small");
  expect_contains(text_error("seed: 9223372036854775808\n"), "does not fit in 64 bits");
  EXPECT_EQ(from_text("seed: -9223372036854775808\n").seed, std::numeric_limits<int64_t>::min());
  expect_contains(text_error("output: \n"),
                  "t.yaml:1:1: output: expected text (for an empty text write \"\")");
  expect_contains(text_error("output: [a]\n"), "output: expected text, got a list");
  expect_contains(text_error("probes: niah\n"),
                  "probes: expected a list such as [a, b], got 'niah'");
  expect_contains(text_error("sqa: 3\n"), "sqa: expected a group of keys, got '3'");
  expect_contains(text_error("sqa:\nseed: 1\n"),
                  "t.yaml:1:1: sqa: expected a group of keys, got an empty value");
  expect_contains(text_error("stages: {steps: 3}\n"), "stages: expected a list of groups");
  expect_contains(text_error("stages: [3]\n"), "stages.0: expected a group of keys");
  expect_contains(text_error("- a\n"), "expected 'key: value' lines at the top, got a list");
  expect_contains(text_error("just words\n"), "expected 'key: value' lines at the top");
}

TEST(Config, RangesAndChoices) {
  EXPECT_EQ(text_error("sqa:\n  clusters: 0\n"),
            "t.yaml:2:13: sqa.clusters: 0 is out of range; allowed: at least 1");
  expect_contains(text_error("sqa: {decay: 1.5}\n"),
                  "1.5 is out of range; allowed: at least 0 and at most 1");
  EXPECT_EQ(from_text("sqa: {decay: 1}\n").sqa.decay, 1.0);
  expect_contains(text_error("stages: [{rate: 0}]\n"),
                  "stages.0.rate: 0 is out of range; allowed: more than 0");
  expect_contains(text_error("layers: [0, -1]\n"), "layers.1: -1 is out of range");
  expect_contains(text_error("sentinel: -1\n"), "sentinel: -1 is out of range");
  EXPECT_EQ(text_error("sqa: {centroids: kmeans}\n"),
            "t.yaml:1:18: sqa.centroids: 'kmeans' is not built yet; built: codebook");
  expect_contains(text_error("sqa: {centroids: codebok}\n"),
                  "'codebok' is not one of: codebook; did you mean 'codebook'?");
  expect_contains(text_error("probes: [niah, x]\n"), "probes.1: 'x' is not one of: niah, needle");
}

TEST(Config, AWordMayStandForANumber) {
  EXPECT_EQ(from_text("pages: 3\n").pages, 3);
  Settings settings = with_overrides({"pages=12"});
  EXPECT_EQ(settings.pages, 12);
  load_config_text("pages: auto\n", "t.yaml", visitor(settings));
  EXPECT_EQ(settings.pages, 0);
  EXPECT_EQ(config_value(visitor(settings), "pages"), "auto");
  settings.sentinel = 3;
  const std::string text = dump_config(visitor(settings));  // and what was resolved says so
  expect_contains(text, "\npages: auto\n");
  settings.pages = 7;
  load_config_text(text, "t.yaml", visitor(settings));
  EXPECT_EQ(settings.pages, 0);
  expect_contains(document_config(visitor(settings)),
                  "| `pages` | integer | `auto` | >= 1 or `auto` | Or a word. |");

  EXPECT_EQ(text_error("pages: 0\n"),
            "t.yaml:1:8: pages: 0 is out of range; allowed: at least 1 or auto");
  EXPECT_EQ(text_error("pages: all\n"),
            "t.yaml:1:8: pages: expected an integer in plain digits or auto, got 'all'");
  expect_contains(text_error("pages: \"auto\"\n"), "got the text 'auto'");
  expect_contains(text_error("seed: auto\n"), "expected an integer in plain digits, got 'auto'");
}

TEST(Config, RefusesWhatYamlCppKeepsSilently) {
  EXPECT_EQ(text_error("seed: 1\nseed: 2\n"),
            "t.yaml:2:1: key 'seed' is set twice in this group; first at t.yaml:1:1; remove one");
  expect_contains(text_error("sqa: {decay: 0.5, decay: 0.6}\n"), "key 'decay' is set twice");
  expect_contains(text_error("seed: &a 1\n"), "anchors (&name) are not allowed");
  expect_contains(text_error("layers: &a [1]\n"), "anchors (&name) are not allowed");
  expect_contains(text_error("sqa: &a {decay: 1}\n"), "anchors (&name) are not allowed");
  expect_contains(text_error("seed: *a\n"), "t.yaml:1:7");
  expect_contains(text_error("output: !!str 3\n"),
                  "tags ('tag:yaml.org,2002:str') are not allowed");
  expect_contains(text_error("sqa: !x {decay: 1}\n"), "tags ('!x') are not allowed");
  expect_contains(text_error("seed: 1\n---\nseed: 2\n"), "holds several YAML documents");
  expect_contains(text_error("seed: [1\n"), "not valid YAML");
  expect_contains(text_error("seed: 1\n: x: y\n"), "a key is missing before");
  expect_contains(text_error("? [a]\n: 1\n"), "a key must be a name");
  expect_contains(text_error("extends: a.yaml\n"), "extends is not allowed here");
}

TEST(Config, LimitsHostileInput) {
  std::string nested = "output: ";
  for (int i = 0; i < 20000; ++i) nested += '[';
  EXPECT_NE(text_error(nested), "no error");  // unterminated, as well
  nested = "output: " + std::string(40, '[') + std::string(40, ']') + "\n";
  expect_contains(text_error(nested), "nested more than 32 deep");
  expect_contains(text_error("output: " + std::string(1 << 20, 'x')),
                  "a configuration has at most 1048576");
  std::string many = "layers: [0";
  for (int i = 0; i < 100000; ++i) many += ",0";
  expect_contains(text_error(many + "]"), "more than 20000 values");
  expect_contains(text_error("output: a\xff\n"), "not valid UTF-8");
  expect_contains(text_error("output: \xc0\xaf\n"), "not valid UTF-8");
  expect_contains(text_error("output: \xed\xa0\x80\n"), "not valid UTF-8");
  expect_contains(text_error(std::string("seed: 1\noutput: a\x04\n", 19)),
                  "t.yaml:2: a control character (4)");
  expect_contains(text_error(std::string("seed: 1\0", 8)), "control character (0)");
}

TEST(Config, OverridesAreValidatedAlike) {
  const Settings settings =
      with_overrides({"sqa.clusters=4", "output=a=b", "layers=[3, 4]", "stages.1.steps=5",
                      "probes.0=needle", "sqa.clusters=6"});
  EXPECT_EQ(settings.sqa.clusters, 6);
  EXPECT_EQ(settings.output, "a=b");
  EXPECT_EQ(settings.layers, (std::vector<int64_t>{3, 4}));
  ASSERT_EQ(settings.stages.size(), 2u);
  EXPECT_EQ(settings.stages[0].name, "warm");
  EXPECT_EQ(settings.stages[0].rate, 0.5);
  EXPECT_EQ(settings.stages[1].steps, 5);
  EXPECT_EQ(settings.stages[1].rate, 0.25);
  EXPECT_EQ(settings.probes, (std::vector<std::string>{"needle"}));
  EXPECT_EQ(with_overrides({"output=\"\""}).output, "");

  EXPECT_EQ(override_error("sqa.clusters=0"),
            "--set sqa.clusters=0: sqa.clusters: 0 is out of range; allowed: at least 1");
  expect_contains(override_error("sqa.cluster=4"),
                  "--set sqa.cluster=4: unknown key 'sqa.cluster'; did you mean 'sqa.clusters'?");
  expect_contains(override_error("sqa.centroids=kmeans"), "not built yet; built: codebook");
  expect_contains(override_error("stages.2.steps=5"),
                  "stages has 2 element(s); expected an index from 0 to 1, got '2'");
  expect_contains(override_error("stages.x.steps=5"), "got 'x'");
  expect_contains(override_error("sqa.clusters.x=5"),
                  "sqa.clusters: expected an integer in plain digits, got a group");
  expect_contains(override_error("sqa=5"), "sqa: expected a group of keys");
  expect_contains(override_error("output="), "the value is empty");
  expect_contains(override_error("sqa={decay: 1}"), "set each key by itself");
  expect_contains(override_error("output=&a b"), "anchors");
  for (const char* text : {"sqa", "=3", "sqa..decay=1", ".x=1", "sqa.=1"}) {
    expect_contains(override_error(text), "expected key=value");
  }
}

TEST(Config, OverrideLocationsSayWhere) {
  Settings settings;
  const ConfigLocations locations =
      load_config({"", {"sqa.clusters=4", "stages.0.steps=5"}, {}}, visitor(settings));
  EXPECT_EQ(locations.of("sqa.clusters"), "--set sqa.clusters=4");
  EXPECT_EQ(locations.of("stages.0.steps"), "--set stages.0.steps=5");
  EXPECT_EQ(locations.of("stages.1.steps"), "default");
}

TEST_F(ConfigFiles, ExtendsMergesLaterWins) {
  write("library/base.yaml",
        "seed: 1\nsqa: {clusters: 8, decay: 0.5}\nstages: [{steps: 1}, {steps: 2}]\n");
  write("methods/sparse.yaml", "extends: base.yaml\nsqa:\n  clusters: 16\n");
  write("methods/slow.yaml", "output: slow\nsqa:\n  decay: 0.25\n");
  const std::string main = write(
      "methods/nq.yaml", "extends: [sparse.yaml, slow.yaml]\nseed: 3\nstages:\n  - steps: 9\n");
  Settings settings;
  const ConfigLocations locations =
      load_config({main, {"stages.0.name=x"}, {(folder_ / "library").string()}}, visitor(settings));
  EXPECT_EQ(settings.seed, 3);
  EXPECT_EQ(settings.output, "slow");
  EXPECT_EQ(settings.sqa.clusters, 16);
  EXPECT_EQ(settings.sqa.decay, 0.25);
  ASSERT_EQ(settings.stages.size(), 1u);
  EXPECT_EQ(settings.stages[0].steps, 9);
  EXPECT_EQ(settings.stages[0].name, "x");
  expect_contains(locations.of("sqa.clusters"), "methods/sparse.yaml:3:13");
  expect_contains(locations.of("seed"), "methods/nq.yaml:2:7");
}

TEST_F(ConfigFiles, NamesAreLookedUpInSearchFolders) {
  write("library/nq.yaml", "seed: 11\n");
  Settings settings;
  load_config({"nq.yaml", {}, {(folder_ / "library").string()}}, visitor(settings));
  EXPECT_EQ(settings.seed, 11);
  expect_contains(file_error("nqq.yaml", {(folder_ / "library").string()}),
                  "no configuration file 'nqq.yaml'; tried nqq.yaml, ");
  expect_contains(file_error("nqq.yaml", {(folder_ / "library").string()}),
                  "did you mean 'nq.yaml'?");
  expect_contains(file_error(folder_.string()), "is a folder");
}

TEST_F(ConfigFiles, ExtendsErrors) {
  write("a.yaml", "extends: b.yaml\n");
  write("b.yaml", "extends: ./c.yaml\n");
  write("c.yaml", "seed: 1\nextends: [a.yaml]\n");
  expect_contains(file_error((folder_ / "a.yaml").string()),
                  "c.yaml:2:11: extends runs in a circle: a.yaml -> b.yaml -> "
                  "c.yaml -> a.yaml");
  expect_contains(file_error(write("self.yaml", "extends: self.yaml\n")), "self.yaml -> self.yaml");
  expect_contains(file_error(write("d.yaml", "extends: nowhere.yaml\n")),
                  "d.yaml:1:10: no configuration file");
  expect_contains(file_error(write("e.yaml", "extends: {a: 1}\n")),
                  "expected a file name or a list of file names");
  expect_contains(file_error(write("f.yaml", "extends:\n")),
                  "expected a file name or a list of file names");
  // A base read twice over two ways is fine.
  write("base.yaml", "seed: 4\n");
  write("left.yaml", "extends: base.yaml\n");
  write("right.yaml", "extends: base.yaml\n");
  EXPECT_EQ(file_error(write("both.yaml", "extends: [left.yaml, right.yaml]\n")), "no error");
  // An error in a base names the base.
  write("bad.yaml", "\nsed: 4\n");
  expect_contains(file_error(write("g.yaml", "extends: bad.yaml\n")),
                  "bad.yaml:2:1: unknown key 'sed'");
}

// Random values of every kind survive dump and load bit by bit.
TEST(Config, DumpRoundTripsBitIdentically) {
  std::mt19937_64 random(5);
  const auto any_double = [&] {
    double value;
    do {
      const uint64_t bits = random();
      std::memcpy(&value, &bits, sizeof(value));
    } while (!std::isfinite(value) || value <= 0);
    return value;
  };
  const std::vector<std::string> texts = {"",
                                          " ",
                                          "plain",
                                          "true",
                                          "No",
                                          "null",
                                          "~",
                                          "3",
                                          "1e5",
                                          "a: b",
                                          "# c",
                                          "- d",
                                          "[x",
                                          "{y",
                                          "quote\"d",
                                          "back\\slash",
                                          "it's",
                                          "line\nbreak",
                                          "tab\there",
                                          std::string("nul\0here", 8),
                                          "\x01\x1f\x7f",
                                          "caf\xc3\xa9",
                                          "\xe6\x97\xa5",
                                          "*a",
                                          "&a",
                                          "!t",
                                          "%p",
                                          "@q",
                                          "`r",
                                          "trailing ",
                                          "a #b",
                                          "---",
                                          "...",
                                          "\xe2\x80\xa8",
                                          "\xc2\x85",
                                          "\xef\xbb\xbf",
                                          "\xf0\x9f\x98\x80",
                                          "\r\n",
                                          "key=val",
                                          "a,b",
                                          "runs/x-1.yaml",
                                          std::string(3000, 'z')};
  for (int round = 0; round < 200; ++round) {
    Settings before;
    before.seed = static_cast<int64_t>(random());
    before.output = texts[round % texts.size()];
    before.layers.assign(random() % 4, static_cast<int64_t>(random() >> 1));
    before.sentinel = 0;
    before.sqa.enabled = random() % 2 == 0;
    before.stages.clear();
    for (uint64_t i = 0, size = random() % 4; i < size; ++i) {
      before.stages.push_back({texts[random() % texts.size()], 1, any_double()});
    }
    const std::string dumped = dump_config(visitor(before));
    Settings after;
    ASSERT_NO_THROW(load_config_text(dumped, "dump", visitor(after))) << dumped;
    EXPECT_EQ(after.seed, before.seed);
    EXPECT_EQ(after.output, before.output);
    EXPECT_EQ(after.layers, before.layers);
    EXPECT_EQ(after.sqa.enabled, before.sqa.enabled);
    ASSERT_EQ(after.stages.size(), before.stages.size());
    for (size_t i = 0; i < before.stages.size(); ++i) {
      EXPECT_EQ(after.stages[i].name, before.stages[i].name);
      EXPECT_EQ(std::memcmp(&after.stages[i].rate, &before.stages[i].rate, sizeof(double)), 0);
    }
    EXPECT_EQ(dump_config(visitor(after)), dumped);
  }
}

TEST(Config, DumpIsReadable) {
  Settings settings;
  settings.sentinel = 3;
  settings.stages.resize(1);
  settings.stages[0].rate = 1e-4;
  settings.sqa.decay = 1;
  EXPECT_EQ(dump_config(visitor(settings)),
            "seed: 7\noutput: \"\"\nprobes: [niah]\nlayers: [0, 1]\nsqa:\n  enabled: true\n  "
            "clusters: 32\n  decay: 1.0\n"
            "  centroids: codebook\nstages:\n  - name: warm\n    steps: 10\n    rate: "
            "0.0001\nsentinel: 3\npages: auto\n");
  settings.sqa.decay = std::numeric_limits<double>::infinity();
  expect_contains(error_of([&] { dump_config(visitor(settings)); }),
                  "sqa.decay: inf is not finite");
  settings.sqa.decay = 1;
  settings.output = "\xff";
  expect_contains(error_of([&] { dump_config(visitor(settings)); }), "output: ");
}

TEST(Config, NegativeZeroAndExponents) {
  EXPECT_TRUE(std::signbit(from_text("sqa: {decay: -0.0}\n").sqa.decay));
  Settings settings;
  settings.sqa.decay = 1e-5;
  expect_contains(dump_config(visitor(settings)), "decay: 0.00001\n");
  settings.sqa.decay = 1e-12;
  expect_contains(dump_config(visitor(settings)), "decay: 1.0e-12\n");
  settings.sqa.decay = 1e300;
  expect_contains(dump_config(visitor(settings)), "decay: 1.0e+300\n");
}

TEST(Config, ValueByKey) {
  Settings settings;
  settings.output = "a b";
  EXPECT_EQ(config_value(visitor(settings), "sqa.clusters"), "32");
  EXPECT_EQ(config_value(visitor(settings), "output"), "a b");
  EXPECT_EQ(config_value(visitor(settings), "layers"), "[0, 1]");
  EXPECT_EQ(config_value(visitor(settings), "layers.1"), "1");
  EXPECT_EQ(config_value(visitor(settings), "stages.1.name"), "joint");
  expect_contains(error_of([&] { config_value(visitor(settings), "sqa.clustrs"); }),
                  "did you mean 'sqa.clusters'?");
  expect_contains(error_of([&] { config_value(visitor(settings), "sqa"); }), "is a group of keys");
  expect_contains(error_of([&] { config_value(visitor(settings), "stages.2.name"); }),
                  "unknown key");
  expect_contains(error_of([&] { config_value(visitor(settings), ""); }), "unknown key");
}

TEST(Config, Documentation) {
  Settings settings;
  const std::string text = document_config(visitor(settings));
  expect_contains(text, "| `seed` | integer | `7` |  | Of everything. |\n");
  expect_contains(text, "## sqa\n\nSemantic quantized attention.\n\n| key | type |");
  expect_contains(text, "| `clusters` | integer | `32` | >= 1 | Clusters a head. |\n");
  expect_contains(text,
                  "| `centroids` | text | `codebook` | `codebook`; not built yet: segment, kmeans "
                  "| Source \\| kind. |");
  expect_contains(text, "## stages.0\n\nThe curriculum. A list of groups, 2 by default");
  expect_contains(
      text,
      "| `steps` | integer | `100` | >= 1 | Length. |");  // of the element, not of the first stage
  EXPECT_EQ(settings.stages.size(), 2u);
}

TEST(Config, DeclaringAKeyTwiceIsABug) {
  int64_t value = 0;
  const VisitFields visit = [&](ConfigVisitor& v) {
    v.field("a", value, "");
    v.field("a", value, "");
  };
  EXPECT_THROW(load_config_text("", "t", visit), std::logic_error);
}

TEST(Config, NearestName) {
  EXPECT_EQ(nearest_name("bugdet", {"budget", "buffer"}), "budget");
  EXPECT_EQ(nearest_name("top-k", {"top_k", "top_p"}), "top_k");
  EXPECT_EQ(nearest_name("clusters", {"clusters_head", "cluster"}), "cluster");
  EXPECT_EQ(nearest_name("xyz", {"budget"}), "");
  EXPECT_EQ(nearest_name("", {"ab"}), "");
  EXPECT_EQ(nearest_name("abc", {}), "");
}

}  // namespace
}  // namespace dsrsq
