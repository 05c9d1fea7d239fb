// What every program's main does around its work: options, errors, exit codes
// (include/dsrsq/core/error.h).
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <filesystem>

#include "dsrsq/core/logging.h"

namespace dsrsq {

// Parses, runs `work`, logs what went wrong in one line. Usage errors exit with ExitCode::kConfig.
template <typename Work>
int run_program(CLI::App& app, int argc, char** argv, const Work& work) {
  try {
    app.parse(argc, argv);  // a subcommand's callback may do its work here
    work();
    return int(ExitCode::kDone);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? int(ExitCode::kDone) : int(ExitCode::kConfig);
  } catch (const Error& error) {
    log_error(error.what());
    return int(error.exit_code());
  } catch (const std::filesystem::filesystem_error& error) {
    // What a program reads it opens itself, with errors of its own; folders are made for output.
    log_error(error.path1().string(), ": ", error.code().message());
    return int(ExitCode::kCheckpoint);
  } catch (const std::exception& error) {
    log_error("internal error: ", error.what());
    return int(ExitCode::kInternal);
  }
}

}  // namespace dsrsq
