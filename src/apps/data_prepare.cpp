// dsrsq-data prepare.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>

#include "data_commands.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/random.h"
#include "dsrsq/data/assembly.h"
#include "dsrsq/data/jsonl.h"
#include "dsrsq/data/numbered_passages.h"
#include "dsrsq/data/readers.h"
#include "dsrsq/data/splits.h"
#include "dsrsq/data/store.h"

namespace dsrsq {
namespace {

// What stands in for the context of a closed-book question: every reader of a data set needs a
// token.
const std::string kNoContext = "\n";

// A folder may be given with a slash at its end.
std::string name_of(const std::string& path) {
  const std::filesystem::path given(path);
  return (given.has_filename() ? given : given.parent_path()).filename().string();
}

// Checked before any work: a run of hours must not end in a missing folder.
void require_folder_of(const std::string& output) {
  const std::filesystem::path folder = std::filesystem::path(output).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder)) {
    throw ConfigError(concat("--output ", output, ": folder ", folder.string(),
                             " does not exist; create it first"));
  }
  if (std::filesystem::is_directory(output))
    throw ConfigError(concat("--output ", output, ": is a folder; expected a file name"));
}

std::vector<std::string> cut_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return parts;
}

// Kinds of question to make, checked against what the readers know.
std::vector<std::string> find_questions(const std::string& text,
                                        const std::vector<const ReaderEntry*>& readers) {
  if (text.empty()) return {};
  const std::vector<std::string> kinds = cut_at_commas(text);
  for (const ReaderEntry* reader : readers) {
    if (reader->questions == nullptr)
      throw ConfigError(concat("--questions: format ", reader->name,
                               " has the questions of its source; leave the option out"));
    const std::vector<std::string>& known = reader->questions();
    for (const std::string& kind : kinds) {
      if (std::find(known.begin(), known.end(), kind) != known.end()) continue;
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      throw ConfigError(concat("--questions: unknown kind \"", kind, "\" of format ", reader->name,
                               "; expected one of ", list));
    }
  }
  return kinds;
}

// The reader of each input.
std::vector<const ReaderEntry*> find_readers(const PrepareOptions& options) {
  const std::vector<std::string> formats = cut_at_commas(options.format);
  if (formats.size() != 1 && formats.size() != options.inputs.size()) {
    throw ConfigError(concat("--format \"", options.format, "\" names ", formats.size(),
                             " formats for ", options.inputs.size(),
                             " inputs; expected one for all, or one for each in their order"));
  }
  std::vector<const ReaderEntry*> readers;
  for (size_t i = 0; i < options.inputs.size(); ++i)
    readers.push_back(&find_reader(formats[formats.size() == 1 ? 0 : i]));
  return readers;
}

// The companion of each input, or empty.
std::vector<std::string> find_companions(const PrepareOptions& options,
                                         const std::vector<const ReaderEntry*>& readers) {
  const std::vector<std::string>& given = options.companions;
  std::vector<std::string> companions(options.inputs.size());
  if (given.empty()) return companions;
  if (given.size() != 1 && given.size() != options.inputs.size())
    throw ConfigError(concat("--companion is given ", given.size(), " times for ",
                             options.inputs.size(),
                             " inputs; expected one for all, or one for each in their order"));
  for (size_t i = 0; i < companions.size(); ++i) {
    if (readers[i]->companion.empty())
      throw ConfigError(concat("--companion: the format ", readers[i]->name,
                               " is read without a second file; leave it away"));
    companions[i] = given[given.size() == 1 ? 0 : i];
  }
  return companions;
}

// "TASK=FILE" or FILE, whose task is its name up to the first dot.
struct TaskInput {
  std::string task, file;
};
TaskInput parse_task_input(const std::string& input) {
  const size_t equals = input.find('=');
  if (equals != std::string::npos) return {input.substr(0, equals), input.substr(equals + 1)};
  const std::string name = name_of(input);
  return {name.substr(0, name.find('.')), input};
}

