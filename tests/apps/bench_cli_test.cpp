// dsrsq-bench: the options of all suites live in one command line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TinyProject;

ProgramResult bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "dsrsq-bench");
  return run_program(arguments, TinyProject::get().folder() + "/output-bench");
}

TEST(BenchProgram, NamesItsSuites) {
  auto help = bench({"--help"});
  EXPECT_EQ(help.code, 0) << help.err;
  for (const char* suite :
       {"attention", "trained", "train", "generate", "stream", "retrieval", "latent", "data"})
    EXPECT_THAT(help.out, HasSubstr(suite));
}

TEST(BenchProgram, AnUnknownSuiteIsAUsageError) {
  auto result = bench({"--suite", "tea", "--output", "tea.json"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("--suite"));
}

}  // namespace
}  // namespace dsrsq
