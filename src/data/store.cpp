#include "dsrsq/data/store.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "hdf5_file.h"
#include "store_checksum.h"
#include "store_layout.h"

namespace dsrsq {
namespace {

using hdf5::Handle;
using hdf5::Reader;

constexpr int64_t kPart = int64_t{1} << 18;  // elements that are held at once by scans
constexpr int64_t kMaximumText = int64_t{1}
                                 << 26;  // bytes of one string, as the readers' limit for a line
constexpr int64_t kMaximumList = int64_t{1} << 20;  // answers or spans of one record

void require_format(const Handle& file, const std::string& path) {
  const Handle root = hdf5::checked(H5Gopen2(file.get(), "/", H5P_DEFAULT), path, "open its root");
  const std::string format = hdf5::read_string_attribute(root, path, "format");
  if (format != kStoreFormat)
    throw DataError(concat(path, ": format is \"", format, "\", expected \"", kStoreFormat, "\""));
  const int64_t version = hdf5::read_integer_attribute(root, path, "version");
  if (version != kStoreVersion) {
    throw DataError(concat(path, ": version is ", version, ", this program reads ", kStoreVersion,
                           "; make the data set anew"));
  }
}

// The verified file of a store, with the format that is expected.
VerifiedFile open_store(const std::string& path) {
  VerifiedFile file(path);
  require_format(file.file(), path);
  return file;
}

void require_rows(int64_t rows, int64_t expected, const std::string& where) {
  if (rows != expected)
    throw DataError(
        concat(where, " has ", rows, " rows, expected ", expected, ": damaged; make it anew"));
}

// Two neighbouring offsets as a range inside [0, size). Checked at every read: a data file is
// input.
std::pair<int64_t, int64_t> range_at(const Reader<int64_t>& offsets, int64_t index, int64_t size,
                                     int64_t limit) {
  const std::vector<int64_t> ends = offsets.read(index, index + 2);
  if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > size || ends[1] - ends[0] > limit) {
    throw DataError(concat(offsets.where(), ": rows ", index, " and ", index + 1, " are ", ends[0],
                           " and ", ends[1], ", expected a rising range of at most ", limit,
                           " below ", size + 1));
  }
  return {ends[0], ends[1]};
}

// Starts at 0, never falls (or always rises), ends at `size`.
void require_rising(const Reader<int64_t>& offsets, int64_t size, bool strictly) {
  int64_t previous = 0;
  for (int64_t begin = 0; begin < offsets.rows(); begin += kPart) {
    const std::vector<int64_t> part = offsets.read(begin, std::min(begin + kPart, offsets.rows()));
    for (size_t i = 0; i < part.size(); ++i) {
      const int64_t row = begin + static_cast<int64_t>(i);
      const bool bad =
          row == 0 ? part[i] != 0 : part[i] < previous || (strictly && part[i] == previous);
      if (bad)
        throw DataError(concat(offsets.where(), ": row ", row, " is ", part[i], " after ", previous,
                               ", expected offsets that rise from 0"));
      previous = part[i];
    }
  }
  if (previous != size)
    throw DataError(concat(offsets.where(), " ends at ", previous, ", expected ", size));
}

struct StringColumn {
  StringColumn(const Handle& file, const std::string& path, const std::string& name)
      : bytes(file, path, name + kBytesSuffix), offsets(file, path, name + kOffsetsSuffix) {}
  std::string at(int64_t index) const {
    const auto [begin, end] = range_at(offsets, index, bytes.rows(), kMaximumText);
    const std::vector<uint8_t> text = bytes.read(begin, end);
    return std::string(text.begin(), text.end());
  }
  void validate() const { require_rising(offsets, bytes.rows(), false); }

  Reader<uint8_t> bytes;
  Reader<int64_t> offsets;
};

struct SpanColumn {
  SpanColumn(const Handle& file, const std::string& path, const std::string& name)
      : spans(file, path, name, 2), of(file, path, name + kListSuffix) {}
  std::vector<TokenSpan> at(int64_t record) const {
    const auto [begin, end] = range_at(of, record, spans.rows(), kMaximumList);
    const std::vector<int64_t> values = spans.read(begin, end);
    std::vector<TokenSpan> out;
    for (size_t i = 0; i < values.size(); i += 2) out.push_back({values[i], values[i + 1]});
    return out;
  }

  Reader<int64_t> spans;
  Reader<int64_t> of;
};

}  // namespace

