#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/store.h"
#include "hdf5_file.h"
#include "store_checksum.h"
#include "store_layout.h"

namespace dsrsq {
namespace {

using hdf5::Appender;
using hdf5::Handle;

// SOURCE_DATE_EPOCH (reproducible-builds.org) fixes the only value that differs between equal
// commands.
std::string creation_time() {
  std::time_t now = std::time(nullptr);
  if (const char* fixed = std::getenv("SOURCE_DATE_EPOCH"); fixed != nullptr) {
    char* end = nullptr;
    const long long seconds = std::strtoll(fixed, &end, 10);
    if (end == fixed || *end != '\0')
      throw ConfigError(concat("SOURCE_DATE_EPOCH must be seconds, got \"", fixed, "\""));
    now = static_cast<std::time_t>(seconds);
  }
  std::tm utc{};
  if (gmtime_r(&now, &utc) == nullptr) throw ConfigError("SOURCE_DATE_EPOCH is out of range");
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// An attribute holds less than 64 KiB; a command that names thousands of files is cut where the
// reader sees it.
std::string cut_to_attribute(const std::string& text) {
  constexpr size_t kLongest = 30000;
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;  // not inside a character
  return text.substr(0, end) + " ... (cut)";
}

class StringColumn {
 public:
  StringColumn(const Handle& file, const std::string& path, const std::string& name)
      : bytes_(file, path, name + kBytesSuffix), offsets_(file, path, name + kOffsetsSuffix) {
    offsets_.append(0);
  }
  void append(const std::string& text) {
    bytes_.append(reinterpret_cast<const uint8_t*>(text.data()), static_cast<int64_t>(text.size()));
    offsets_.append(bytes_.size());
    ++size_;
  }
  int64_t size() const { return size_; }
  void flush() {
    bytes_.flush();
    offsets_.flush();
  }

 private:
  Appender<uint8_t> bytes_;
  Appender<int64_t> offsets_;
  int64_t size_ = 0;
};

class SpanColumn {
 public:
  SpanColumn(const Handle& file, const std::string& path, const std::string& name)
      : spans_(file, path, name, 2), of_(file, path, name + kListSuffix) {
    of_.append(0);
  }
  void append(const std::vector<TokenSpan>& spans) {
    for (const TokenSpan& span : spans) {
      const int64_t row[2] = {span.begin, span.end};
      spans_.append(row, 2);
    }
    of_.append(spans_.size() / 2);
  }
  void flush() {
    spans_.flush();
    of_.flush();
  }

 private:
  Appender<int64_t> spans_;
  Appender<int64_t> of_;
};

// The tokens that overlap each byte span. Token ranges rise and do not overlap, hence the binary
// searches.
std::vector<TokenSpan> to_token_spans(const std::vector<ByteSpan>& spans,
                                      const std::vector<Tokenizer::Span>& tokens,
                                      int64_t document_bytes, const std::string& where) {
  std::vector<TokenSpan> out;
  for (const ByteSpan& span : spans) {
    if (span.begin < 0 || span.begin >= span.end || span.end > document_bytes) {
      throw DataError(concat(where, ": span [", span.begin, ", ", span.end,
                             ") is empty or outside the document of ", document_bytes, " bytes"));
    }
    const auto first = std::partition_point(tokens.begin(), tokens.end(),
                                            [&](const auto& t) { return t.end <= span.begin; });
    const auto last = std::partition_point(first, tokens.end(),
                                           [&](const auto& t) { return t.begin < span.end; });
    if (first == last)
      throw DataError(concat(where, ": span [", span.begin, ", ", span.end, ") has no token"));
    out.push_back({first - tokens.begin(), last - tokens.begin()});
  }
  return out;
}

Handle create_file(const std::string& path) {
  hdf5::initialise();
  const Handle creation = hdf5::checked(H5Pcreate(H5P_FILE_CREATE), path, "create a property list");
  hdf5::check(H5Pset_obj_track_times(creation.get(), false), path, "switch times off");
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), H5P_DEFAULT));
  if (file.get() < 0)
    hdf5::fail_write(path, "create the file (does its folder exist, is it writable?)");
  const Handle group = hdf5::checked(H5Pcreate(H5P_GROUP_CREATE), path, "create a property list");
  hdf5::check(H5Pset_obj_track_times(group.get(), false), path, "switch times off");
  for (const char* name : {"/documents", "/records"}) {
    hdf5::checked(H5Gcreate2(file.get(), name, H5P_DEFAULT, group.get(), H5P_DEFAULT), path,
                  concat("create group ", name));
  }
  return file;
}

