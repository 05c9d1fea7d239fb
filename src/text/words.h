// Words as Python's str.split() sees them. Shared by the answer metrics.
#pragma once

#include <string_view>
#include <vector>

namespace dsrsq::text {

// str.isspace, which str.split and str.strip cut at: with the separators 0x1C to 0x1F, unlike
// Unicode's White_Space.
bool is_python_space(char32_t c);
std::vector<std::string_view> split_white_space(std::string_view text);  // never an empty word
std::string_view strip_right(std::string_view text);

}  // namespace dsrsq::text