struct Store::Impl {
  explicit Impl(const std::string& store_path)
      : path(store_path),
        verified(open_store(store_path)),
        file(verified.file()),
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
    read_attributes();
    check_rows();
    scan();
  }

  void read_attributes() {
    const Handle root =
        hdf5::checked(H5Gopen2(file.get(), "/", H5P_DEFAULT), path, "open its root");
    info.tokenizer_sha256 = hdf5::read_string_attribute(root, path, "tokenizer_sha256");
    info.vocabulary_size = hdf5::read_integer_attribute(root, path, "vocabulary_size");
    info.source = hdf5::read_string_attribute(root, path, "source");
    info.splits = hdf5::read_strings_attribute(root, path, "splits");
    info.command = hdf5::read_string_attribute(root, path, "command");
    info.created = hdf5::read_string_attribute(root, path, "created");
  }

  void check_rows() {
    info.documents = offsets.rows() - 1;
    info.records = document.rows();
    info.tokens = tokens.rows();
    if (info.documents < 0)
      throw DataError(concat(offsets.where(), " is empty, expected documents + 1 rows"));
    require_rows(titles.offsets.rows(), info.documents + 1, titles.offsets.where());
    require_rows(split.rows(), info.records, split.where());
    for (const auto* column : {&question, &id, &timestamp})
      require_rows(column->offsets.rows(), info.records + 1, column->offsets.where());
    for (const auto* of : {&answers_of, &evidence.of, &answer_spans.of})
      require_rows(of->rows(), info.records + 1, of->where());
    if (answers.offsets.rows() < 1)
      throw DataError(concat(answers.offsets.where(), " is empty, expected answers + 1 rows"));
  }

  // One pass over the two small columns that counts need; document lengths come with it.
  void scan() {
    require_rising(offsets, info.tokens, true);
    int64_t previous = 0;
    for (int64_t begin = 0; begin < offsets.rows(); begin += kPart) {
      for (const int64_t end : offsets.read(begin, std::min(begin + kPart, offsets.rows()))) {
        info.longest_document = std::max(info.longest_document, end - previous);
        previous = end;
      }
    }
    info.records_per_split.assign(info.splits.size(), 0);
    for_each_split([this](int64_t record, uint8_t value) {
      if (value >= info.splits.size()) {
        throw DataError(concat(split.where(), ": row ", record, " is ", int{value}, ", there are ",
                               info.splits.size(), " splits"));
      }
      ++info.records_per_split[value];
    });
  }

  template <typename Visit>
  void for_each_split(const Visit& visit) const {
    for (int64_t begin = 0; begin < split.rows(); begin += kPart) {
      const std::vector<uint8_t> part = split.read(begin, std::min(begin + kPart, split.rows()));
      for (size_t i = 0; i < part.size(); ++i) visit(begin + static_cast<int64_t>(i), part[i]);
    }
  }

  void require_record(int64_t record) const {
    if (record < 0 || record >= info.records)
      throw DataError(concat(path, ": there is no record ", record, ", it has ", info.records));
  }

  std::pair<int64_t, int64_t> document_range(int64_t index) const {
    if (index < 0 || index >= info.documents)
      throw DataError(concat(path, ": there is no document ", index, ", it has ", info.documents));
    return range_at(offsets, index, info.tokens, info.tokens);
  }

  void validate_tokens() const {
    for (int64_t begin = 0; begin < info.tokens; begin += kPart) {
      const std::vector<int32_t> part = tokens.read(begin, std::min(begin + kPart, info.tokens));
      for (size_t i = 0; i < part.size(); ++i) {
        if (part[i] < 0 || part[i] >= info.vocabulary_size) {
          throw DataError(concat(tokens.where(), ": row ", begin + static_cast<int64_t>(i),
                                 " is id ", part[i], ", the vocabulary has ",
                                 info.vocabulary_size));
        }
      }
    }
  }

  void validate_spans(const SpanColumn& column, int64_t record, int64_t length) const {
    for (const TokenSpan& span : column.at(record)) {
      if (span.begin < 0 || span.begin >= span.end || span.end > length) {
        throw DataError(concat(column.spans.where(), ": record ", record, " has span [", span.begin,
                               ", ", span.end, ") in a document of ", length, " tokens"));
      }
    }
  }

  // What `read` returns, from a file that is still the verified one. Looked at after the read, so
  // that nothing which came from a changed file is used; and where the read failed, since then the
  // change is the reason.
  template <typename Read>
  auto unchanged(const Read& read) const {
    try {
      auto value = read();
      verified.require_unchanged();
      return value;
    } catch (const DataError&) {
      verified.require_unchanged();
      throw;
    }
  }

  std::string path;
  VerifiedFile verified;
  const Handle& file;
  Reader<int32_t> tokens;
  Reader<int64_t> offsets;
  StringColumn titles;
  Reader<int64_t> document;
  Reader<uint8_t> split;
  StringColumn question;
  StringColumn id;
  StringColumn timestamp;
  StringColumn answers;
  Reader<int64_t> answers_of;
  SpanColumn evidence;
  SpanColumn answer_spans;
  StoreInfo info;
};