// Ids of one input, as hashes: eight bytes each.
int64_t count_repeated(std::vector<uint64_t>& ids) {
  std::sort(ids.begin(), ids.end());
  return static_cast<int64_t>(ids.end() - std::unique(ids.begin(), ids.end()));
}

class Preparation {
 public:
  explicit Preparation(PrepareOptions options)
      : options_(std::move(options)),
        readers_(find_readers(options_)),
        companions_(find_companions(options_, readers_)),
        questions_(find_questions(options_.questions, readers_)),
        shares_(options_.split.empty() ? std::vector<SplitShare>{{"all", 1.0}}
                                       : parse_splits(options_.split)),
        assigner_(shares_, options_.seed) {
    if (options_.split_by == "input") name_tasks();
    if (options_.documents == 0 && !options_.gold.empty())
      throw ConfigError("--gold places a passage among --documents N; give both or neither");
    if (options_.split_by == "time" && options_.split.empty())
      throw ConfigError("--split-by says how --split NAME=SHARE,... divides; give both or neither");
    if (options_.split_by == "time" && options_.documents > 0)
      throw ConfigError(
          "--split-by time does not go with --documents: passages that questions of "
          "two days share would be in two splits");
    if (options_.documents > 0)
      position_ =
          gold_position(options_.gold.empty() ? "first" : options_.gold, options_.documents);
    require_folder_of(options_.output);
    check_text_output();
    for (const std::string& input : options_.inputs) bytes_ += input_bytes(input);
  }

  void run() {
    if (as_text_) {
      write_text();
      print();
      return;
    }
    const Tokenizer tokenizer = Tokenizer::from_file(options_.tokenizer);
    StoreWriter writer(options_.output, tokenizer, writer_options());
    if (options_.documents > 0) {
      write_assembled(writer);
    } else {
      write_plain(writer);
    }
    writer.finish();
    print();
  }

 private:
  // A split a task; inputs of one task share it.
  void name_tasks() {
    if (!options_.split.empty())
      throw ConfigError("--split-by input makes a split of each task; leave --split out");
    shares_.clear();
    for (std::string& input : options_.inputs) {
      const TaskInput parsed = parse_task_input(input);
      const auto same = [&](const SplitShare& share) { return share.name == parsed.task; };
      const auto found = std::find_if(shares_.begin(), shares_.end(), same);
      task_of_input_.push_back(static_cast<uint8_t>(found - shares_.begin()));
      if (found == shares_.end()) shares_.push_back({parsed.task, 1.0});
      if (parsed.task.empty())
        throw ConfigError(concat("input ", input, ": expected TASK=FILE, got no task"));
      input = parsed.file;
    }
    if (shares_.size() > 255)
      throw ConfigError(
          concat("--split-by input: expected at most 255 tasks, got ", shares_.size()));
  }

  void check_text_output() const {
    const auto reject = [&](const char* option) {
      throw ConfigError(concat(option, ": ", options_.output,
                               " holds whole records as text; leave the option out, or write .h5"));
    };
    if (as_text_ && !options_.tokenizer.empty()) reject("--tokenizer");
    if (as_text_ && !options_.split.empty()) reject("--split");
    if (as_text_ && options_.documents > 0) reject("--documents");
    if (as_text_ && options_.passages != "plain") reject("--passages");
    if (as_text_ && options_.split_by != "content") reject("--split-by");
    if (!as_text_ && options_.tokenizer.empty())
      throw ConfigError(
          "--tokenizer: expected a tokenizer.json, got nothing; a data set in HDF5 "
          "holds token ids");
  }

