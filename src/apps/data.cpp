// dsrsq-data: makes, shows and checks data sets. Command bodies: data_commands.cpp.
#include <CLI/CLI.hpp>
#include <iostream>

#include "data_commands.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/data/readers.h"
#include "run_program.h"

namespace {

// As given, so that it can be given again.
std::string command_line(int argc, char** argv) {
  std::string line = "dsrsq-data";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool plain = !argument.empty() &&
                       argument.find_first_of(" \t\n\"'\\$&|;<>()*?[]{}~#`!") == std::string::npos;
    line += " ";
    if (plain) {
      line += argument;
      continue;
    }
    line += "'";
    for (const char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

void add_prepare(CLI::App& app, dsrsq::PrepareOptions& options) {
  std::string formats;
  std::string companions;
  for (const dsrsq::ReaderEntry& entry : dsrsq::reader_table()) {
    formats += (formats.empty() ? "" : " | ") + entry.name;
    if (!entry.companion.empty()) companions += "; " + entry.name + ": " + entry.companion;
  }
  CLI::App* command =
      app.add_subcommand("prepare", "Read files of one format into a data set (HDF5 or JSONL)");
  command
      ->add_option(
          "inputs", options.inputs,
          "Input files, plain, gzip or zstd; a folder of source files for github_code and text, of "
          "stories for cnn_dailymail")
      ->required();
  command
      ->add_option("--format", options.format,
                   formats + "; one for all inputs or, with commas, one for each")
      ->required();
  command
      ->add_option("--companion", options.companions,
                   "A second file that the format is read with, repeatable: one for all inputs or "
                   "one for each" +
                       companions)
      ->allow_extra_args(false);
  command->add_option("--tokenizer", options.tokenizer, "tokenizer.json; of HDF5 alone");
  command
      ->add_option("--output", options.output,
                   "The data set to write, e.g. nq.h5; NAME.jsonl: the records as text, in the "
                   "format jsonl, without tokenizer and splits")
      ->required();
  command->add_option("--split", options.split,
                      "Shares, e.g. train=0.8,validation=0.1,test=0.1; without: one split \"all\"");
  command
      ->add_option("--split-by", options.split_by,
                   "content (default): equal questions and documents are in one split; time: the "
                   "earliest timestamps are in the first split; input: a split of each input's "
                   "own, TASK=FILE or called as the file up to its first dot")
      ->check(CLI::IsMember({"content", "time", "input"}));
  command->add_option("--seed", options.seed, "Seed of the splits and of drawn passages");
  command
      ->add_option("--documents", options.documents,
                   "Contexts of N passages: that of the question among N - 1 of other questions of "
                   "its split that hold no answer")
      ->check(CLI::PositiveNumber);
  command->add_option("--gold", options.gold,
                      "Where the question's own passage stands: first (default), middle, last or "
                      "an index from 0");
  command
      ->add_option("--passages", options.passages,
                   "plain (default): a blank line between them, each title a line; numbered: "
                   "\"Document [1](Title: ...) ...\", a line each, as lost-in-the-middle's prompt")
      ->check(CLI::IsMember({"plain", "numbered"}));
  command->add_option(
      "--questions", options.questions,
      "Of github_code: next_line, docstring, definition, with commas; without: all");
  command
      ->add_option("--maximum-bad", options.maximum_bad,
                   "Bad records that are left out (and listed) in each input before it is an error")
      ->check(CLI::NonNegativeNumber);
  command->callback([&options] { dsrsq::prepare_dataset(options); });
}

void add_synth(CLI::App& app, dsrsq::SynthOptions& options) {
  CLI::App* command = app.add_subcommand(
      "synth",
      "Generate a recall task: tokenizer.json and a data set with train, validation, test");
  command->add_option("--output", options.output, "Folder to write into")->required();
  command->add_option("--name", options.name, "The data set is <name>.h5");
  command->add_option("--config", options.config, "YAML file of the task's settings");
  command->add_option("--set", options.overrides, "key=value, repeatable; e.g. --set task=needle")
      ->allow_extra_args(false);
  command->callback([&options] { dsrsq::synthesise_dataset(options); });
}

void add_stream(CLI::App& app, dsrsq::StreamOptions& options) {
  CLI::App* command = app.add_subcommand(
      "stream",
      "Generate a long text of facts that are updated, with questions asked while it goes on, for "
      "dsrsq-eval --stream; its words are those of synth");
  command->add_option("--output", options.output, "FILE.jsonl to write")->required();
  command->add_option(
      "--dated", options.dated,
      "Instead of generated facts: JSONL of {date, package, version, text} or of commits, "
      "{date, subject, body}, in the order of time; releases, or the changes to a "
      "component, are the facts");
  command->add_option("--tokenizer", options.tokenizer,
                      "tokenizer.json or folder, of --dated: lags are in its tokens");
  command->add_option("--config", options.config, "YAML file of the stream's settings");
  command->add_option("--set", options.overrides, "key=value, repeatable; e.g. --set tokens=200000")
      ->allow_extra_args(false);
  command->callback([&options] { dsrsq::make_stream(options); });
}

void add_inspect(CLI::App& app, dsrsq::InspectOptions& options) {
  CLI::App* command = app.add_subcommand(
      "inspect", "Show what a data set holds; [[evidence]] and {{answer}} are marked");
  command->add_option("file", options.path, "Data set (.h5)")->required();
  command->add_option("--records", options.records, "Show the first K records as text")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--split", options.split, "Only records of this split");
  command->add_option("--tokenizer", options.tokenizer, "tokenizer.json, to decode records");
  command->callback([&options] { dsrsq::inspect_dataset(options); });
}

struct ValidateOptions {
  std::string path;
  std::string tokenizer;
};

void add_validate(CLI::App& app, ValidateOptions& options) {
  CLI::App* command =
      app.add_subcommand("validate", "Check every offset, span and token id of a data set");
  command->add_option("file", options.path, "Data set (.h5)")->required();
  command->add_option("--tokenizer", options.tokenizer,
                      "Check that it was made with this tokenizer.json, and compare answer "
                      "spans with their text");
  command->callback([&options] { dsrsq::validate_dataset(options.path, options.tokenizer); });
}

void add_tokenize(CLI::App& app, dsrsq::TokenizeOptions& options) {
  CLI::App* command = app.add_subcommand(
      "tokenize", "Token ids, byte ranges and decoded text of files, a JSON line for each");
  command->add_option("inputs", options.inputs, "Text files")->required();
  command
      ->add_option("--tokenizer", options.tokenizer,
                   "tokenizer.json, vocab.txt, or a folder with a tokenizer")
      ->required();
  command->callback([&options] { dsrsq::tokenize_files(options); });
}

struct ExportOptions {
  std::string run, folder;
};

void add_export(CLI::App& app, ExportOptions& options) {
  CLI::App* command =
      app.add_subcommand("export", "A trained run as a Hugging Face folder for transformers");
  command->add_option("run", options.run, "A run's folder, or one of its checkpoints")->required();
  command->add_option("folder", options.folder, "The new folder")->required();
  command->callback([&options] { dsrsq::export_run(options.run, options.folder); });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Makes, shows and checks DSRSQ data sets.", "dsrsq-data");
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of all commands");
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "debug, info, warning or error")
      ->each([](const std::string& name) { dsrsq::set_log_level(dsrsq::parse_log_level(name)); });
  dsrsq::PrepareOptions prepare;
  dsrsq::SynthOptions synth;
  dsrsq::StreamOptions stream;
  dsrsq::InspectOptions inspect;
  ValidateOptions validate;
  dsrsq::TokenizeOptions tokenize;
  ExportOptions exported;
  prepare.command = synth.command = command_line(argc, argv);
  add_prepare(app, prepare);
  add_synth(app, synth);
  add_stream(app, stream);
  add_inspect(app, inspect);
  add_validate(app, validate);
  add_tokenize(app, tokenize);
  add_export(app, exported);
  return dsrsq::run_program(app, argc, argv, [] {});  // the subcommands work in their callbacks
}
