// Python's str.lower.
#pragma once

#include <string>
#include <string_view>

namespace dsrsq::text {

// UTF-8 in, UTF-8 out, for all of Unicode 14; bytes that are not valid UTF-8 become U+FFFD.
std::string lower_case(std::string_view text);
// Of one character whose lower case is one character; else itself.
char32_t lower_code_point(char32_t c);

}  // namespace dsrsq::text