  // The records of all inputs in the format jsonl; the file appears when it is whole.
  void write_text() {
    constexpr size_t kBlock = size_t{1} << 20;
    Progress progress("bytes", bytes_);
    remove_stale_temporaries(std::filesystem::absolute(options_.output).parent_path().string(),
                             std::filesystem::path(options_.output).filename().string());
    const std::string part = temporary_path(options_.output);
    const std::shared_ptr<const std::string> removed(
        &part, [](const std::string* path) { std::filesystem::remove(*path); });
    {
      AppendFile file(part);
      std::string block;
      read_inputs(progress, 0, true, [&](DocumentExample&& example) {
        if (example.document.empty()) example.document = kNoContext;
        block += to_jsonl(example);
        if (block.size() < kBlock) return;
        file.append(block);
        block.clear();
      });
      file.append(block);
    }
    sync_path(part);
    std::filesystem::rename(part, options_.output);
    progress.finish(concat(totals_.records, " records"));
  }

  StoreWriter::Options writer_options() const {
    StoreWriter::Options out;
    out.command = options_.command;
    out.source = options_.format + ":";
    for (const std::string& input : options_.inputs) out.source += " " + name_of(input);
    out.splits.clear();
    for (const SplitShare& share : shares_) out.splits.push_back(share.name);
    return out;
  }

  void write_plain(StoreWriter& writer) {
    Progress progress("bytes", bytes_);
    read_inputs(progress, 0, true, [&](DocumentExample&& example) {
      add_to_splits(example);
      if (example.document.empty()) example.document = kNoContext;
      writer.add(as_shown(example));
    });
    writer.set_splits(assign_splits());
    progress.finish(concat(totals_.records, " records"));
  }

  // Two passes: the splits, and with them the passages to draw from, are known after the first.
  void write_assembled(StoreWriter& writer) {
    Progress progress("bytes", 2 * bytes_);
    PassagePool pool(concat(options_.output, ".passages-", ::getpid()));
    int64_t records = 0;
    read_inputs(progress, 0, true, [&](DocumentExample&& example) {
      add_to_splits(example);
      pool.add(example, records);
      records += static_cast<int64_t>(example.questions.size());
    });
    const std::vector<uint8_t> splits = assign_splits();
    pool.set_splits(splits);
    records = 0;
    read_inputs(progress, bytes_, false, [&](DocumentExample&& example) {
      for (const Question& question : example.questions) {
        const uint8_t split = splits.at(static_cast<size_t>(records++));
        writer.add(as_shown(pool.assemble(example, question, split, options_.documents, position_,
                                          options_.seed)),
                   split);
      }
    });
    progress.finish(concat(totals_.records, " records"));
  }

  DocumentExample as_shown(const DocumentExample& example) const {
    return options_.passages == "numbered" ? number_passages(example) : example;
  }

  // `account`: in the first pass, what the readers counted is kept and checked.
  void read_inputs(Progress& progress, int64_t done_before, bool account, const ExampleSink& sink) {
    int64_t before = done_before;
    for (size_t i = 0; i < options_.inputs.size(); ++i) {
      const std::string& input = options_.inputs[i];
      if (options_.split_by == "input") split_of_input_ = task_of_input_[i];
      int64_t records = 0;
      std::vector<uint64_t> ids;
      ReadOptions read_options;
      read_options.maximum_bad = options_.maximum_bad;
      read_options.companion = companions_[i];
      read_options.questions = questions_;
      read_options.progress = [&](int64_t done, int64_t) {
        progress.update(before + done, concat(records, " records"));
      };
      const ReadReport report =
          readers_[i]->read(input, read_options, [&](DocumentExample&& example) {
            records += static_cast<int64_t>(example.questions.size());
            for (const Question& question : example.questions) {
              if (account) ids.push_back(stable_hash(question.id));
            }
            sink(std::move(example));
          });
      if (account) add_report(*readers_[i], input, report, count_repeated(ids));
      before += input_bytes(input);
    }
    if (totals_.records == 0)
      throw DataError(concat(options_.inputs[0], ": no usable record in ", options_.inputs.size(),
                             " input file(s)"));
  }