// Removes the file unless it was renamed to its final name.
struct TemporaryFile {
  explicit TemporaryFile(const std::string& final_path) : path(temporary_path(final_path)) {
    const std::filesystem::path target(final_path);
    const std::filesystem::path folder = target.parent_path();
    remove_stale_temporaries(folder.empty() ? "." : folder.string(), target.filename().string());
  }
  ~TemporaryFile() {
    if (!renamed) std::remove(path.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  std::string path;
  bool renamed = false;
};

// A kill in between leaves the data set without its checksum, which is refused with the command
// that makes one; never a checksum that belongs to another file.
void put_in_place(TemporaryFile& temporary, const std::string& path) {
  const std::string sha256 = sha256_file(temporary.path);
  std::error_code error;
  std::filesystem::remove(checksum_path(path), error);
  if (!error) std::filesystem::rename(temporary.path, path, error);
  if (error)
    throw Error(ExitCode::kCheckpoint,
                concat(path, ": cannot put the finished data set there: ", error.message()));
  temporary.renamed = true;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  sync_path(folder.empty() ? "." : folder.string());
  write_checksum(path, sha256);
}

// The open file and its data sets; `path` stands in messages.
struct Columns {
  Columns(const std::string& temporary, const std::string& path)
      : file(create_file(temporary)),
        tokens(file, path, kDocumentTokens),
        offsets(file, path, kDocumentOffsets),
        titles(file, path, kDocumentTitles),
        document(file, path, kRecordDocument),
        split(file, path, kRecordSplit),
        question(file, path, kRecordQuestion),
        id(file, path, kRecordId),
        timestamp(file, path, kRecordTimestamp),
        answers(file, path, kRecordAnswers),
        answers_of(file, path, kRecordAnswers + kListSuffix),
        evidence(file, path, kRecordEvidence),
        answer_spans(file, path, kRecordAnswerSpans) {
    offsets.append(0);
    answers_of.append(0);
  }

  void flush(const std::string& path) {
    for (auto* column : {&titles, &question, &id, &timestamp, &answers}) column->flush();
    for (auto* column : {&offsets, &document, &answers_of}) column->flush();
    evidence.flush();
    answer_spans.flush();
    tokens.flush();
    split.flush();
    hdf5::check_write(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), path, "write the file");
  }

  Handle file;
  Appender<int32_t> tokens;
  Appender<int64_t> offsets;
  StringColumn titles;
  Appender<int64_t> document;
  Appender<uint8_t> split;
  StringColumn question;
  StringColumn id;
  StringColumn timestamp;
  StringColumn answers;
  Appender<int64_t> answers_of;
  SpanColumn evidence;
  SpanColumn answer_spans;
};

}  // namespace

struct StoreWriter::Impl {
  Impl(const std::string& final_path, const Tokenizer& text_tokenizer,
       const Options& writer_options)
      : path(final_path),
        tokenizer(text_tokenizer),
        options(writer_options),
        temporary(final_path),
        columns(std::make_unique<Columns>(temporary.path, final_path)) {
    const Handle& file = columns->file;
    hdf5::write_attribute(file, "format", kStoreFormat);
    hdf5::write_attribute(file, "version", kStoreVersion);
    hdf5::write_attribute(file, "tokenizer_sha256", tokenizer.fingerprint());
    hdf5::write_attribute(file, "vocabulary_size", tokenizer.vocabulary_size());
    hdf5::write_attribute(file, "source", cut_to_attribute(options.source));
    hdf5::write_attribute(file, "splits", options.splits);
    hdf5::write_attribute(file, "command", cut_to_attribute(options.command));
    hdf5::write_attribute(file, "created", creation_time());
  }

  Columns& open_columns() {
    if (!columns) throw DataError(concat(path, ": the data set is finished, nothing can be added"));
    return *columns;
  }

