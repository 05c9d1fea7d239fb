// Longest common subsequences. Private to src/text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsrsq::text {

// Rows of the table of lengths L(i, j) of longest common subsequences of prefixes, one by one.
// `on_cell(i, j, left, up)` gets L(i, j - 1) and L(i - 1, j), from 1. Returns the last length.
template <typename Sequence, typename OnCell>
uint32_t longest_common_subsequence(const Sequence& reference, const Sequence& prediction,
                                    const OnCell& on_cell) {
  std::vector<uint32_t> row(prediction.size() + 1, 0);
  for (size_t i = 1; i <= reference.size(); ++i) {
    uint32_t diagonal = 0;
    for (size_t j = 1; j <= prediction.size(); ++j) {
      const uint32_t up = row[j];
      on_cell(i, j, row[j - 1], up);
      row[j] = reference[i - 1] == prediction[j - 1] ? diagonal + 1 : std::max(up, row[j - 1]);
      diagonal = up;
    }
  }
  return row.back();
}

template <typename Sequence>
uint32_t longest_common_subsequence(const Sequence& reference, const Sequence& prediction) {
  return longest_common_subsequence(reference, prediction,
                                    [](size_t, size_t, uint32_t, uint32_t) {});
}

// Where both ways back are as long: to a shorter reference, or to a shorter prediction.
enum class EqualWays { kUp, kLeft };

// Marks the reference's items of one longest common subsequence: the one that is found from the
// end.
template <typename Sequence>
void mark_common(const Sequence& reference, const Sequence& prediction, EqualWays equal,
                 std::vector<bool>& marked) {
  const size_t columns = prediction.size();
  std::vector<bool> goes_left(reference.size() * columns);
  longest_common_subsequence(reference, prediction,
                             [&](size_t i, size_t j, uint32_t left, uint32_t up) {
                               goes_left[(i - 1) * columns + j - 1] =
                                   left > up || (equal == EqualWays::kLeft && left == up);
                             });
  for (size_t i = reference.size(), j = columns; i > 0 && j > 0;) {
    if (reference[i - 1] == prediction[j - 1]) {
      marked[i - 1] = true;
      --i, --j;
    } else if (goes_left[(i - 1) * columns + j - 1]) {
      --j;
    } else {
      --i;
    }
  }
}

}  // namespace dsrsq::text
