// Tokenizer files: tokenizer.json, or vocabulary, a NUL byte and merges. What loads encodes a text
// of every kind of character; spans are in order and inside it.
#include "dsrsq/text/tokenizer.h"
#include "fuzz.h"

namespace dsrsq {
namespace {

void use(const Tokenizer& tokenizer) {
  static const std::string text =
      "The reader's  token\n\n42 <|eos|> <s> caf\xC3\xA9 \xE6\x96\x87 \xF0\x9F\x98\x80 "
      "\xF0\x9F\x98 "
      "\xFF aaab a b ab\t\xC2\xA0";
  std::vector<Tokenizer::Span> spans;
  const std::vector<int32_t> ids = tokenizer.encode_with_spans(text, spans);
  if (ids.size() != spans.size() || tokenizer.encode(text) != ids) std::abort();
  int64_t last = 0;
  for (const Tokenizer::Span& span : spans) {
    if (span.begin < 0 || span.begin > span.end || span.end < last ||
        span.end > static_cast<int64_t>(text.size()))
      std::abort();
    last = span.end;
  }
  for (const int32_t id : ids)
    if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
  tokenizer.decode(ids, true);
  tokenizer.decode(tokenizer.encode(text, true));
  tokenizer.end_id();
}

}  // namespace
}  // namespace dsrsq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsrsq;
  const std::string text = fuzz::text_of(data, size);
  const size_t nul = text.find('\0');
  fuzz::expect_no_other_error([&] {
    if (nul == std::string::npos) {
      use(Tokenizer::from_json(text, "fuzz.json"));
    } else {
      use(Tokenizer::from_pair(text.substr(0, nul), text.substr(nul + 1), "v", "m"));
    }
  });
  return 0;
}
