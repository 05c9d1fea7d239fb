#include "eval_trace.h"

#include <torch/torch.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/text/task_metrics.h"

namespace dsrsq {
namespace {

constexpr int64_t kWholeDocument = 4000;  // tokens; longer documents are cut
constexpr int64_t kAround = 40;           // tokens shown on both sides of a marked one

// Light enough that text stays readable on it, and apart from each other in greyscale: a picked
// token is a background with a border, evidence a line, the answer weight and colour.
constexpr const char* kStyle =
    R"(body{font:16px/1.75 system-ui,"DejaVu Sans",sans-serif;color:#1a1a1a;max-width:62em;
margin:1.5em auto;padding:0 1em}
h1{font-size:1.35em;margin:.4em 0}nav,.note{color:#444;font-size:.92em}a{color:#0072b2}
table{border-collapse:collapse;font-size:.95em;line-height:1.45}
th,td{text-align:left;vertical-align:top;padding:.2em 1em .2em 0;border-bottom:1px solid #ddd}
th{font-weight:600;color:#444;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.legend span{margin-right:.35em}
.document{white-space:pre-wrap;overflow-wrap:anywhere;margin:1em 0}
.p{background:#cfe2f3;outline:1px solid #6f9fc8}
.p1{background:#86b7e0}.p2{background:#aacdea}.p3{background:#c8dff2}.p4{background:#e4eff9}
.e{text-decoration:underline 2px #000;text-underline-offset:3px}
.a{font-weight:700;color:#7a2500}.gap{color:#666;font-style:italic}
)";

struct QuestionTrace {
  QuestionResult result;
  std::string budget;
  std::vector<int32_t> tokens;  // of the context, and for each of them:
  std::vector<bool> picked, evidence, answer;
  std::vector<double> score;  // empty where the method has none
  std::vector<int64_t> rank;  // by score among the picked tokens, 1 is the best; 0: not picked
  int64_t picks = 0;
};

// ---- what was read ----

std::vector<bool> flags(const at::Tensor& row) {  // [N] bool
  auto host = row.to(at::kCPU).contiguous();
  return std::vector<bool>(host.data_ptr<bool>(), host.data_ptr<bool>() + host.numel());
}

double share_picked(const std::vector<bool>& wanted, const std::vector<bool>& picked) {
  double total = 0;
  double found = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    total += wanted[i];
    found += wanted[i] && picked[i];
  }
  return total > 0 ? found / total : -1;
}

void take_selection(const MethodState& state, QuestionTrace& trace) {
  trace.picked.assign(trace.tokens.size(), false);
  if (state.selected.slots() == 0) return;
  auto index = state.selected.index[0].to(at::kCPU).contiguous();
  auto mask = state.selected.mask[0].to(at::kCPU).contiguous();
  for (int64_t i = 0; i < index.numel(); ++i)
    if (mask.data_ptr<bool>()[i] && index.data_ptr<int64_t>()[i] >= 0)
      trace.picked[size_t(index.data_ptr<int64_t>()[i])] = true;
  trace.picks = std::count(trace.picked.begin(), trace.picked.end(), true);
}

void take_scores(const MethodState& state, QuestionTrace& trace) {
  if (!state.scores.defined()) return;
  auto scores = state.scores[0][0].to(at::kCPU, at::kDouble).contiguous();
  trace.score.assign(scores.data_ptr<double>(), scores.data_ptr<double>() + scores.numel());
  std::vector<size_t> order(trace.tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t x, size_t y) { return trace.score[x] > trace.score[y]; });
  trace.rank.assign(trace.tokens.size(), 0);
  int64_t rank = 0;
  for (auto i : order)
    if (trace.picked[i]) trace.rank[i] = ++rank;
}

QuestionTrace trace_question(LanguageModel& model, const Batch& batch, const Tokenizer& tokenizer,
                             const EvalConfig& config, const PassOptions& options,
                             const std::string& own_budget) {
  auto observed = options;
  observed.observe = true;  // scores, too
  auto generated = generate(model, batch, observed, generation_options(config, tokenizer));
  QuestionTrace trace;
  auto context = batch.context[0].to(at::kCPU).contiguous();
  trace.tokens.assign(context.data_ptr<int64_t>(), context.data_ptr<int64_t>() + context.numel());
  trace.evidence = flags(batch.evidence[0][0]);
  trace.answer = flags(batch.answer_tokens[0][0]);
  take_selection(generated.state, trace);
  take_scores(generated.state, trace);
  auto asked = requested_budget(options, batch.context_valid);
  trace.budget = asked.defined() ? concat(asked[0].item<int64_t>(), " (--budget)") : own_budget;
  const auto& record = batch.records[0][0];
  auto& result = trace.result;
  result.id = record.id;
  result.question = record.question;
  result.answers = record.answers;
  result.prediction = tokenizer.decode(generated.tokens[0]);
  result.exact_match = exact_match(result.prediction, record.answers);
  result.f1 = token_f1(result.prediction, record.answers);
  result.evidence_recall = share_picked(trace.evidence, trace.picked);
  result.answer_recall = share_picked(trace.answer, trace.picked);
  result.selected_tokens = double(trace.picks);
  result.context_tokens = double(trace.tokens.size());
  return trace;
}

// ---- HTML ----

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string share_text(double share) { return share < 0 ? "n/a" : fixed(share, 3); }

std::string joined_answers(const std::vector<std::string>& answers) {
  std::string out;
  for (const auto& answer : answers) out += (out.empty() ? "" : " | ") + escaped(answer);
  return out.empty() ? "(unanswerable)" : out;
}

std::string page_begin(const std::string& title) {
  return concat("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>",
                escaped(title), "</title>\n<style>", kStyle, "</style></head><body>\n");
}

// The document of a trace, token by token.
class DocumentWriter {
 public:
  DocumentWriter(const QuestionTrace& trace, const Tokenizer& tokenizer)
      : trace_(trace), tokenizer_(tokenizer) {}

  bool cut() const { return int64_t(trace_.tokens.size()) > kWholeDocument; }

  std::string write() {
    std::vector<bool> shown(trace_.tokens.size(), !cut());
    if (cut()) show_surroundings(shown);
    int64_t hidden = 0;
    for (size_t i = 0; i < trace_.tokens.size();) {
      auto next = std::min(i + characters_of(i), trace_.tokens.size());
      if (shown[i]) {
        write_gap(hidden);
        hidden = 0;
        write_group(i, next);
      } else {
        hidden += int64_t(next - i);
      }
      i = next;
    }
    write_gap(hidden);
    flush();
    return html_;
  }

 private:
  bool marked(size_t i) const { return trace_.picked[i] || trace_.evidence[i] || trace_.answer[i]; }

  void show_surroundings(std::vector<bool>& shown) const {
    int64_t until = 0;  // everything before is decided
    auto length = int64_t(shown.size());
    for (int64_t i = 0; i < length; ++i) {
      if (!marked(size_t(i))) continue;
      auto end = std::min(length, i + kAround + 1);
      std::fill(shown.begin() + std::max(until, i - kAround), shown.begin() + end, true);
      until = end;
    }
  }

  // Tokens from `i` on that are decoded together: one, or what completes a character that is
  // several tokens.
  size_t characters_of(size_t i) const {
    constexpr size_t kLongestCharacter = 4;  // bytes of UTF-8
    std::vector<int32_t> ids;
    for (size_t n = 1; n <= kLongestCharacter && i + n <= trace_.tokens.size(); ++n) {
      ids.push_back(trace_.tokens[i + n - 1]);
      if (tokenizer_.decode(ids, true).find("\xEF\xBF\xBD") == std::string::npos) return n;
    }
    return 1;  // the text itself holds U+FFFD
  }

  void write_gap(int64_t hidden) {
    if (hidden == 0) return;
    flush();
    html_ += concat("<span class=\"gap\"> [... ", hidden, " tokens ...] </span>");
  }

  void write_group(size_t begin, size_t end) {
    std::string classes;
    auto any = [&](const std::vector<bool>& flag) {
      return std::any_of(flag.begin() + long(begin), flag.begin() + long(end),
                         [](bool one) { return one; });
    };
    bool picked = any(trace_.picked);
    if (any(trace_.evidence)) classes += " e";
    if (any(trace_.answer)) classes += " a";
    if (picked || classes != run_classes_) flush();
    run_classes_ = classes;
    run_.insert(run_.end(), trace_.tokens.begin() + long(begin), trace_.tokens.begin() + long(end));
    if (picked) write_picked(begin, end);
  }

  void write_picked(size_t begin, size_t end) {
    std::string positions;
    size_t best = end;
    for (size_t i = begin; i < end; ++i) {
      if (!trace_.picked[i]) continue;
      positions += concat(positions.empty() ? "token " : ", token ", i);
      if (best == end || (!trace_.rank.empty() && trace_.rank[i] < trace_.rank[best])) best = i;
    }
    std::string shade;
    if (!trace_.rank.empty()) {
      shade = concat(" p", 1 + 4 * (trace_.rank[best] - 1) / trace_.picks);
      positions += concat(", score ", fixed(trace_.score[best], 3), ", rank ", trace_.rank[best],
                          " of ", trace_.picks, " picked");
    }
    // A blank in front stays outside, since at the end of a line it would be a mark without a word.
    auto text = escaped(tokenizer_.decode(run_, true));
    if (text.size() > 1 && text[0] == ' ') {
      html_ += unpicked(" ");
      text.erase(0, 1);
    }
    html_ += concat("<span class=\"p", shade, run_classes_, "\" title=\"", positions, "\">", text,
                    "</span>");
    run_.clear();
    run_classes_.clear();
  }

  std::string unpicked(const std::string& html) const {
    if (run_classes_.empty()) return html;
    return concat("<span class=\"", run_classes_.substr(1), "\">", html, "</span>");
  }

  // Neighbouring tokens that were not picked and are marked alike.
  void flush() {
    if (run_.empty()) return;
    html_ += unpicked(escaped(tokenizer_.decode(run_, true)));
    run_.clear();
    run_classes_.clear();
  }

  const QuestionTrace& trace_;
  const Tokenizer& tokenizer_;
  std::string html_;
  std::vector<int32_t> run_;  // not yet written
  std::string run_classes_;
};

std::string legend(bool scored) {
  std::string picked =
      scored ? "<span class=\"p p1\">picked</span><span class=\"p p2\">picked</span>"
               "<span class=\"p p3\">picked</span><span class=\"p p4\">picked</span> read by the "
               "model; from the quarter with the best scores to the one with the worst (point at a "
               "token for its position, score and rank)"
             : "<span class=\"p\">picked</span> read by the model (point at a token for its "
               "position)";
  return concat("<p class=\"note legend\">", picked,
                " &middot; <span class=\"e\">evidence</span> what supports the answer &middot; "
                "<span class=\"a\">answer</span> where the gold answer stands</p>\n");
}

std::string facts_table(const QuestionTrace& trace) {
  const auto& result = trace.result;
  std::string rows;
  auto add = [&rows](const char* name, const std::string& html) {
    rows += concat("<tr><th>", name, "</th><td>", html, "</td></tr>\n");
  };
  add("question", escaped(result.question));
  add("gold answers", joined_answers(result.answers));
  add("prediction", escaped(result.prediction));
  add("exact match", concat(result.exact_match > 0 ? "yes" : "no", ", F1 ", fixed(result.f1, 3)));
  add("recall", concat("evidence ", share_text(result.evidence_recall), ", answer tokens ",
                       share_text(result.answer_recall)));
  add("tokens read", concat(trace.picks, " of the document's ", trace.tokens.size()));
  add("budget", escaped(trace.budget));
  return concat("<table>\n", rows, "</table>\n");
}

std::string question_page(const QuestionTrace& trace, const Tokenizer& tokenizer,
                          const TraceRequest& request, const std::string& links) {
  auto title = concat(request.row, ": ", trace.result.id, " (", request.split, ")");
  DocumentWriter document(trace, tokenizer);
  auto note = document.cut()
                  ? concat("<p class=\"note\">The document has ", trace.tokens.size(),
                           " tokens. Shown are those within ", kAround,
                           " of a picked, evidence or answer token; \"[... n tokens ...]\" stands "
                           "for n tokens that are left out.</p>\n")
                  : std::string();
  return concat(page_begin(title), "<nav>", links, "</nav>\n<h1>", escaped(title), "</h1>\n",
                facts_table(trace), legend(!trace.rank.empty()), note, "<div class=\"document\">",
                document.write(), "</div>\n</body></html>\n");
}

std::string index_page(const std::vector<QuestionTrace>& traces,
                       const std::vector<std::string>& files, const TraceRequest& request) {
  auto title = concat(request.row, ": what was read (", request.split, ")");
  std::string rows =
      "<tr><th>page</th><th>question</th><th>gold answers</th><th>prediction</th><th>EM</th>"
      "<th>F1</th><th>evidence recall</th><th>tokens read</th></tr>\n";
  for (size_t i = 0; i < traces.size(); ++i) {
    const auto& result = traces[i].result;
    rows +=
        concat("<tr><td><a href=\"", files[i], "\">", escaped(result.id), "</a></td><td>",
               escaped(result.question), "</td><td>", joined_answers(result.answers), "</td><td>",
               escaped(result.prediction), "</td><td class=\"n\">", fixed(result.exact_match, 0),
               "</td><td class=\"n\">", fixed(result.f1, 3), "</td><td class=\"n\">",
               share_text(result.evidence_recall), "</td><td class=\"n\">", traces[i].picks, " of ",
               traces[i].tokens.size(), "</td></tr>\n");
  }
  return concat(page_begin(title), "<h1>", escaped(title), "</h1>\n<table>\n", rows,
                "</table>\n</body></html>\n");
}

std::string page_file(size_t number, const std::string& row) {
  auto digits = std::to_string(number);
  std::string name = std::string(digits.size() < 3 ? 3 - digits.size() : 0, '0') + digits + "-";
  for (char c : row)
    name +=
        std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' ? c : '_';
  return name + ".html";
}

}  // namespace

std::vector<TracePage> trace_pages(LanguageModel& model, const Loader& loader,
                                   const Tokenizer& tokenizer, const EvalConfig& config,
                                   const PassOptions& options, const TraceRequest& request) {
  std::vector<QuestionTrace> traces;
  std::vector<std::string> files;
  for (int64_t i = 0; i < std::min(request.questions, loader.sequences()); ++i) {
    auto batch = loader.single(i).to(model->device());
    traces.push_back(trace_question(model, batch, tokenizer, config, options, request.budget));
    files.push_back(page_file(traces.size(), request.row));
  }
  std::vector<TracePage> pages;
  for (size_t i = 0; i < traces.size(); ++i) {
    auto link = [&](bool there, size_t to, const char* text) {
      return there ? concat(" &middot; <a href=\"", files[to], "\">", text, "</a>") : "";
    };
    auto links = "<a href=\"index.html\">all pages</a>" + link(i > 0, i - 1, "previous") +
                 link(i + 1 < files.size(), i + 1, "next");
    pages.push_back({files[i], question_page(traces[i], tokenizer, request, links)});
  }
  pages.push_back({"index.html", index_page(traces, files, request)});
  return pages;
}

void write_trace(const std::string& folder, const std::vector<TracePage>& pages) {
  namespace fs = std::filesystem;
  fs::create_directories(folder);
  std::set<std::string> names;
  for (const auto& page : pages) {
    write_file_atomic(folder + "/" + page.file, page.html);
    names.insert(page.file);
  }
  // Pages of an earlier trace, of more questions or another row: the index does not know them.
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(folder)) {
    auto name = entry.path().filename().string();
    auto digits = name.find_first_not_of("0123456789");
    bool numbered = digits != std::string::npos && digits >= 3 && name[digits] == '-';
    if (numbered && entry.path().extension() == ".html" && names.count(name) == 0)
      old.push_back(entry.path());
  }
  for (const auto& path : old) fs::remove(path);
}

}  // namespace dsrsq
