// Names that the writer and the reader of a data set share. Private to src/data.
#pragma once

#include <cstdint>
#include <string>

namespace dsrsq {

inline const std::string kStoreFormat = "dsrsq-dataset";
inline constexpr int64_t kStoreVersion = 1;

inline const std::string kDocumentTokens = "/documents/tokens";
inline const std::string kDocumentOffsets = "/documents/offsets";
inline const std::string kDocumentTitles = "/documents/titles";
inline const std::string kRecordDocument = "/records/document";
inline const std::string kRecordSplit = "/records/split";
inline const std::string kRecordQuestion = "/records/question";
inline const std::string kRecordId = "/records/id";
inline const std::string kRecordTimestamp = "/records/timestamp";
inline const std::string kRecordAnswers = "/records/answers";
inline const std::string kRecordEvidence = "/records/evidence";
inline const std::string kRecordAnswerSpans = "/records/answer_spans";

// A column of strings is two data sets, a column of lists has a third one.
inline const std::string kBytesSuffix = "_bytes";      // uint8 [sum of lengths], UTF-8
inline const std::string kOffsetsSuffix = "_offsets";  // int64 [strings + 1]
inline const std::string kListSuffix =
    "_of";  // int64 [records + 1]: items of record i are [of[i], of[i + 1])

}  // namespace dsrsq
