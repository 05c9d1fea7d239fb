#include "dsrsq/data/readers.h"

#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"

namespace dsrsq {

const std::vector<ReaderEntry>& reader_table() {
  static const std::vector<ReaderEntry> table = {
      {"nq_simplified", "Natural Questions v1.0-simplified, JSONL", &read_nq_simplified, true},
      {"natural_questions", "Natural Questions v1.0 with html, JSONL", &read_natural_questions,
       true},
      {"nq_open", "closed-book questions (NQ-open, EfficientQA), JSONL", &read_nq_open, true},
      {"lost_in_the_middle", "questions over N passages, one of them gold, JSONL",
       &read_lost_in_the_middle, true},
      {"qed", "QED, JSONL", &read_qed, true},
      {"squad", "SQuAD 1.1 and 2.0 (COVID-QA, XQuAD), JSON", &read_squad, true},
      {"timeqa", "TimeQA, JSONL or the annotated articles as a JSON list", &read_timeqa, true},
      {"hotpotqa", "HotpotQA and its adversarial variant, a JSON list", &read_hotpotqa, true},
      {"cnn_dailymail", "CNN/DailyMail: .story files, or the columns article, highlights, id",
       &read_cnn_dailymail, true, nullptr, "publication days, tab-separated id and published"},
      {"pubmedqa", "PubMedQA, JSON", &read_pubmedqa, true},
      {"scitldr", "SciTLDR, JSONL", &read_scitldr, true},
      {"s2orc", "S2ORC full texts of all generations and rows of metadata, JSON or JSONL",
       &read_s2orc, true, nullptr, "rows of metadata, JSONL"},
      {"qasper", "QASPER v0.3, JSON", &read_qasper, true},
      {"scifact", "SciFact claims, JSONL", &read_scifact, true, nullptr,
       "the corpus, JSONL; else corpus.jsonl beside the claims"},
      {"github_code", "source files of repositories: JSONL, or the folder of one",
       &read_github_code, true, &github_code_questions},
      {"codesearchnet", "CodeSearchNet: functions and their docstrings, JSONL", &read_codesearchnet,
       true},
      {"dated_entries", "commits or changelog entries by date, JSONL", &read_dated_entries, true},
      {"longbench", "LongBench and LongBench v2, JSONL", &read_longbench, true},
      {"ruler", "RULER's prompts, JSONL", &read_ruler, true},
      {"babilong", "BABILong, JSONL", &read_babilong, true},
      {"quality", "QuALITY: stories with multiple-choice questions, JSONL", &read_quality, true},
      {"narrativeqa", "NarrativeQA over summaries: qaps.csv, with summaries.csv beside it",
       &read_narrativeqa, true},
      {"narrativeqa_stories", "NarrativeQA over stories: qaps.csv, with the folder tmp beside it",
       &read_narrativeqa_stories, true},
      {"kv_retrieval", "key-value retrieval of lost-in-the-middle, JSONL", &read_kv_retrieval,
       true},
      {"tydiqa", "TyDi QA, the primary tasks, JSONL", &read_tydiqa, true},
      {"text",
       "texts and code without questions, to predict: a text file, a folder of them, or JSONL",
       &read_text, true},
      {"jsonl",
       "question, context or documents, answers, evidence, answer_spans, id, timestamp; JSONL",
       &read_jsonl, false},
  };
  return table;
}

const ReaderEntry& find_reader(const std::string& name) {
  std::vector<std::string> names;
  std::string list;
  for (const ReaderEntry& entry : reader_table()) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
    list += (list.empty() ? "" : ", ") + entry.name;
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(concat("unknown format \"", name, "\"; expected one of ", list,
                           nearest.empty() ? "" : "; did you mean ", nearest,
                           nearest.empty() ? "" : "?"));
}

}  // namespace dsrsq
