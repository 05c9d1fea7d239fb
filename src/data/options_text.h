// Questions with options to choose from. Private to src/data.
#pragma once

#include <string>
#include <vector>

namespace dsrsq {

// The question and its options, a line each: "(A) ...". White space around an option is dropped.
std::string with_options(const std::string& question, const std::vector<std::string>& options);

}  // namespace dsrsq
