#include "generate_stream.h"

#include <torch/torch.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/memory.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/methods/text_stream.h"
#include "dsrsq/train/stream_snapshot.h"
#include "dsrsq/train/trainer.h"
#include "generate_pipe.h"

namespace dsrsq {

void add_stream_options(CLI::App& app, StreamRequest& r) {
  app.add_flag("--stream", r.stream,
               "follow standard input without end, segment by segment at constant memory; lines "
               "that begin with --marker are questions, answered a line each");
  app.add_option("--marker", r.marker, "stream: what a question's line begins with")
      ->capture_default_str();
  app.add_option(
      "--document-end", r.document_end,
      "stream: a line of exactly this ends a document: the memory begins anew, the store "
      "is searched on");
  app.add_option(
      "--store", r.store,
      "stream: file of all history, searched for every question (rckv.store: disk); made "
      "where there is none");
  app.add_option(
      "--snapshot", r.snapshot,
      "stream: folder to save the memory in, at the end, on SIGUSR1, and before ending on "
      "SIGTERM or SIGINT (exit code 75); where it exists, the stream goes on from it");
  app.add_option("--snapshot-every", r.snapshot_every, "stream: tokens; 0: only then")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag(
      "--replay", r.replay,
      "stream: with --snapshot, standard input begins where the stream once began, and not "
      "behind what the snapshot has read");
  app.add_option("--position-range", r.position_range,
                 "stream: positions that tokens may have; 0: as many as tokens are held")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--status-every", r.status_every,
                 "stream: tokens between two lines on standard error; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--metrics", r.metrics,
                 "stream: file that gets what the status says and every answer as a line of JSON");
}

namespace {

using nlohmann::json;

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

class StreamProgram {
 public:
  StreamProgram(OpenModel& opened, const ModelSource& source, const StreamRequest& request,
                int64_t budget)
      : model_(opened.model),
        tokenizer_(*opened.tokenizer),
        prompt_(source.config.prompt),
        request_(request),
        weights_(request.snapshot.empty() ? "" : weights_fingerprint(*opened.model)),
        stream_(opened.model, stream_options(opened, source, request, budget)),
        segment_(source.config.dsrsq.rckv.segment) {
    if (!request.metrics.empty()) metrics_ = std::make_unique<AppendFile>(request.metrics);
    resume();
    status_tokens_ = snapshot_tokens_ = stream_.tokens();
  }

  void run(const GenerateOptions& generate,
           const std::function<std::string(const std::vector<int32_t>&)>& text_of) {
    std::string line;
    while (true) {
      auto event = pipe_.next(line);
      if (event == LinePipe::Event::kSignal) {
        auto signals = pipe_.take_signals();
        if (signals.snapshot || signals.stop) save();
        if (signals.stop)
          throw StoppedError(concat("stopped by a signal after ", stream_.tokens(), " tokens, ",
                                    pipe_.bytes(), " bytes"));
        continue;
      }
      if (event == LinePipe::Event::kEnd) break;
      bool begins = !pipe_.continues();
      if (begins && line.compare(0, request_.marker.size(), request_.marker) == 0) {
        answer(line.substr(request_.marker.size()), generate, text_of);
      } else if (begins && !request_.document_end.empty() && line == request_.document_end + "\n") {
        stream_.end_document();
      } else {
        read(line);
      }
    }
    status();
    save();
  }

 private:
  static TextStreamOptions stream_options(OpenModel& opened, const ModelSource& source,
                                          const StreamRequest& request, int64_t budget) {
    TextStreamOptions options;
    options.position_range = request.position_range;
    options.budget = budget;
    if (source.config.dsrsq.rckv.store == "disk" && request.store.empty())
      throw ConfigError(
          "rckv.store: expected --store FILE with disk, got none; give one, or --set "
          "rckv.store=none");
    if (request.store.empty()) return options;
    Timer timer;
    options.histories = {
        std::make_shared<HistoryStore>(request.store, TextStream::history_layout(opened.model))};
    const auto& history = *options.histories[0];
    log_info(request.store, ": ", history.tokens(), " tokens, ", bytes_text(history.bytes()),
             ", verified in ", timer.seconds(), " s");
    return options;
  }

  void resume() {
    if (request_.snapshot.empty() || !std::filesystem::exists(request_.snapshot)) return;
    auto snapshot = load_stream_snapshot(request_.snapshot, weights_);
    stream_.restore(snapshot.tensors, request_.snapshot);
    questions_ = snapshot.questions;
    if (request_.replay) pipe_.skip(snapshot.input_bytes);
    read_before_ = snapshot.input_bytes - pipe_.bytes();
    log_warning(request_.snapshot, ": resumed at ", stream_.tokens(), " tokens, byte ",
                snapshot.input_bytes, " of the text, after ", questions_, " questions");
  }

  void read(const std::string& line) {
    auto ids = tokenizer_.encode(line);
    Timer timer;
    auto core_seconds = process_core_seconds();
    // The segment before a status is looked at more closely.
    auto ahead = int64_t(ids.size()) + segment_;
    if (due(status_tokens_, request_.status_every, ahead)) stream_.observe_next_segment();
    stream_.feed(ids);
    reading_seconds_ += timer.seconds();
    reading_core_seconds_ += process_core_seconds() - core_seconds;
    if (due(status_tokens_, request_.status_every, 0)) status();
    if (due(snapshot_tokens_, request_.snapshot_every, 0)) save();
  }

