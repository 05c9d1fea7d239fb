// `dsrsq-bench --suite data`: how fast `dsrsq-data prepare` gets through a file, its two costs
// apart: reading records (one pass of a format's reader) and turning their documents into token
// ids with the bytes that each token covers. One thread.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/bench/timing.h"
#include "dsrsq/data/readers.h"
#include "dsrsq/eval/report.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq::bench {

// "timeqa, train.jsonl": how a file is named in records, here and by scripts/bench_tokenizers.py.
std::string data_case_name(const std::string& path, const ReaderEntry& reader);

// Method dsrsq, metrics `parse` (bytes/s of the file, as it lies on the disk) and `tokenize`
// (bytes/s of the documents' text), medians with p10 and p90 over the rounds; records, documents
// and tokens in the shape. Throws DataError, as the reader does.
std::vector<ResultRecord> run_data_suite(const std::string& path, const ReaderEntry& reader,
                                         const Tokenizer& tokenizer, const TimingOptions& timing);

// For each metric of `own` that `other` has of the same case: METRIC_speedup over each of the
// other's methods, as records of its own. Throws DataError where they counted other tokens: then
// they did not do the same work.
std::vector<ResultRecord> data_speedups(const std::vector<ResultRecord>& own,
                                        const std::vector<ResultRecord>& other);

}  // namespace dsrsq::bench
