// SciFact (Wadden et al. 2020): claims, and the abstracts that support or contradict them.
#include <filesystem>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

struct Abstract {
  std::string title;
  std::vector<std::string> sentences;
};
using Corpus = std::unordered_map<std::string, Abstract>;  // by doc_id

Corpus read_corpus(const ReadContext& context) {
  Corpus corpus;
  read_json_records(context, [&corpus](const json& value, const RecordPlace&) {
    const std::string id = require_id(require_key(value, "doc_id"), "doc_id");
    Abstract abstract;
    abstract.title = require_string(require_key(value, "title"), "title");
    const json& sentences = require_array(require_key(value, "abstract"), "abstract");
    for (size_t i = 0; i < sentences.size(); ++i)
      abstract.sentences.push_back(require_string(sentences[i], concat("abstract[", i, "]")));
    if (!corpus.emplace(id, std::move(abstract)).second)
      throw BadRecord{concat("doc_id ", id.substr(0, 40), " stands twice")};
  });
  return corpus;
}

// What a claim says of one abstract.
struct Rationale {
  std::string label = "NOT ENOUGH INFO";
  std::vector<int64_t> sentences;
};

Rationale read_rationale(const json& value, const std::string& name) {
  const json& sets = require_array(value, name);
  Rationale rationale;
  for (size_t i = 0; i < sets.size(); ++i) {
    const std::string set = concat(name, "[", i, "].");
    require_object(sets[i], concat(name, "[", i, "]"));
    const std::string& label = require_text_key(sets[i], "label", set);
    if (label != "SUPPORT" && label != "CONTRADICT")
      throw BadRecord{concat("\"", set, "label\" must be SUPPORT or CONTRADICT, got \"",
                             label.substr(0, 40), "\"")};
    if (i > 0 && label != rationale.label)
      throw BadRecord{concat("\"", name, "\" is labelled SUPPORT and CONTRADICT")};
    rationale.label = label;
    const json& sentences =
        require_array(require_key(sets[i], "sentences", set), set + "sentences");
    for (size_t j = 0; j < sentences.size(); ++j)
      rationale.sentences.push_back(
          require_integer(sentences[j], concat(set, "sentences[", j, "]")));
  }
  return rationale;
}

// The title as a line of its own, then the sentences, joined by blanks.
DocumentExample write_abstract(const Abstract& abstract, const std::string& id,
                               const Rationale& rationale) {
  DocumentExample example;
  example.title = abstract.title;
  std::vector<ByteSpan> spans;
  append_paragraph(example.document, abstract.title, "");
  for (const std::string& sentence : abstract.sentences) {
    const std::string text = trimmed(sentence);
    if (!spans.empty()) example.document += ' ';
    const int64_t begin = static_cast<int64_t>(example.document.size());
    example.document += text;
    spans.push_back({begin, static_cast<int64_t>(example.document.size())});
  }
  Question question;
  question.answers = {rationale.label};
  for (const int64_t sentence : rationale.sentences) {
    if (sentence < 0 || sentence >= static_cast<int64_t>(spans.size()))
      throw BadRecord{concat("\"evidence\" names sentence ", sentence, " of document ", id,
                             ", which has ", spans.size())};
    const ByteSpan span = spans[static_cast<size_t>(sentence)];
    if (span.begin < span.end) add_once(question.evidence, span);
  }
  if (trimmed(example.document).empty()) throw BadRecord{concat("document ", id, " holds no text")};
  example.questions.push_back(std::move(question));
  return example;
}

// An example for each abstract that the claim cites.
std::vector<DocumentExample> read_claim(const json& value, const Corpus& corpus, int64_t line) {
  const std::string id = require_id(require_key(value, "id"), "id");
  const std::string& claim = require_text_key(value, "claim");
  const json& evidence = require_object(require_key(value, "evidence"), "evidence");
  const json& cited = require_array(require_key(value, "cited_doc_ids"), "cited_doc_ids");
  if (cited.empty()) throw BadRecord{"\"cited_doc_ids\" is empty"};
  std::vector<std::string> documents;
  for (size_t i = 0; i < cited.size(); ++i)
    add_once(documents, require_id(cited[i], concat("cited_doc_ids[", i, "]")));
  std::vector<DocumentExample> examples;
  size_t with_evidence = 0;
  for (const std::string& document : documents) {
    const auto abstract = corpus.find(document);
    if (abstract == corpus.end())
      throw BadRecord{concat("document ", document.substr(0, 40), " is not in the corpus")};
    const auto sets = evidence.find(document);
    Rationale rationale;
    if (sets != evidence.end()) {
      rationale = read_rationale(*sets, concat("evidence.", document));
      ++with_evidence;
    }
    examples.push_back(write_abstract(abstract->second, document, rationale));
    Question& question = examples.back().questions[0];
    question.id = concat(id, "#", document);
    question.text = claim;
    question.source_line = line;
  }
  if (with_evidence != evidence.size())
    throw BadRecord{"\"evidence\" names a document that is not in \"cited_doc_ids\""};
  return examples;
}

}  // namespace

ReadReport read_scifact(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink) {
  const std::string beside = (std::filesystem::path(path).parent_path() / "corpus.jsonl").string();
  ReadReport report;
  const Corpus corpus = read_corpus({options.companion.empty() ? beside : options.companion,
                                     options_of_companion(options), report});
  DocumentGatherer gatherer(sink);
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    for (DocumentExample& example : read_claim(value, corpus, place.line)) {
      count_question(report, example.document, example.questions[0]);
      gatherer.add(std::move(example));
    }
  });
  gatherer.flush();
  return report;
}

}  // namespace dsrsq
