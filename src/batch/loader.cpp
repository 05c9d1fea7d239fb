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
  int64_t document = -1;
  for (auto record : store_->records_of_split(options.split)) {
    auto own = store_->document_of(record);
    bool full =
        !sequences_.empty() && int64_t(sequences_.back().size()) >= options.questions_per_sequence;
    if (own != document || full) sequences_.emplace_back();
    sequences_.back().push_back(record);
    document = own;
  }
  if (options.maximum_sequences > 0 && sequences() > options.maximum_sequences)
    sequences_.resize(size_t(options.maximum_sequences));
  if (options.maximum_context > 0) {
    int64_t cut = 0;
    for (const auto& sequence : sequences_)
      cut += store_->document_length(store_->document_of(sequence[0])) > options.maximum_context;
    if (cut > 0)
      log_info(path, ": ", cut, " of ", sequences_.size(), " sequences of split '", options.split,
               "' have a longer context than data.maximum_context = ", options.maximum_context,
               " and are cut there");
  }
  if (sequences_.empty())
    throw DataError(
        concat(path, ": split '", options.split, "' holds no record; see dsrsq-data inspect"));
}

Batch Loader::stream_batch(int64_t index) const {
  std::vector<std::vector<int64_t>> chosen;
  for (int64_t i = 0; i < options_.batch_size; ++i) {
    auto place = uint64_t(index * options_.batch_size + i);
    auto size = uint64_t(sequences());
    auto in_epoch = place % size;
    auto which = options_.shuffle
                     ? permute_index(uint64_t(options_.seed), place / size, in_epoch, size)
                     : in_epoch;
    chosen.push_back(sequences_[which]);
  }
  return collator_->collate(chosen, options_.with_answers);
}

double Loader::mean_context_tokens() const {
  double total = 0;
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

Batch Loader::single(int64_t sequence) const { return collate({sequences_.at(size_t(sequence))}); }

Batch Loader::pass_batch(int64_t index) const {
  auto begin = index * options_.batch_size;
  auto end = std::min(begin + options_.batch_size, sequences());
  return collate({sequences_.begin() + begin, sequences_.begin() + end});
}

Batch Loader::collate(const std::vector<std::vector<int64_t>>& sequences) const {
  return limit_prompt(collator_->collate(sequences, options_.with_answers), options_.prompt_limit);
}

}  // namespace dsrsq
