// Dense arithmetic on small fp32 tiles that lie in the cache, for the fused operators on a CPU:
// each call is one thread's, allocates nothing and starts no parallel region. The code is compiled
// once for each instruction set (cpu_tiles_*.cpp); cpu_tiles() is the best that this machine runs.
//
// A panel holds 16 columns: B as the right factor of a product is [panels][inner][16], so that the
// columns of one step lie in one cache line. A row-major [inner][columns] is panels as well, whose
// strides are 16 and `columns`.
#pragma once

#include <cstdint>

namespace dsrsq::ops {

constexpr int64_t kPanel = 16;  // columns

constexpr int64_t panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// C = keep * C + A B, each entry by one chain of additions over `inner` in ascending order,
// whatever the other sizes: an entry does not depend on the tile that it is computed in.
struct TileProduct {
  int64_t rows, inner, panels;
  const float* a;  // entry (r, i) at (a_index ? a_index[r] : r) * a_row + i * a_inner
  int64_t a_row, a_inner;
  const float* b;  // entry (i, c) at c / 16 * b_panel + i * b_inner + c % 16
  int64_t b_panel, b_inner;
  float* c;  // entry (r, c) at (c_index ? c_index[r] : r) * c_row + c
  int64_t c_row;
  const int32_t* a_index = nullptr;
  const int32_t* b_index = nullptr;  // null, or row i of B lies at b_index[i] * b_inner
  const int32_t* c_index = nullptr;  // distinct
  const float* keep = nullptr;       // a factor a row; none: 0, and C is not read
};

// Logits to weights of an online softmax, in powers of two: row by row
//   x = scale * logit + bias[column], seen for columns in [from, to), and
//   maximum' = max(maximum, x), weight = 2^(x - maximum'), 0 where unseen,
//   kept = 2^(maximum - maximum'), sum' = kept * sum + the weights.
struct TileSoftmax {
  int64_t rows, columns;  // columns: a multiple of 16
  float* logits;          // becomes the weights
  int64_t row;            // stride
  float scale;
  const float* bias;           // [columns], -infinity hides a column
  const int32_t *from, *to;    // [rows]; from null: 0
  const int32_t* state_index;  // of row r in the three that follow; null: r
  float *maximum, *sum;
  float* kept;  // [rows]
};

// Gradients of the logits: weight = 2^(scale * logit + bias - lse), 0 where unseen, and
// d_logit = weight * (d_weight - delta).
struct TileSoftmaxBackward {
  int64_t rows, columns;
  float* logits;     // becomes the weights
  float* d_weights;  // becomes the gradients of the logits
  int64_t row;
  float scale;
  const float* bias;
  const int32_t *from, *to;
  const float *lse, *delta;  // [rows]; lse to base 2, +infinity for a row that sees nothing
  float* d_bias;             // [columns], added to; null: not wanted
};

// Best of the rows of a score tile, column by column; ties go to the lower row, and what is not a
// number comes last.
struct TileBest {
  int64_t rows, panels, best;  // best <= rows
  const float* scores;         // entry (r, c) at r * row + c
  int64_t row;
  const float* bias;  // [rows], null: none
  float* values;      // scratch of best * 16
  int32_t* index;     // entry (place, c) at place * row + c
};

struct CpuTiles {
  const char* name;
  void (*multiply)(const TileProduct&);
  void (*softmax)(const TileSoftmax&);
  void (*softmax_backward)(const TileSoftmaxBackward&);
  void (*best)(const TileBest&);
};

const CpuTiles& cpu_tiles();

}  // namespace dsrsq::ops
