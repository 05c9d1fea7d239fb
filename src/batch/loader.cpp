#include "dsrsq/batch/loader.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/random.h"

namespace dsrsq {

Loader::Loader(const std::string& path, const Tokenizer& tokenizer, const PromptConfig& prompt,
               const LoaderOptions& options)
    : options_(options), prompt_(prompt), store_(std::make_unique<Store>(path)) {
  store_->require_tokenizer(tokenizer);
  collator_ = std::make_unique<Collator>(*store_, tokenizer, prompt, options.maximum_context,
                                         options.encoder);
  auto records = store_->records_of_split(options.split);
  if (!records.empty() && is_text(store_->record(records[0])))
    find_chunks(records, tokenizer);
  else
    find_questions(records);
}

void Loader::find_questions(const std::vector<int64_t>& records) {
  int64_t document = -1;
  for (auto record : records) {
    auto own = store_->document_of(record);
    bool full =
        !sequences_.empty() && int64_t(sequences_.back().size()) >= options_.questions_per_sequence;
    if (own != document || full) sequences_.emplace_back();
    sequences_.back().push_back(record);
    document = own;
  }
  if (options_.maximum_sequences > 0 && sequences() > options_.maximum_sequences)
    sequences_.resize(size_t(options_.maximum_sequences));
  if (options_.maximum_context > 0) {
    int64_t cut = 0;
    for (const auto& sequence : sequences_)
      cut += store_->document_length(store_->document_of(sequence[0])) > options_.maximum_context;
    if (cut > 0)
      log_info(store_->path(), ": ", cut, " of ", sequences_.size(), " sequences of split '",
               options_.split,
               "' have a longer context than data.maximum_context = ", options_.maximum_context,
               " and are cut there");
  }
  if (sequences_.empty())
    throw DataError(concat(store_->path(), ": split '", options_.split,
                           "' holds no record; see dsrsq-data inspect"));
}

void Loader::find_chunks(const std::vector<int64_t>& records, const Tokenizer& tokenizer) {
  if (!options_.with_answers)
    throw DataError(concat(store_->path(), ": split '", options_.split,
                           "' holds texts without questions, which nothing can be asked; measure "
                           "them with dsrsq-eval --context-lengths"));
  texts_ = std::make_unique<TextCollator>(*store_, tokenizer, options_.encoder);
  int64_t left_out = 0;
  for (auto record : records) {
    auto chunks = text_chunks(record, store_->document_length(store_->document_of(record)),
                              options_.chunk_tokens, options_.maximum_context);
    left_out += chunks.empty();
    chunks_.insert(chunks_.end(), chunks.begin(), chunks.end());
  }
  if (left_out > 0)
    log_info(store_->path(), ": ", left_out, " of ", records.size(), " texts of split '",
             options_.split, "' are not longer than data.chunk_tokens = ", options_.chunk_tokens,
             " and are left out");
  if (options_.maximum_sequences > 0 && sequences() > options_.maximum_sequences)
    chunks_.resize(size_t(options_.maximum_sequences));
  if (chunks_.empty())
    throw DataError(concat(
        store_->path(), ": split '", options_.split,
        "' holds no text longer than data.chunk_tokens = ", options_.chunk_tokens, " tokens"));
}

Batch Loader::stream_batch(int64_t index) const {
  std::vector<size_t> chosen;
  for (int64_t i = 0; i < options_.batch_size; ++i) {
    auto place = uint64_t(index * options_.batch_size + i);
    auto size = uint64_t(sequences());
    auto in_epoch = place % size;
    auto which = options_.shuffle
                     ? permute_index(uint64_t(options_.seed), place / size, in_epoch, size)
                     : in_epoch;
    chosen.push_back(size_t(which));
  }
  return collate(chosen);
}

double Loader::mean_context_tokens() const {
  double total = 0;
  for (const auto& chunk : chunks_) total += double(chunk.query - chunk.first);
  for (const auto& sequence : sequences_) {
    auto length = store_->document_length(store_->document_of(sequence[0]));
    if (options_.maximum_context > 0) length = std::min(length, options_.maximum_context);
    total += double(length);
  }
  return total / double(sequences());
}

int64_t Loader::pass_batches() const {
  return (sequences() + options_.batch_size - 1) / options_.batch_size;
}

Batch Loader::single(int64_t sequence) const {
  return limit_prompt(collate({size_t(sequence)}), options_.prompt_limit);
}

Batch Loader::pass_batch(int64_t index) const {
  std::vector<size_t> chosen;
  auto begin = index * options_.batch_size;
  for (auto i = begin; i < std::min(begin + options_.batch_size, sequences()); ++i)
    chosen.push_back(size_t(i));
  return limit_prompt(collate(chosen), options_.prompt_limit);
}

Batch Loader::collate(const std::vector<size_t>& sequences) const {
  if (holds_texts()) {
    std::vector<TextChunk> chunks;
    for (auto i : sequences) chunks.push_back(chunks_.at(i));
    return texts_->collate(chunks);
  }
  std::vector<std::vector<int64_t>> records;
  for (auto i : sequences) records.push_back(sequences_.at(i));
  return collator_->collate(records, options_.with_answers);
}

}  // namespace dsrsq
