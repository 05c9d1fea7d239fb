// dsrsq-train: trains one method as a YAML file says. Exit codes: design section 4,
// include/dsrsq/core/error.h.
#include <torch/torch.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "dsrsq/core/logging.h"
#include "dsrsq/methods/dsrsq_kernel.h"
#include "dsrsq/model/pretrained.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"
#include "run_program.h"

namespace {

struct Options {
  std::string config, output_dir, device, resume = "auto", log_level = "info", profile;
  std::vector<std::string> overrides;
  int64_t seed = -1;
  int64_t launch = 1;
  bool dry_run = false;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--config", options.config, "YAML file, or a name in configs/")->required();
  app.add_option("--set", options.overrides, "a.b=c: overrides one key (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--output-dir", options.output_dir, "run folder; default runs/<config name>");
  app.add_option("--device", options.device, "cpu, cuda, cuda:N; overrides train.device");
  app.add_option("--seed", options.seed, "overrides train.seed");
  app.add_option("--resume", options.resume, "auto, never, or a checkpoint's folder")
      ->capture_default_str();
  app.add_flag("--dry-run", options.dry_run, "describe the run, do one step, write nothing");
  app.add_option(
         "--profile", options.profile,
         "SKIP:COUNT: after SKIP steps, records COUNT of them into the run folder's profile/")
      ->expected(0, 1)
      ->default_str("10:5");
  app.add_option("--launch", options.launch, "processes on this machine");
  app.add_option("--log-level", options.log_level, "debug, info, warning, error")
      ->capture_default_str();
}

// A state.json whose checksum is right may still be another program's.
void resume(dsrsq::Trainer& trainer, const dsrsq::Checkpoint& from) {
  try {
    trainer.resume(from);
  } catch (const nlohmann::json::exception& error) {
    throw dsrsq::CheckpointError(
        dsrsq::concat(from.folder, "/state.json: expected a run's state: ", error.what()));
  }
}

// What serves attention over clusters in the training steps.
void log_sqa_kernel(const dsrsq::RunConfig& config, at::Device device) {
  using namespace dsrsq;
  const auto& sqa = config.dsrsq.sqa;
  auto type = config.train.precision == "bf16" ? at::kBFloat16 : at::kFloat;
  auto obstacle =
      operator_obstacle(sqa, config.model, device, type, config.dsrsq.counts_attention());
  if (sqa.kernel == "native" && !obstacle.empty())
    throw ConfigError(
        concat("sqa.kernel: expected auto, aten or masked_dense, got native, which cannot "
               "serve ",
               obstacle, "; change sqa.kernel or that"));
  log_info(describe_sqa_kernel(config.dsrsq, config.model, device, type));
}

// What enters and reads the latents.
void log_rckv_kernel(const dsrsq::RunConfig& config, at::Device device) {
  using namespace dsrsq;
  const auto& rckv = config.dsrsq.rckv;
  auto obstacle = latent_obstacle(rckv, config.model, device);
  if (rckv.kernel == "native" && !obstacle.empty())
    throw ConfigError(concat("rckv.kernel: expected auto or aten, got native, which cannot serve ",
                             obstacle, " on ", device.str(), "; change rckv.kernel or that"));
  log_info(describe_rckv_kernel(rckv, config.model, device));
}

void run(Options& options, const std::vector<std::string>& command) {
  using namespace dsrsq;
  set_log_level(parse_log_level(options.log_level));

  std::optional<ProfileSteps> profile;
  if (!options.profile.empty()) profile = parse_profile_steps(options.profile);
  if (options.launch != 1)
    throw ConfigError("--launch: expected 1, several processes are not built yet");
  if (!options.device.empty()) options.overrides.push_back("train.device=" + options.device);
  if (options.seed >= 0) options.overrides.push_back("train.seed=" + std::to_string(options.seed));
  auto config = load_run_config({options.config, options.overrides, config_search_folders()});
  auto folder = options.output_dir.empty()
                    ? "runs/" + std::filesystem::path(options.config).stem().string()
                    : options.output_dir;

  config.require_data();
  set_determinism(config.train.threads);
  auto device = parse_device(config.train.device);
  auto tokenizer = Tokenizer::from_file(config.data.tokenizer);
  auto model = make_model(config, tokenizer);
  bool pretrained = config.model.init != "random";
  model->to(device);
  if (config.dsrsq.sqa.enabled && config.method == "dsrsq") log_sqa_kernel(config, device);
  if (config.dsrsq.rckv.enabled && config.method == "dsrsq") log_rckv_kernel(config, device);
  if (options.dry_run) {
    if (pretrained) load_pretrained(model->backbone(), PretrainedFolder(config.model.init));
    Trainer trainer(config, model, tokenizer, folder);
    Store store(config.data.train);
    std::cout << describe_run(config, model, store.info().longest_document) << std::flush;
    auto values = trainer.train_step();
    std::cout << "one step: loss " << values["train/loss"] << ", " << values["train/seconds"]
              << " s on " << config.train.device << "\n";
    return;
  }
  install_stop_handlers();  // a signal while the run starts is heeded after its first step
  Trainer trainer(config, model, tokenizer,
                  folder);  // looks at the data before anything is written
  auto from = open_run_folder(folder, config, options.resume, command);
  set_log_file(folder + "/log.txt");
  log_info("run folder ", folder);
  if (!from && pretrained) load_pretrained(model->backbone(), PretrainedFolder(config.model.init));
  if (from)
    resume(trainer, *from);
  else if (!config.train.start_from.empty())
    trainer.start_from(find_checkpoint(config.train.start_from, true));
  if (trainer.step() >= total_steps(config.stages)) {
    log_info("all ", trainer.step(), " steps are done");
    return;
  }
  if (profile) trainer.profile(*profile);
  trainer.run();
  log_info("done: ", folder);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains a model that answers questions over long text (DSRSQ)."};
  Options options;
  add_options(app, options);
  return dsrsq::run_program(app, argc, argv, [&] { run(options, {argv, argv + argc}); });
}
