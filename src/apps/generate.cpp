// dsrsq-generate: answers questions about a file, with a trained run or a pretrained folder.
#include "dsrsq/model/generate.h"

#include <torch/torch.h>

#include <filesystem>
#include <iostream>
#include <iterator>

#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/model/pretrained.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/named_tensors.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"
#include "run_program.h"

namespace {

using namespace dsrsq;

struct Options {
  std::string model, config, method, context, device = "cpu", log_level = "warning";
  std::vector<std::string> overrides, questions, stop;
  int64_t threads = 0, budget = 0;
  GenerateOptions generate{.maximum_tokens = 64};
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
      ->required()
      ->allow_extra_args(false);
  app.add_option("--budget", o.budget, "tokens of the context that are read; 0: the method's own");
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
  app.add_option("--device", o.device, "cpu, cuda, cuda:N")->capture_default_str();
  app.add_option("--threads", o.threads, "0: all");
  app.add_option("--log-level", o.log_level, "debug, info, warning, error")->capture_default_str();
}

struct Reader {
  RunConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  LanguageModel model{nullptr};
};

Reader open_reader(const Options& options) {
  Reader reader;
  auto overrides = options.overrides;
  bool pretrained = std::filesystem::exists(options.model + "/config.json");
  if (pretrained) {
    overrides.insert(overrides.begin(), "model.init=" + options.model);
    if (options.config.empty()) overrides.insert(overrides.begin(), "method=standard");
    reader.config = load_run_config({options.config, overrides, config_search_folders()});
  } else {
    reader.config = load_run_folder_config(run_folder_of(options.model), overrides);
  }
  reader.tokenizer =
      std::make_unique<Tokenizer>(Tokenizer::from_file(reader.config.data.tokenizer));
  reader.model = make_model(reader.config, *reader.tokenizer);
  if (pretrained) {
    load_pretrained(reader.model->backbone(), PretrainedFolder(options.model));
  } else {
    auto checkpoint = find_checkpoint(options.model, true);
    load_module_tensors(*reader.model, CheckpointFolder::read_model(checkpoint), checkpoint.folder);
  }
  reader.model->to(parse_device(options.device));
  if (options.method.empty() || options.method == reader.config.method) return reader;
  auto method = find_method(options.method).make(reader.config, reader.model->shared_method());
  reader.model = LanguageModel(reader.model->backbone(), method, reader.model->begin_id(),
                               reader.model->prefix());
  return reader;
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

void run(Options& options) {
  set_log_level(parse_log_level(options.log_level));
  set_determinism(options.threads);
  auto reader = open_reader(options);
  auto context = read_context(options.context);
  std::vector<TextQuestion> sequences;
  for (const auto& question : options.questions) sequences.push_back({context, question});
  auto batch =
      collate_text(*reader.tokenizer, reader.config.prompt, sequences).to(reader.model->device());
  PassOptions pass;
  pass.budget = options.budget;
  pass.select_per_segment = reader.config.stages.back().selection == "config";
  auto& settings = options.generate;
  settings.end_id = reader.tokenizer->end_id();
  settings.stop = [&](const std::vector<int32_t>& tokens) {
    auto text = reader.tokenizer->decode(tokens);
    return cut(text, options.stop).size() < text.size();
  };
  if (options.stop.empty()) settings.stop = nullptr;
  reader.model->eval();
  auto generated = generate(reader.model, batch, pass, settings);
  for (size_t i = 0; i < options.questions.size(); ++i) {
    if (options.questions.size() > 1) std::cout << options.questions[i] << "\n";
    std::cout << cut(reader.tokenizer->decode(generated.tokens[i]), options.stop) << "\n";
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
