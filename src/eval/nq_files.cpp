// Natural Questions as its evaluation reads them: annotations and predictions.
#include <cctype>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/eval/nq_scoring.h"

namespace dsrsq {

using nlohmann::json;

namespace {

// A page has tokens with offsets: more values than JsonLimits allows by default.
constexpr JsonLimits kPageLimits{32, 64'000'000};
constexpr size_t kMaximumPage = size_t{256} << 20;

struct BadLabel {
  std::string reason;
};

int64_t end_of(const json& span, const char* key) {
  auto found = span.find(key);
  if (found == span.end()) return -1;
  if (!found->is_number_integer()) throw BadLabel{concat("\"", key, "\" is not a whole number")};
  return found->get<int64_t>();
}

void check_ends(int64_t begin, int64_t end, const char* unit) {
  if ((begin < 0) != (end < 0)) throw BadLabel{concat("a span has one end in ", unit, "s only")};
  if (begin >= 0 && begin >= end)
    throw BadLabel{concat("a span ends at ", unit, " ", end, ", where it begins or before")};
}

NqSpan parse_span(const json& span) {
  if (!span.is_object()) throw BadLabel{"a span is not an object"};
  NqSpan out{end_of(span, "start_byte"), end_of(span, "end_byte"), end_of(span, "start_token"),
             end_of(span, "end_token")};
  check_ends(out.begin_byte, out.end_byte, "byte");
  check_ends(out.begin_token, out.end_token, "token");
  return out;
}

// Keys that a prediction may leave away; an annotation has them all.
NqLabel parse_label(const json& item) {
  NqLabel label;
  if (item.contains("long_answer")) label.long_answer = parse_span(item["long_answer"]);
  if (item.contains("short_answers")) {
    if (!item["short_answers"].is_array()) throw BadLabel{"\"short_answers\" is not a list"};
    for (const auto& span : item["short_answers"])
      if (auto parsed = parse_span(span); !parsed.is_null()) label.short_answers.push_back(parsed);
  }
  if (!item.contains("yes_no_answer")) return label;
  if (!item["yes_no_answer"].is_string()) throw BadLabel{"\"yes_no_answer\" is not a string"};
  label.yes_no = item["yes_no_answer"].get<std::string>();
  for (char& c : label.yes_no) c = char(std::tolower(static_cast<unsigned char>(c)));
  if (label.yes_no != "yes" && label.yes_no != "no" && label.yes_no != "none")
    throw BadLabel{"\"yes_no_answer\" is none of YES, NO, NONE"};
  return label;
}

std::string parse_id(const json& item) {
  auto found = item.find("example_id");
  if (found == item.end()) throw BadLabel{"\"example_id\" is missing"};
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_number_integer()) throw BadLabel{"\"example_id\" is not a whole number"};
  return found->dump();
}

std::vector<std::string> tokens_of(const json& page) {
  std::vector<std::string> tokens;
  if (page.contains("document_text")) {
    const auto& text = page["document_text"].get_ref<const std::string&>();
    for (size_t begin = 0; begin <= text.size();) {  // by single blanks, as NQ says
      auto end = std::min(text.find(' ', begin), text.size());
      tokens.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return tokens;
  }
  if (!page.contains("document_tokens"))
    throw BadLabel{"neither \"document_tokens\" nor \"document_text\" is there"};
  for (const auto& token : page["document_tokens"]) tokens.push_back(token.at("token"));
  return tokens;
}

std::string short_text(const NqLabel& label, const std::vector<std::string>& tokens) {
  if (label.yes_no != "none") return label.yes_no;
  std::string text;
  for (const auto& span : label.short_answers) {
    if (span.end_token > int64_t(tokens.size()))
      throw BadLabel{
          concat("a short answer ends at token ", span.end_token, " of ", tokens.size())};
    if (!text.empty()) text += ", ";
    for (auto i = span.begin_token; i >= 0 && i < span.end_token; ++i)
      text += (i > span.begin_token ? " " : "") + tokens[size_t(i)];
  }
  return text;
}

NqGold parse_page(const json& page) {
  if (!page.contains("annotations") || !page["annotations"].is_array())
    throw BadLabel{"\"annotations\" is not a list"};
  NqGold gold;
  auto tokens = tokens_of(page);
  for (const auto& annotation : page["annotations"]) {
    gold.annotators.push_back(parse_label(annotation));
    gold.short_texts.push_back(short_text(gold.annotators.back(), tokens));
  }
  return gold;
}

// What goes wrong in `body` is an error at `where`.
template <typename Body>
void at_place(const std::string& where, const Body& body) {
  try {
    body();
  } catch (const BadLabel& bad) {
    throw DataError(concat(where, ": ", bad.reason));
  } catch (const JsonError& error) {
    throw DataError(concat(where, ": ", error.what()));
  } catch (const json::exception& error) {
    throw DataError(concat(where, ": expected Natural Questions, got ", error.what()));
  }
}

double parse_score(const json& item, const char* key) {
  auto found = item.find(key);
  if (found == item.end() || !found->is_number())
    throw BadLabel{concat("\"", key, "\" must be a number")};
  return found->get<double>();
}

}  // namespace

NqGolds read_nq_gold(const std::string& path) {
  NqGolds golds;
  for_each_line(
      path,
      [&](int64_t number, const std::string& line) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) return;
        at_place(concat(path, ":", number), [&] {
          auto page = parse_json(line, kPageLimits);
          auto id = parse_id(page);
          if (!golds.emplace(id, parse_page(page)).second)
            throw BadLabel{concat("example_id ", id, " stands twice")};
        });
      },
      {}, kMaximumPage);
  if (golds.empty()) throw DataError(concat(path, ": expected annotated pages, found none"));
  return golds;
}

std::map<std::string, NqPrediction> read_nq_predictions(const std::string& path) {
  std::map<std::string, NqPrediction> predictions;
  auto text = read_file(path);
  json file;
  at_place(path, [&] { file = parse_json(text, kPageLimits); });
  if (!file.is_object() || !file.contains("predictions") || !file["predictions"].is_array())
    throw DataError(concat(path, ": expected {\"predictions\": [...]}"));
  const auto& list = file["predictions"];
  for (size_t i = 0; i < list.size(); ++i) {
    at_place(concat(path, ": predictions[", i, "]"), [&] {
      NqPrediction prediction{parse_label(list[i]), parse_score(list[i], "long_answer_score"),
                              parse_score(list[i], "short_answers_score")};
      if (prediction.label.yes_no != "none" && !prediction.label.short_answers.empty())
        throw BadLabel{"yes or no beside short answers"};
      auto id = parse_id(list[i]);
      if (!predictions.emplace(id, std::move(prediction)).second)
        throw BadLabel{concat("example_id ", id, " stands twice")};
    });
  }
  return predictions;
}

}  // namespace dsrsq
