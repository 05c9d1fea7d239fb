#include "dsrsq/data/assembly.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "dsrsq/text/task_metrics.h"
#include "passages.h"

namespace dsrsq {
namespace {

// Whether the document begins with its title as a line of its own, as the readers of titled
// passages write it.
bool begins_with_title(const DocumentExample& example) {
  const std::string& title = example.title;
  return title.empty() ||
         (example.document.compare(0, title.size(), title) == 0 &&
          example.document.size() > title.size() && example.document[title.size()] == '\n');
}

std::string passage_text(const DocumentExample& example) {
  return begins_with_title(example) ? example.document : example.title + "\n" + example.document;
}

std::string describe(const Question& question) {
  return concat("line ", question.source_line, " (id ", question.id, ")");
}

// Normalised, with a blank at either end, so that whole words are found as " words ".
std::string padded_words(const std::string& text) {
  return concat(" ", normalize_answer(text), " ");
}

// An answer to be looked for.
class Needle {
 public:
  explicit Needle(const std::string& answer) : answer_(answer), words_(padded_words(answer)) {}
  // `words` are the padded words of `passage`.
  bool in(const std::string& passage, const std::string& words) const {
    if (words_.size() > 2) return words.find(words_) != std::string::npos;
    return !answer_.empty() && passage.find(answer_) != std::string::npos;
  }

 private:
  std::string answer_;
  std::string words_;
};

std::vector<ByteSpan> moved(std::vector<ByteSpan> spans, int64_t by) {
  for (ByteSpan& span : spans) {
    span.begin += by;
    span.end += by;
  }
  return spans;
}

}  // namespace

int64_t gold_position(const std::string& gold, int64_t documents) {
  if (documents < 1) throw ConfigError(concat("--documents must be at least 1, got ", documents));
  if (gold == "first") return 0;
  if (gold == "middle") return (documents - 1) / 2;
  if (gold == "last") return documents - 1;
  int64_t position = -1;
  const char* end = gold.data() + gold.size();
  const auto [stop, error] = std::from_chars(gold.data(), end, position);
  if (error != std::errc() || stop != end || position < 0 || position >= documents) {
    throw ConfigError(concat("--gold must be first, middle, last or an index from 0 to ",
                             documents - 1, ", got \"", gold, "\""));
  }
  return position;
}

bool holds_answer(const std::string& passage, const std::string& answer) {
  return Needle(answer).in(passage, padded_words(passage));
}

PassagePool::PassagePool(const std::string& path)
    : path_(path), file_(path, std::ios::in | std::ios::out | std::ios::binary | std::ios::trunc) {
  if (!file_) throw DataError(concat(path, ": cannot be made; is the folder writable?"));
  std::remove(path.c_str());  // it lives on while it is open, and no kill leaves it behind
}

void PassagePool::add(const DocumentExample& example, int64_t record) {
  if (example.document.empty() || example.passages.size() > 1) {
    throw DataError(concat(
        describe(example.questions.at(0)), ": --documents needs questions over one passage, got ",
        example.document.empty() ? "a closed-book question"
                                 : concat("one over ", example.passages.size(), " passages"),
        "; leave --documents away"));
  }
  if (!example.split_keys.empty()) {
    const Question& question = example.questions.at(0);
    throw DataError(concat(describe(question), ": \"", question.text.substr(0, 80),
                           "\" may be asked of other documents too: it does not say which of "
                           "several passages it is about; leave --documents away"));
  }
  // The words are kept beside the text: they are compared with every question that draws it.
  const std::string text = passage_text(example);
  const std::string words = padded_words(text);
  if (!(file_ << text << words))
    throw DataError(concat(path_, ": cannot be written (is the disk full?)"));
  added_.push_back({stable_hash(text), bytes_, static_cast<int64_t>(text.size()),
                    static_cast<int64_t>(words.size()), record});
  bytes_ += static_cast<int64_t>(text.size() + words.size());
}

void PassagePool::set_splits(const std::vector<uint8_t>& split_of_record) {
  if (!file_.flush()) throw DataError(concat(path_, ": cannot be written (is the disk full?)"));
  // By hash: which passages are drawn does not depend on the order of the input.
  std::sort(added_.begin(), added_.end(), [](const Passage& a, const Passage& b) {
    return a.hash != b.hash ? a.hash < b.hash : a.begin < b.begin;
  });
  const auto same = [](const Passage& a, const Passage& b) { return a.hash == b.hash; };
  added_.erase(std::unique(added_.begin(), added_.end(), same), added_.end());
  of_split_.assign(256, {});
  for (const Passage& passage : added_)
    of_split_[split_of_record.at(passage.record)].push_back(passage);
  added_.clear();
  added_.shrink_to_fit();
}

int64_t PassagePool::passages_of(uint8_t split) const {
  return split < of_split_.size() ? static_cast<int64_t>(of_split_[split].size()) : 0;
}

std::vector<std::string> PassagePool::draw(uint64_t own, const Question& question, uint8_t split,
                                           int64_t count, uint64_t seed) {
  const std::vector<Passage>& pool = of_split_.at(split);
  const std::vector<Needle> needles(question.answers.begin(), question.answers.end());
  const uint64_t order = stable_hash(question.id);
  std::vector<std::string> drawn;
  for (uint64_t i = 0; i < pool.size() && static_cast<int64_t>(drawn.size()) < count; ++i) {
    const Passage& passage = pool[permute_index(seed, order, i, pool.size())];
    if (passage.hash == own) continue;
    std::string text(static_cast<size_t>(passage.size), '\0');
    std::string words(static_cast<size_t>(passage.words), '\0');
    file_.seekg(passage.begin);
    if (!file_.read(text.data(), passage.size) || !file_.read(words.data(), passage.words))
      throw DataError(concat(path_, ": cannot be read"));
    const bool answered = std::any_of(needles.begin(), needles.end(),
                                      [&](const Needle& needle) { return needle.in(text, words); });
    if (!answered) drawn.push_back(std::move(text));
  }
  if (static_cast<int64_t>(drawn.size()) < count) {
    throw DataError(concat(describe(question), ": --documents ", count + 1, " needs ", count,
                           " other passages of its split without an answer, ", drawn.size(),
                           " of the ", pool.size(),
                           " in the split are; ask for fewer, or give the split a greater share"));
  }
  return drawn;
}

DocumentExample PassagePool::assemble(const DocumentExample& example, const Question& question,
                                      uint8_t split, int64_t documents, int64_t position,
                                      uint64_t seed) {
  const std::string own = passage_text(example);
  const std::vector<std::string> others =
      draw(stable_hash(own), question, split, documents - 1, seed);
  DocumentExample out;
  if (documents == 1) out.title = example.title;
  int64_t shift = 0;
  for (int64_t i = 0; i < documents; ++i) {
    const ByteSpan text = append_passage(
        out, "", i == position ? own : others.at(static_cast<size_t>(i < position ? i : i - 1)));
    if (i == position)
      shift = text.begin + static_cast<int64_t>(own.size() - example.document.size());
  }
  Question placed = question;
  placed.evidence = moved(std::move(placed.evidence), shift);
  placed.answer_spans = moved(std::move(placed.answer_spans), shift);
  out.questions.push_back(std::move(placed));
  return out;
}

}  // namespace dsrsq
