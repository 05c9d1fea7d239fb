// A checkpoint's manifest.json: what parses is written and parses to the same, and no name leads
// out of the folder. And parse_json, which has no target of its own.
#include "dsrsq/core/json.h"
#include "dsrsq/core/manifest.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const std::string text = fuzz::text_of(data, size);
  fuzz::expect_no_other_error([&] {
    const Manifest manifest = parse_manifest(text, "fuzz");
    for (const auto& [name, file] : manifest.files) {
      if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos ||
          file.sha256.size() != 64)
        std::abort();
    }
    const std::string written = manifest_text(manifest);
    if (manifest_text(parse_manifest(written, "written")) != written) std::abort();
  });
  try {
    const nlohmann::json value = parse_json(text);
    if (parse_json(value.dump()) != value) std::abort();
  } catch (const JsonError&) {
  }
  return 0;
}
