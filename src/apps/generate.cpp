// dsrsq-generate: answers questions about a file or an endless stream, with a trained run or a
// pretrained folder.
#include "dsrsq/model/generate.h"

#include <torch/torch.h>

#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"
#include "generate_stream.h"
#include "run_program.h"

namespace {

using namespace dsrsq;

struct Options {
  std::string model, config, method, context, device, log_level = "warning";
  std::vector<std::string> overrides, questions, stop;
  int64_t threads = 0, budget = 0, timed_rounds = 0;
  GenerateOptions generate{.maximum_tokens = 64};
  StreamRequest stream;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "a run's folder or checkpoint, or a Hugging Face folder")
      ->required();
  app.add_option("--config", o.config,
                 "for a Hugging Face folder: YAML of method and prompt; default: standard");
  app.add_option("--set", o.overrides, "a.b=c: overrides one key (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--method", o.method,
                 "read with this method instead: standard, bm25, random, ...");
  app.add_option("--context", o.context, "text file; -: standard input; without it: closed book");
  app.add_option("--question", o.questions, "repeatable: several are answered as one batch")
      ->allow_extra_args(false);
  add_stream_options(app, o.stream);
  app.add_option("--budget", o.budget,
                 "tokens of the context that are read, of a stream's store that are brought back; "
                 "0: the method's own");
  app.add_option("--max-tokens", o.generate.maximum_tokens, "of an answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--temperature", o.generate.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--top-k", o.generate.top_k, "sample from the k most probable tokens; 0: all")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", o.generate.top_p, "and from the fewest that reach this probability")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--stop", o.stop, "text that ends an answer (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--seed", o.generate.seed, "of the sampling");
  app.add_option("--device", o.device, "cpu, cuda, cuda:N; overrides train.device");
  app.add_option("--threads", o.threads, "0: all");
  app.add_option(
         "--time", o.timed_rounds,
         "instead of the answers: one untimed round, then this many, each a line of JSON "
         "with its tokens and seconds; every answer has --max-tokens, whatever would end it")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--log-level", o.log_level, "debug, info, warning, error")->capture_default_str();
}

std::string read_context(const std::string& path) {
  if (path.empty()) return "";
  if (path != "-") return read_file(path);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

// The answer up to the first stop text.
std::string cut(std::string text, const std::vector<std::string>& stops) {
  for (const auto& stop : stops)
    if (auto at = text.find(stop); at != std::string::npos) text.resize(at);
  return text;
}

// The rounds of --time, a line each as soon as it is done.
void print_timings(LanguageModel& model, const Batch& batch, const PassOptions& pass,
                   GenerateOptions settings, int64_t rounds) {
  settings.end_id = -1;
  settings.stop = nullptr;
  for (int64_t round = 0; round <= rounds; ++round) {
    auto generated = generate(model, batch, pass, settings);
    if (round == 0) continue;
    auto prompt = generated.state.selected.mask.sum() + batch.tail_valid.sum();
    std::cout << nlohmann::json{{"sequences", batch.size()},
                                {"prompt_tokens",
                                 prompt.item<int64_t>() +
                                     batch.size() * model->backbone()->config().sinks},
                                {"select_seconds", generated.select_seconds},
                                {"prefill_seconds", generated.prefill_seconds},
                                {"decoded_tokens", generated.decoded_tokens},
                                {"decode_seconds", generated.decode_seconds}}
              << std::endl;
  }
}

void require_one_input(const Options& options) {
  const auto& stream = options.stream;
  if (stream.stream && (!options.questions.empty() || !options.context.empty()))
    throw ConfigError(
        "--stream: expected text and questions on standard input, got --question or --context");
  if (!stream.stream && options.questions.empty())
    throw ConfigError("--question: expected one, or --stream, got neither");
  if (!stream.stream && (!stream.store.empty() || !stream.snapshot.empty()))
    throw ConfigError("--store and --snapshot: expected with --stream alone, got no --stream");
}

void run(Options& options) {
  set_log_level(parse_log_level(options.log_level));
  require_one_input(options);
  set_determinism(options.threads);
  if (!options.device.empty()) options.overrides.push_back("train.device=" + options.device);
  auto source = find_model(options.model, options.config, options.overrides);
  auto opened = open_model(source);
  const auto& tokenizer = *opened.tokenizer;
  auto model = opened.model;
  if (!options.method.empty() && options.method != source.config.method)
    model = with_method(model, options.method, source.config);
  auto& settings = options.generate;
  settings.end_id = tokenizer.end_id();
  settings.stop = [&](const std::vector<int32_t>& tokens) {
    auto text = tokenizer.decode(tokens);
    return cut(text, options.stop).size() < text.size();
  };
  if (options.stop.empty()) settings.stop = nullptr;
  model->eval();
  if (options.stream.stream)
    return run_stream(opened, source, options.stream, options.budget, settings,
                      [&](const std::vector<int32_t>& tokens) {
                        return cut(tokenizer.decode(tokens), options.stop);
                      });
  auto context = read_context(options.context);
  std::vector<TextQuestion> sequences;
  for (const auto& question : options.questions) sequences.push_back({context, question});
  auto encoder = encoder_collator(source.config);
  auto batch =
      collate_text(tokenizer, source.config.prompt, sequences, encoder.get()).to(model->device());
  PassOptions pass;
  pass.budget = options.budget;
  pass.select_per_segment = source.config.stages.back().selection == "config";
  if (options.timed_rounds > 0)
    return print_timings(model, batch, pass, settings, options.timed_rounds);
  auto generated = generate(model, batch, pass, settings);
  for (size_t i = 0; i < options.questions.size(); ++i) {
    if (options.questions.size() > 1) std::cout << options.questions[i] << "\n";
    std::cout << cut(tokenizer.decode(generated.tokens[i]), options.stop) << "\n";
  }
  auto read = generated.state.selected.mask.sum().item<int64_t>() / batch.size();
  log_info("context ", batch.context_valid.sum(1).max().item<int64_t>(), " tokens, read ", read,
           "; choosing ", generated.select_seconds, " s, prefill ", generated.prefill_seconds,
           " s, decoding ", generated.decode_seconds, " s (",
           double(generated.decoded_tokens) / std::max(1e-9, generated.decode_seconds),
           " tokens/s)");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Answers questions about a text (DSRSQ)."};
  Options options;
  add_options(app, options);
  return dsrsq::run_program(app, argc, argv, [&] { run(options); });
}