  void add_report(const ReaderEntry& reader, const std::string& input, const ReadReport& report,
                  int64_t repeated) {
    for (const ReadReport::Bad& bad : report.bad)
      log_warning("bad record, left out: ", bad.where, ": ", bad.reason);
    if (repeated > 0)
      log_warning(input, ": ", repeated, " records repeat the id of another; all are kept");
    if (reader.exact_spans && report.answer_spans != report.answer_spans_at_text) {
      throw DataError(concat(input, ": ", report.answer_spans - report.answer_spans_at_text, " of ",
                             report.answer_spans, " answer spans are not at their text, which ",
                             reader.name, " promises: a fault of this reader"));
    }
    totals_.records += report.records;
    totals_.unanswerable += report.unanswerable;
    totals_.relocated += report.relocated;
    totals_.unlocated += report.unlocated;
    totals_.answer_spans += report.answer_spans;
    totals_.answer_spans_at_text += report.answer_spans_at_text;
    bad_ += static_cast<int64_t>(report.bad.size());
    repeated_ += repeated;
  }

  void add_to_splits(const DocumentExample& example) {
    if (options_.split_by == "input") {
      split_of_record_.insert(split_of_record_.end(), example.questions.size(), split_of_input_);
      return;
    }
    if (options_.split_by != "time") return assigner_.add(example);
    for (const Question& question : example.questions) timestamps_.push_back(question.timestamp);
  }

  std::vector<uint8_t> assign_splits() const {
    std::vector<uint8_t> splits = options_.split_by == "input" ? split_of_record_
                                  : options_.split_by == "time"
                                      ? split_by_time(timestamps_, shares_)
                                      : assigner_.assign();
    for (size_t i = 0; i < shares_.size(); ++i) {
      if (std::find(splits.begin(), splits.end(), static_cast<uint8_t>(i)) == splits.end())
        log_warning("split ", shares_[i].name,
                    " got no record: too few records, or all hang "
                    "together by questions, passages or a timestamp that they share");
    }
    return splits;
  }

  void print() const {
    std::cout << options_.output << "\n";
    if (!as_text_) print_info(Store(options_.output));
    std::cout << "unanswerable      " << totals_.unanswerable << "\nbad records       " << bad_
              << "\nrepeated ids      " << repeated_ << "\nrelocated answers " << totals_.relocated
              << "\nunlocated answers " << totals_.unlocated << "\n";
    print_spans(totals_.answer_spans, totals_.answer_spans_at_text);
  }

  PrepareOptions options_;
  bool as_text_ = std::filesystem::path(options_.output).extension() == ".jsonl";
  std::vector<const ReaderEntry*> readers_;
  std::vector<std::string> companions_;
  std::vector<std::string> questions_;
  std::vector<SplitShare> shares_;
  SplitAssigner assigner_;
  std::vector<std::string> timestamps_;  // of all records, for splits by time
  std::vector<uint8_t> task_of_input_;   // of each input, for splits by input
  uint8_t split_of_input_ = 0;           // of the input that is read
  std::vector<uint8_t> split_of_record_;
  int64_t position_ = 0;
  int64_t bytes_ = 0;
  ReadReport totals_;  // its list of bad records stays empty
  int64_t bad_ = 0;
  int64_t repeated_ = 0;
};

}  // namespace

void print_spans(int64_t spans, int64_t at_text) {
  std::cout << "answer spans      " << spans << ", " << at_text << " at their text";
  if (spans > 0)
    std::cout << " (" << 100.0 * static_cast<double>(at_text) / static_cast<double>(spans) << " %)";
  std::cout << "\n";
}

bool spans_are_exact(const std::string& source) {
  const size_t colon = source.find(':');
  if (colon == std::string::npos) return false;  // generated
  const std::vector<std::string> formats = cut_at_commas(source.substr(0, colon));
  const std::vector<ReaderEntry>& table = reader_table();
  return std::all_of(formats.begin(), formats.end(), [&table](const std::string& format) {
    return std::any_of(table.begin(), table.end(), [&format](const ReaderEntry& entry) {
      return entry.name == format && entry.exact_spans;
    });
  });
}

void prepare_dataset(const PrepareOptions& options) { Preparation(options).run(); }

}  // namespace dsrsq
