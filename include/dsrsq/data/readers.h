// Readers: one per source format, each a stream of DocumentExample. A bad record is never skipped
// silently: it is counted and listed (file:line, reason); more than the limit is a DataError.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsrsq/data/example.h"

namespace dsrsq {

struct ReadReport {
  int64_t records = 0;       // accepted questions
  int64_t unanswerable = 0;  // of these, without an answer
  int64_t relocated = 0;     // answers whose offset in the source was not that of their text
  int64_t unlocated = 0;     // answers that no answer span shows (free words, yes, no, aliases)
  int64_t answer_spans = 0;
  int64_t answer_spans_at_text = 0;  // of these, whose text is an answer of the question, verbatim
  struct Bad {
    std::string where;
    std::string reason;
  };
  std::vector<Bad> bad;  // all of them up to the limit
};

struct ReadOptions {
  int64_t maximum_bad = 0;  // more bad records than this: DataError that lists the first ones and
                            // says which option raises it
  // A second file that some formats are read with (ReaderEntry::companion); empty: none.
  std::string companion;
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  // Of the kinds of question that a reader makes by rules (ReaderEntry::questions), those to make;
  // empty: all of them.
  std::vector<std::string> questions = {};
};

using ExampleSink = std::function<void(DocumentExample&&)>;

// All readers take plain, gzip or zstd files (by magic bytes). JSONL readers but nq_simplified,
// natural_questions and jsonl take a JSON list of the same objects as well, and one that is written
// with indentation and alone in its file. Where a source has no
// id, it is the line's number (in a list, the element's index, from 0).

// Natural Questions v1.0-simplified (github.com/google-research-datasets/natural-questions), JSONL:
// tokens are joined by single blanks, offsets count these tokens; several annotators give several
// answers (duplicates merged); yes/no answers become "yes" / "no"; no non-null annotation:
// unanswerable. Evidence is the long answer, answer_spans the short answers (the long answer is the
// answer where there is no short one).
ReadReport read_nq_simplified(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink);

// Natural Questions v1.0, JSONL: document_html, document_tokens {token, start_byte, end_byte,
// html_token}, annotations with byte and token offsets. The document is all tokens, those of html
// too, joined by single blanks (a blank inside a token becomes "_"): what NQ's own simplification
// writes as document_text, so that both forms give the same example and tags mark tables and lists.
// Byte offsets of spans precede token offsets, as in NQ's evaluation; where they name other tokens
// than these the span counts as relocated. Answers as above.
ReadReport read_natural_questions(const std::string& path, const ReadOptions& options,
                                  const ExampleSink& sink);

// NQ-open and EfficientQA (Lee et al. 2019, Min et al. 2021), JSONL: {"question", "answer": [str]}.
// Closed-book: the document is empty.
ReadReport read_nq_open(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink);

// lost-in-the-middle (Liu et al. 2023), JSONL: {"question", "answers", "ctxs": [{"title", "text",
// "isgold"}]}, with any number of contexts, also the one of the oracle file. Passages are joined by
// a blank line, the title is a line of its own. Evidence is the text of the gold passage, answers
// are looked for there alone.
ReadReport read_lost_in_the_middle(const std::string& path, const ReadOptions& options,
                                   const ExampleSink& sink);

// QED (Lamm et al. 2021), JSONL: the document is the paragraph, the answers are those of all NQ
// annotators, evidence is the selected sentence or, where there is none, the answers. Offsets are
// code points, half-open.
ReadReport read_qed(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), one JSON object, read one element of "data" at a
// time. Ids may be integers (COVID-QA). is_impossible or no answer: unanswerable. An answer_start
// (code points) that is not that of the text has drifted: the nearest verbatim occurrence is taken,
// and counted. Evidence is the answer's span.
ReadReport read_squad(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// TimeQA (Chen et al. 2021): JSONL of human_*.json.gzip {"idx", "question", "context", "targets",
// "from", "end", "paragraphs"?}, targets [""] is unanswerable; or the list of
// human_annotated_*.json
// {"index", "questions": [[question, [{"para", "from", "end", "answer"}]]], "paras"}, whose
// paragraphs are joined by blanks as the contexts are. Evidence is the paragraph of the answer, as
// the form cuts it (JSONL: where "paragraphs" shows it), else the answer.
ReadReport read_timeqa(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink);

// HotpotQA (Yang et al. 2018): a list of {"_id", "question", "answer", "context": [[title,
// [sentence]]], "supporting_facts": [[title, index]]}; without "context", the adversarial variant
// {"title_a", "para_a", "title_b", "para_b", "supporting_facts": [[index], [index]], "distractors":
// [[title, [sentence], score]]}, whose paragraphs get an order drawn from the id. Evidence is the
// supporting sentences; the answer is looked for there, in their paragraphs, then everywhere; yes
// and no have no span.
ReadReport read_hotpotqa(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink);

// CNN/DailyMail (Hermann et al. 2015, See et al. 2017): a .story file; a folder, whose .story files
// are read in the order of their names; or the columns "article", "highlights", "id" as CSV (RFC
// 4180, other columns are ignored) or JSONL. The document is the article (of a story: its
// paragraphs, joined by blank lines), the answer of the one question, a request, is the highlights,
// one a line. The companion has tab-separated columns "id" and "published" (YYYY-MM-DD), named in
// its first line. With it, documents begin with a marker "[2015-03-01]", a line of its own; a
// second request asks for that day, with the marker as evidence; the timestamp is the day;
// documents come in the order of day and id; and an article without a day is a bad record.
ReadReport read_cnn_dailymail(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink);

// PubMedQA (Jin et al. 2019), one JSON object: PMID -> {"QUESTION", "CONTEXTS", "LABELS", "YEAR",
// "final_decision"}, read one member at a time. The document is the contexts, joined by blank
// lines, each label a line of its own; the answer is yes, no or maybe and has no span. The
// conclusion ("LONG_ANSWER") is not part of it.
ReadReport read_pubmedqa(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink);

// SciTLDR (Cachola et al. 2020), JSONL: {"source": [sentence], "source_labels": [0 or 1],
// "paper_id", "target": [summary], "title"?}. The document is the sentences, joined by blanks, the
// question a request, all targets are answers, evidence is the labelled sentences.
ReadReport read_scitldr(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink);

// S2ORC (Lo et al. 2020): parses of full texts in the generations 20190928, 20200705 and 20210101
// (as CORD-19), of doc2json, and of the Semantic Scholar API ("content", whose annotations are JSON
// in strings, with offsets in code points), told apart by their keys; JSONL, or one object a file.
// The document is the body's paragraphs, joined by blank lines; a section's name is a line of its
// own in front of its first paragraph. The question is a request for the abstract, which is the
// answer; a paper without one is a bad record. The companion has rows of metadata (JSONL:
// "paper_id" or "corpusid", "title", "year" or "publicationdate", "abstract"): with it, these come
// before the parse's own, and a paper without a row is a bad record. A row of metadata itself, as
// input, has its abstract as document and asks for its title.
ReadReport read_s2orc(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// QASPER v0.3 (Dasigi et al. 2021), one JSON object: id -> {"title", "abstract", "full_text":
// [{"section_name", "paragraphs"}], "qas"}, read one member at a time. The document is the abstract
// and the paragraphs, with headings as above. Answers of all annotators as QASPER's evaluation
// writes them: spans joined by ", ", free form, "Yes" or "No"; those who say unanswerable add none.
// Evidence is the paragraphs that are named; figures and tables have no place. Answer spans are
// answers of one span.
ReadReport read_qasper(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink);

// SciFact (Wadden et al. 2020), claims JSONL: {"id", "claim", "evidence": {doc_id: [{"label",
// "sentences"}]}, "cited_doc_ids"}. The companion is the corpus, JSONL: {"doc_id", "title",
// "abstract": [sentence]}; without one, corpus.jsonl beside the claims. A question for each cited
// abstract: the claim over its title (a line of its own) and sentences, id "claim#doc_id"; the
// answer is SUPPORT, CONTRADICT or, where the claim has no evidence there, NOT ENOUGH INFO, and
// evidence the sentences of all rationales. The corpus is held in memory.
ReadReport read_scifact(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink);

// Source files: JSONL of codeparrot/github-code ("code" or "content", "repo_name", "path") and The
// Stack v1 ("max_stars_repo_name", "max_stars_repo_path"), or a folder, whose name is then the
// repository's: its files that are UTF-8 text of at most 1 MiB, in the order of their paths, hidden
// ones and links left out. Three kinds of question, all of them unless options.questions says
// otherwise; a file that has none gives none.
// - next_line, "What is the next line of PATH?", one a file: the document is the file up to a line
//   behind the tenth with a letter in it, which the hash of repository and path chooses.
// - docstring, "What does the docstring of NAME say in its first line?", of functions whose
//   name a Python file of at most 1 MiB defines once: the document is the file without any
//   function's docstring; where it still holds that line, nothing is asked. Evidence is the
//   function.
// - definition, "In which file is NAME defined?", one a file: the document is up to 8 consecutive
//   files of a repository, 96 KiB at most, each under its path as a heading. Asked are names that a
//   file defines in column 0, no other defines and another one uses. The answer is the path;
//   evidence is the heading and the defining line.
// No file is in two splits, nor copies of it (split_keys); whole repositories are held out by
// separate inputs.
ReadReport read_github_code(const std::string& path, const ReadOptions& options,
                            const ExampleSink& sink);
const std::vector<std::string>& github_code_questions();  // their names

// CodeSearchNet (Husain et al. 2019), JSONL: {"repo", "path", "func_name", "original_string",
// "docstring", "url"?}. The document is the function without its docstring: that of Python, and
// what stands there verbatim if it is more than a word. The answer is the docstring.
ReadReport read_codesearchnet(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink);

// Streams of dated entries, JSONL in the order of the stream: changelogs {"date", "package",
// "version", "text"}, commits {"date", "subject", "body"?}; dates are ISO 8601. A document is 32
// consecutive entries, "DATE PACKAGE VERSION" or "DATE SUBJECT" as the heading of each. For every
// package with several entries in it, "What is the latest version of PACKAGE?"; for every such day
// (as the date writes it), "What is the subject of the last commit of DAY?". The last is that of
// the order of the stream: clocks differ. Evidence is its entry; the timestamp is the date of the
// document's last entry, at which the question is asked.
ReadReport read_dated_entries(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink);

// LongBench (Bai et al. 2024), JSONL: {"input", "context", "answers", "dataset", "_id"}; where
// "input" is empty (gov_report, multi_news, vcsum, passage_count, lcc) the question is a fixed one.
// Answers are looked for in the context, but those of summaries, classes, counts and code, and yes,
// no and unanswerable. v2 (Bai et al. 2025): {"question", "choice_A" to "choice_D", "answer",
// "context", "_id"}; the options are lines of the question, the answer is the text of the right
// one. all_classes is not kept: it is one list for a dataset.
ReadReport read_longbench(const std::string& path, const ReadOptions& options,
                          const ExampleSink& sink);

// RULER (Hsieh et al. 2024), JSONL: {"index", "input", "outputs", "answer_prefix"?}. All of its
// templates end with the question as the last line of the prompt (in the older form with the
// beginning of the answer behind it): that line, and the prefix, is the question, what stands
// before it is the document. "outputs" are the answers, which string_match_all expects all of. An
// output that stands once in the document has a span, and its sentence is evidence.
ReadReport read_ruler(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// BABILong (Kuratov et al. 2024), JSONL: {"input", "question", "target"}. A target that stands once
// in the input has a span, and its sentence is evidence.
ReadReport read_babilong(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink);

// QuALITY (Pang et al. 2022), JSONL: v1.0.1 {"set_unique_id", "title", "article", "questions":
// [{"question", "options", "gold_label"}]}, and the flat form before it {"unique_id", "title",
// "article": lines, "questionK", "questionKoption1" to 4, "questionK_gold_label"}. An HTML article
// becomes text; the options are lines of the question, the answer is the text of the right one and
// has no span. Questions of a test set, which has no labels, are bad records.
ReadReport read_quality(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink);

// NarrativeQA (Kocisky et al. 2018), qaps.csv (RFC 4180): "document_id", "question", "answer1",
// "answer2"; other columns are ignored. read_narrativeqa takes the summaries of summaries.csv
// beside it as documents, read_narrativeqa_stories the stories tmp/ID.content, which NarrativeQA's
// script fetches, as text where they are HTML. Titles are those of documents.csv, if it is there.
// Answers are free words; one that stands once in the document has a span.
ReadReport read_narrativeqa(const std::string& path, const ReadOptions& options,
                            const ExampleSink& sink);
ReadReport read_narrativeqa_stories(const std::string& path, const ReadOptions& options,
                                    const ExampleSink& sink);

// Key-value retrieval (Liu et al. 2023), JSONL: {"ordered_kv_records": [[key, value]], "key",
// "value"}. The document is the JSON object of the pairs, a line each; evidence is the pair.
ReadReport read_kv_retrieval(const std::string& path, const ReadOptions& options,
                             const ExampleSink& sink);

// TyDi QA (Clark et al. 2020), primary tasks, JSONL: {"example_id", "question_text",
// "document_plaintext", "document_title", "passage_answer_candidates", "annotations"}; offsets are
// bytes of UTF-8. Minimal answers of all annotators, yes and no; where nobody gave one, the
// passages are the answers. Evidence is the passages. The gold-passage task comes in the format
// squad.
ReadReport read_tydiqa(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink);

// Texts and code without questions, to predict: a record a document, whose question is empty and
// has no answer. A folder: its text files as read_github_code takes them, a document each, titled
// by their paths. A file called *.jsonl (or .jsonl.gz, .jsonl.zst): {"text" | "content" | "code" |
// "context", "title"?, "path"?, "id"?} a line. Any other file: a line " = Title = " between blank
// lines (WikiText) begins a document; one without such a line is one document. Line ends become
// line feeds. A document of white space alone is none; one with a zero byte, of no UTF-8 or over 64
// MiB is a bad record.
ReadReport read_text(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// Plain JSONL: {"question": str, "context": str | "documents": [str | {"title","text"}],
// "answers": [str], "evidence"?: [str | [begin, end] in Unicode code points of the context],
// "answer_spans"?: the same, "id"?, "timestamp"?}. `documents` are joined by a blank line. Answers
// without spans are located in the evidence, then in the context (the first verbatim occurrence,
// whole words before parts of words). Consecutive records with the same context are one document.
ReadReport read_jsonl(const std::string& path, const ReadOptions& options, const ExampleSink& sink);

// Bytes of an input: of the file, or of the files of a folder that read_github_code looks at.
// Throws DataError.
int64_t input_bytes(const std::string& path);

// The table of formats: name, one line, reader. find_reader throws ConfigError for an unknown name,
// naming the known ones.
struct ReaderEntry {
  std::string name;
  std::string description;
  ReadReport (*read)(const std::string&, const ReadOptions&, const ExampleSink&);
  bool exact_spans;  // every answer span of this reader is the text of an answer
  const std::vector<std::string>& (*questions)() = nullptr;  // kinds that it makes by rules
  std::string companion = {};  // what the second file is; empty: there is none
};
const std::vector<ReaderEntry>& reader_table();
const ReaderEntry& find_reader(const std::string& name);

}  // namespace dsrsq