  std::string path;
  const Tokenizer& tokenizer;
  Options options;
  TemporaryFile temporary;           // outlives the open file
  std::unique_ptr<Columns> columns;  // absent once finished
  int64_t documents = 0;
  std::vector<uint8_t> split_of_record;  // one byte a record: the splits are known only at the end
  std::vector<bool> continues_document;  // record i is of the same document as record i - 1
};

StoreWriter::StoreWriter(const std::string& path, const Tokenizer& tokenizer,
                         const Options& options) {
  if (options.splits.empty() || options.splits.size() > 255) {
    throw ConfigError(
        concat(path, ": a data set has 1 to 255 splits, got ", options.splits.size()));
  }
  impl_ = std::make_unique<Impl>(path, tokenizer, options);
}

StoreWriter::~StoreWriter() = default;

void StoreWriter::add(const DocumentExample& example, uint8_t split) {
  Impl& s = *impl_;
  const std::string name = example.questions.empty()
                               ? concat("document ", s.documents)
                               : concat("line ", example.questions[0].source_line, " (id ",
                                        example.questions[0].id, ")");
  std::vector<Tokenizer::Span> ranges;
  const std::vector<int32_t> ids = s.tokenizer.encode_with_spans(example.document, ranges);
  if (ids.empty()) throw DataError(concat(s.path, ": ", name, ": the document is empty"));
  const int64_t bytes = static_cast<int64_t>(example.document.size());
  struct Spans {
    std::vector<TokenSpan> evidence, answer;
  };
  std::vector<Spans>
      spans;  // all of them before anything is written: a bad document leaves the columns alike
  for (const Question& question : example.questions) {
    const std::string where =
        concat(s.path, ": line ", question.source_line, " (id ", question.id, ")");
    spans.push_back({to_token_spans(question.evidence, ranges, bytes, where),
                     to_token_spans(question.answer_spans, ranges, bytes, where)});
  }
  Columns& columns = s.open_columns();
  columns.tokens.append(ids.data(), static_cast<int64_t>(ids.size()));
  columns.offsets.append(columns.tokens.size());
  columns.titles.append(example.title);
  for (size_t i = 0; i < example.questions.size(); ++i) {
    const Question& question = example.questions[i];
    columns.document.append(s.documents);
    columns.question.append(question.text);
    columns.id.append(question.id);
    columns.timestamp.append(question.timestamp);
    for (const std::string& answer : question.answers) columns.answers.append(answer);
    columns.answers_of.append(columns.answers.size());
    columns.evidence.append(spans[i].evidence);
    columns.answer_spans.append(spans[i].answer);
    s.split_of_record.push_back(split);
    s.continues_document.push_back(i > 0);
  }
  ++s.documents;
}

int64_t StoreWriter::records() const { return static_cast<int64_t>(impl_->split_of_record.size()); }

void StoreWriter::set_splits(const std::vector<uint8_t>& split_of_record) {
  if (split_of_record.size() != impl_->split_of_record.size()) {
    throw DataError(concat(impl_->path, ": ", split_of_record.size(), " splits were given for ",
                           records(), " records"));
  }
  impl_->split_of_record = split_of_record;
}

void StoreWriter::finish() {
  Impl& s = *impl_;
  for (size_t i = 0; i < s.split_of_record.size(); ++i) {
    if (s.split_of_record[i] >= s.options.splits.size()) {
      throw DataError(concat(s.path, ": record ", i, " has split ", int{s.split_of_record[i]},
                             ", there are ", s.options.splits.size()));
    }
    if (s.continues_document[i] && s.split_of_record[i] != s.split_of_record[i - 1]) {
      throw DataError(concat(s.path, ": record ", i,
                             " is in another split than the record before, of the same document"));
    }
  }
  Columns& columns = s.open_columns();
  columns.split.append(s.split_of_record.data(), records());
  columns.flush(s.path);
  Handle file = std::move(columns.file);
  s.columns.reset();
  hdf5::check_write(file.reset(), s.path, "close the file");
  sync_path(s.temporary.path);
  put_in_place(s.temporary, s.path);
}

}  // namespace dsrsq
