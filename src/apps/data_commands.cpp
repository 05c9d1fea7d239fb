#include "data_commands.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/data/dated_stream.h"
#include "dsrsq/data/fact_stream.h"
#include "dsrsq/data/span_check.h"
#include "dsrsq/data/store.h"
#include "dsrsq/data/synthetic.h"

namespace dsrsq {

void print_info(const Store& store) {
  const StoreInfo& info = store.info();
  std::cout << "documents         " << info.documents << "\n"
            << "records           " << info.records << "\n"
            << "tokens            " << info.tokens << "\n"
            << "longest document  " << info.longest_document << " tokens\n";
  for (size_t i = 0; i < info.splits.size(); ++i) {
    std::cout << "split             " << info.splits[i] << ": " << info.records_per_split[i]
              << " records\n";
  }
}

namespace {

// The tokens [begin, end) of a document with [[evidence]] and {{answer}} marked.
std::string marked_text(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                        const StoredRecord& record, int64_t begin, int64_t end) {
  const auto marks = [](const std::vector<TokenSpan>& spans, int64_t at, bool at_end) {
    return std::count_if(spans.begin(), spans.end(), [&](const TokenSpan& span) {
      return (at_end ? span.end : span.begin) == at;
    });
  };
  std::string text;
  std::vector<int32_t> run;  // decoded together, since a character may be several tokens
  const auto flush = [&] {
    text += tokenizer.decode(run, true);
    run.clear();
  };
  for (int64_t i = begin; i <= end; ++i) {
    std::string mark;
    for (int64_t n = marks(record.answer_spans, i, true); i > begin && n > 0; --n) mark += "}}";
    for (int64_t n = marks(record.evidence, i, true); i > begin && n > 0; --n) mark += "]]";
    for (int64_t n = marks(record.evidence, i, false); i < end && n > 0; --n) mark += "[[";
    for (int64_t n = marks(record.answer_spans, i, false); i < end && n > 0; --n) mark += "{{";
    if (!mark.empty()) {
      flush();
      text += mark;
    }
    if (i < end) run.push_back(ids[i]);
  }
  flush();
  return text;
}

void print_record(const Store& store, const Tokenizer& tokenizer, int64_t index) {
  constexpr int64_t kAround = 24;  // tokens shown on both sides of a span
  constexpr int64_t kLongestShown = 400;
  const StoredRecord record = store.record(index);
  const std::vector<int32_t> ids = store.document_tokens(record.document);
  const int64_t length = static_cast<int64_t>(ids.size());
  std::cout << "\nrecord " << index << "  id " << record.id << "  document " << record.document
            << " (" << length << " tokens)";
  if (!record.timestamp.empty()) std::cout << "  time " << record.timestamp;
  std::cout << "\n  question: " << record.question << "\n";
  if (record.answers.empty()) std::cout << "  unanswerable\n";
  for (const std::string& answer : record.answers) std::cout << "  answer:   " << answer << "\n";
  std::vector<TokenSpan> spans = record.evidence.empty() ? record.answer_spans : record.evidence;
  if (spans.empty()) spans.push_back({0, std::min<int64_t>(length, 2 * kAround)});
  for (const TokenSpan& span : spans) {
    const int64_t begin = std::max<int64_t>(0, span.begin - kAround);
    const int64_t end = std::min({length, span.end + kAround, begin + kLongestShown});
    std::cout << "  tokens " << begin << " to " << end << ": " << (begin > 0 ? "... " : "")
              << marked_text(tokenizer, ids, record, begin, end) << (end < length ? " ..." : "")
              << "\n";
  }
}

void write_synthetic_store(const SyntheticConfig& config, const Tokenizer& tokenizer,
                           const std::string& path, const std::string& command) {
  StoreWriter::Options options;
  options.source = concat("synthetic ", config.task, ", seed ", config.seed);
  options.command = command;
  options.splits = {"train", "validation", "test"};
  StoreWriter writer(path, tokenizer, options);
  const std::vector<int64_t> documents = {config.train_documents, config.validation_documents,
                                          config.test_documents};
  Progress progress("documents",
                    config.train_documents + config.validation_documents + config.test_documents);
  int64_t done = 0;
  for (size_t split = 0; split < documents.size(); ++split) {
    for (int64_t i = 0; i < documents[split]; ++i) {
      writer.add(synthetic_document(config, options.splits[split], i), static_cast<uint8_t>(split));
      progress.update(++done);
    }
  }
  writer.finish();
  progress.finish();
}

}  // namespace

void synthesise_dataset(const SynthOptions& options) {
  SyntheticConfig config;
  load_config({options.config, options.overrides, {}},
              [&config](ConfigVisitor& v) { config.visit_fields(v); });
  config.validate();
  if (options.name.empty() || options.name.find('/') != std::string::npos ||
      options.name[0] == '.') {
    throw ConfigError(concat("--name \"", options.name, "\" must be a plain file name"));
  }
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  if (error)
    throw ConfigError(
        concat("--output ", options.output, ": cannot create the folder: ", error.message()));

  const std::string json = build_word_tokenizer(synthetic_words(config), synthetic_pieces());
  const std::string tokenizer_path = options.output + "/tokenizer.json";
  const std::string store_path = concat(options.output, "/", options.name, ".h5");
  const Tokenizer tokenizer = Tokenizer::from_json(json, tokenizer_path);
  write_synthetic_store(config, tokenizer, store_path, options.command);
  write_file_atomic(tokenizer_path, json);

  std::cout << store_path << "\n"
            << tokenizer_path << " (" << tokenizer.vocabulary_size() << " tokens)\n";
  print_info(Store(store_path));
}

namespace {

FactStream generate_stream(const StreamOptions& options) {
  FactStreamConfig config;
  load_config({options.config, options.overrides, {}},
              [&config](ConfigVisitor& v) { config.visit_fields(v); });
  return make_fact_stream(config);
}

FactStream read_dated_stream(const StreamOptions& options) {
  if (options.tokenizer.empty())
    throw ConfigError("stream --dated needs --tokenizer, that of the model that is to read it");
  DatedStreamConfig config;
  load_config({options.config, options.overrides, {}},
              [&config](ConfigVisitor& v) { config.visit_fields(v); });
  return make_dated_stream(options.dated, Tokenizer::from_file(options.tokenizer), config);
}

}  // namespace

void make_stream(const StreamOptions& options) {
  const FactStream stream =
      options.dated.empty() ? generate_stream(options) : read_dated_stream(options);
  write_file_atomic(options.output, fact_stream_lines(stream));
  std::cout << options.output << "\n"
            << stream.source << "\nprobes            " << stream.probes.size() << "\n";
}

void inspect_dataset(const InspectOptions& options) {
  if (options.records > 0 && options.tokenizer.empty()) {
    throw ConfigError("inspect --records needs --tokenizer tokenizer.json, to decode the records");
  }
  const Store store(options.path);
  const StoreInfo& info = store.info();
  std::cout << "data set          " << store.path() << "\n"
            << "source            " << info.source << "\n"
            << "command           " << info.command << "\n"
            << "created           " << info.created << "\n"
            << "tokenizer sha256  " << info.tokenizer_sha256 << "\n"
            << "vocabulary        " << info.vocabulary_size << "\n";
  print_info(store);
  if (options.records == 0) return;
  const Tokenizer tokenizer = Tokenizer::from_file(options.tokenizer);
  store.require_tokenizer(tokenizer);
  std::vector<int64_t> records;
  if (!options.split.empty()) {
    records = store.records_of_split(options.split);
  } else {
    for (int64_t i = 0; i < std::min(options.records, info.records); ++i) records.push_back(i);
  }
  if (static_cast<int64_t>(records.size()) > options.records)
    records.resize(static_cast<size_t>(options.records));
  for (const int64_t record : records) print_record(store, tokenizer, record);
}

void tokenize_files(const TokenizeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::from_file(options.tokenizer);
  for (const std::string& path : options.inputs) {
    const std::string text = read_file(path);
    std::vector<Tokenizer::Span> spans;
    nlohmann::json line;
    const std::vector<int32_t> ids = tokenizer.encode_with_spans(text, spans);
    line["file"] = path;
    line["bytes"] = text.size();
    line["ids"] = ids;
    line["spans"] = nlohmann::json::array();
    for (const Tokenizer::Span& span : spans) line["spans"].push_back({span.begin, span.end});
    line["decoded"] = tokenizer.decode(ids, /*keep_special=*/true);
    std::cout << line.dump() << "\n";
  }
}

void validate_dataset(const std::string& path, const std::string& tokenizer) {
  const Store store(path);
  store.validate();
  SpanCheck check;
  if (!tokenizer.empty()) check = check_answer_spans(store, Tokenizer::from_file(tokenizer));
  if (check.spans != check.at_text && spans_are_exact(store.info().source)) {
    throw DataError(concat(path, ": ", check.spans - check.at_text, " of ", check.spans,
                           " answer spans are not at their text, first ", check.first_other,
                           "; make the data set anew"));
  }
  std::cout << path << ": valid\n";
  print_info(store);
  if (!tokenizer.empty()) print_spans(check.spans, check.at_text);
}

}  // namespace dsrsq
