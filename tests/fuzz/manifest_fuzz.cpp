// manifest.json: what parses is dumped and parses to the same, and no name leads out of the folder.
#include "dsrsq/core/json.h"
#include "dsrsq/core/manifest.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const std::string text = fuzz::text_of(data, size);
  fuzz::expect_no_other_error([&] {
    const Manifest manifest = parse_manifest(text, "fuzz");
    for (const auto& [name, file] : manifest.files) {
      if (name.empty() || name.find('/') != std::string::npos || file.sha256.size() != 64)
        std::abort();
    }
    const std::string dumped = dump_manifest(manifest);
    if (dump_manifest(parse_manifest(dumped, "dump")) != dumped) std::abort();
  });
  try {  // the parser below it: what it accepts, the library writes and it accepts again
    const nlohmann::json value = parse_json(text);
    if (parse_json(value.dump()) != value) std::abort();
  } catch (const JsonError&) {
  }
  return 0;
}