Store::Store(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
Store::~Store() = default;

const std::string& Store::path() const { return impl_->path; }
const StoreInfo& Store::info() const { return impl_->info; }

void Store::require_tokenizer(const Tokenizer& tokenizer) const {
  const StoreInfo& info = impl_->info;
  if (tokenizer.fingerprint() == info.tokenizer_sha256) return;
  throw DataError(
      concat(impl_->path, ": was made with another tokenizer (sha256 ", info.tokenizer_sha256,
             ", this one has ", tokenizer.fingerprint(),
             "); use that tokenizer, or make the data set anew with this one: ", info.command));
}

std::vector<int64_t> Store::records_of_split(const std::string& split) const {
  const std::vector<std::string>& names = impl_->info.splits;
  const auto found = std::find(names.begin(), names.end(), split);
  if (found == names.end()) {
    std::string known;
    for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
    throw DataError(concat(impl_->path, ": there is no split \"", split, "\"; it has ", known));
  }
  std::vector<int64_t> records;
  impl_->for_each_split([&](int64_t record, uint8_t value) {
    if (value == found - names.begin()) records.push_back(record);
  });
  return records;
}

StoredRecord Store::record(int64_t index) const {
  const Impl& s = *impl_;
  s.require_record(index);
  return s.unchanged([&] {
    StoredRecord record;
    record.document = document_of(index);
    record.id = s.id.at(index);
    record.question = s.question.at(index);
    record.timestamp = s.timestamp.at(index);
    const auto [begin, end] =
        range_at(s.answers_of, index, s.answers.offsets.rows() - 1, kMaximumList);
    for (int64_t i = begin; i < end; ++i) record.answers.push_back(s.answers.at(i));
    record.evidence = s.evidence.at(index);
    record.answer_spans = s.answer_spans.at(index);
    return record;
  });
}

std::vector<int32_t> Store::document_tokens(int64_t document) const {
  return impl_->unchanged([&] {
    const auto [begin, end] = impl_->document_range(document);
    return impl_->tokens.read(begin, end);
  });
}

int64_t Store::document_length(int64_t document) const {
  const auto [begin, end] = impl_->document_range(document);
  return end - begin;
}

int64_t Store::document_of(int64_t record) const {
  impl_->require_record(record);
  const int64_t document = impl_->document.at(record);
  if (document < 0 || document >= impl_->info.documents) {
    throw DataError(concat(impl_->document.where(), ": row ", record, " is ", document,
                           ", there are ", impl_->info.documents, " documents"));
  }
  return document;
}

void Store::validate() const {
  const Impl& s = *impl_;
  for (const auto* column : {&s.titles, &s.question, &s.id, &s.timestamp, &s.answers})
    column->validate();
  require_rising(s.answers_of, s.answers.offsets.rows() - 1, false);
  require_rising(s.evidence.of, s.evidence.spans.rows(), false);
  require_rising(s.answer_spans.of, s.answer_spans.spans.rows(), false);
  s.validate_tokens();
  int64_t previous_document = -1;
  uint8_t previous_split = 0;
  s.for_each_split([&](int64_t record, uint8_t split) {
    const int64_t document = document_of(record);
    if (document < previous_document) {
      throw DataError(concat(s.document.where(), ": row ", record, " is ", document, " after ",
                             previous_document, ", expected rising documents"));
    }
    if (document == previous_document && split != previous_split) {
      throw DataError(concat(s.split.where(), ": row ", record, " parts the records of document ",
                             document, " over two splits"));
    }
    previous_document = document;
    previous_split = split;
    const int64_t length = document_length(document);
    s.validate_spans(s.evidence, record, length);
    s.validate_spans(s.answer_spans, record, length);
  });
}

}  // namespace dsrsq