  bool due(int64_t last, int64_t every, int64_t ahead) const {
    return every > 0 && stream_.tokens() + ahead - last >= every;
  }

  void answer(const std::string& text, const GenerateOptions& generate,
              const std::function<std::string(const std::vector<int32_t>&)>& text_of) {
    double probability = 0;
    auto settings = generate;
    settings.prompt_read = [&](const at::Tensor& hidden, const MethodState&) {
      auto logits = model_->backbone()->logits(hidden.select(1, hidden.size(1) - 1));
      probability = at::softmax(logits, -1).max().item<double>();
    };
    auto question = one_line(text.substr(0, text.find_last_not_of("\r\n") + 1));
    auto ids = encode_template(tokenizer_, prompt_.question, "{question}", question);
    StreamReply reply;
    try {
      reply = stream_.answer({ids}, settings);
    } catch (const ConfigError& error) {  // one question is too long: the stream goes on
      log_error(quote(question), ": ", error.what());
      return write_to_pipe("\n");
    }
    auto said = one_line(text_of(reply.generated.tokens[0]));
    write_to_pipe(said + "\n");
    ++questions_;
    json line{{"event", "answer"},
              {"tokens", stream_.tokens()},
              {"question", question},
              {"answer", said},
              {"probability", probability},  // of the likeliest first token
              {"seconds", reply.generated.prefill_seconds + reply.generated.decode_seconds}};
    if (!stream_.histories().empty()) {
      line["scanned_tokens"] = reply.scanned_tokens;
      line["scanned_bytes"] = reply.scanned_bytes;
      line["scan_seconds"] = reply.scan_seconds;
      line["brought_back"] = reply.brought_back[0];
      log_info("scan: ", reply.scanned_tokens, " tokens, ",
               bytes_text(uint64_t(reply.scanned_bytes)), " in ", reply.scan_seconds, " s");
    }
    record(line);
  }

  void status() {
    auto health = stream_.health();
    auto read = stream_.tokens() - status_tokens_;
    auto rate = double(read) / std::max(1e-9, reading_seconds_);
    auto memory = own_memory_bytes();
    log_line(LogLevel::kInfo,
             concat(health.tokens, " tokens, ", int64_t(rate), " tokens/s; memory ",
                    bytes_text(uint64_t(health.state_bytes)), " of ",
                    bytes_text(uint64_t(std::max<int64_t>(0, memory))), "; ", health.latents,
                    " of ", health.latents_of, " older pairs held, age ",
                    int64_t(health.age_median), " (oldest ", int64_t(health.age_oldest), ")"));
    json line{{"event", "status"},
              {"tokens", health.tokens},
              {"segments", health.segments},
              {"input_bytes", read_before_ + pipe_.bytes()},
              {"read_tokens", read},
              {"read_seconds", reading_seconds_},
              {"read_core_seconds", reading_core_seconds_},
              {"state_bytes", health.state_bytes},
              {"rss_anon_bytes", memory},
              {"latents", health.latents},
              {"latents_of", health.latents_of},
              {"age_median", health.age_median},
              {"age_oldest", health.age_oldest},
              {"latent_key_norm", health.key_norm},
              {"latent_value_norm", health.value_norm},
              {"window_key_norm", health.window_key_norm},
              {"priority_median", health.priority_median},
              {"latent_attention", health.latent_mass},
              {"finite", health.finite}};
    for (const auto& history : stream_.histories()) {
      history->sync();
      line["store_tokens"] = history->tokens();
      line["store_bytes"] = history->bytes();
    }
    record(line);
    if (!health.finite)
      throw DivergedError(concat("after ", health.tokens,
                                 " tokens: what the stream remembers is not finite; the last "
                                 "snapshot is untouched"));
    status_tokens_ = stream_.tokens();
    reading_seconds_ = reading_core_seconds_ = 0;
  }

  void save() {
    snapshot_tokens_ = stream_.tokens();
    for (const auto& history : stream_.histories()) history->sync();
    if (request_.snapshot.empty()) return;
    Timer timer;
    save_stream_snapshot(request_.snapshot,
                         {weights_, read_before_ + pipe_.bytes(), questions_, stream_.tensors()});
    log_info("saved ", request_.snapshot, " in ", timer.seconds(), " s");
    record({{"event", "snapshot"}, {"tokens", stream_.tokens()}, {"seconds", timer.seconds()}});
  }

  void record(const json& line) {
    if (metrics_)
      metrics_->append(line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
  }

  LanguageModel model_;
  const Tokenizer& tokenizer_;
  const PromptConfig& prompt_;
  const StreamRequest& request_;
  std::string weights_;
  LinePipe pipe_;
  TextStream stream_;
  std::unique_ptr<AppendFile> metrics_;
  int64_t read_before_ = 0;  // bytes of the text that this process did not get
  int64_t questions_ = 0, status_tokens_ = 0, snapshot_tokens_ = 0;
  int64_t segment_;
  double reading_seconds_ = 0, reading_core_seconds_ = 0;  // since the last status
};

}  // namespace

void run_stream(OpenModel& opened, const ModelSource& source, const StreamRequest& request,
                int64_t budget, const GenerateOptions& generate,
                const std::function<std::string(const std::vector<int32_t>&)>& text_of) {
  StreamProgram(opened, source, request, budget).run(generate, text_of);
}

}  // namespace dsrsq
