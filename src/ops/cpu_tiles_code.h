// The code of cpu_tiles.h for one instruction set: included by each cpu_tiles_*.cpp, which defines
// DSRSQ_TILES_NAME and is compiled with that set's flags. Nothing here may have external linkage or
// call a function of a header that does: the linker would keep one of the three copies for all.
#include <cstdint>
#include <utility>

#include "cpu_tiles.h"

namespace dsrsq::ops {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 4;  // of a product's block: 6 x 4 sums in 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8, kVectors = 2;
#else
constexpr int kLanes = 4, kVectors = 2;
#endif
constexpr int kRows = 6;
constexpr int kParts = kPanel / kLanes;  // vectors of a panel

using Vector = float __attribute__((vector_size(kLanes * 4)));
using Integers = int32_t __attribute__((vector_size(kLanes * 4)));
using Unsigned = uint32_t __attribute__((vector_size(kLanes * 4)));
using Unaligned = float __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
using UnalignedIntegers = int32_t __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector x) { *reinterpret_cast<Unaligned*>(p) = x; }
inline Vector broadcast(float x) { return x - Vector{}; }
constexpr float kInfinity = __builtin_inff();

// One block of the product, its sums in registers. `first`: of the block's vectors.
template <int rows, int vectors, bool indexed>
inline void multiply_block(const TileProduct& t, int64_t row, int64_t first) {
  const float* a[rows];
  float* c[rows];
  const float* b[vectors];
  for (int r = 0; r < rows; ++r) {
    a[r] = t.a + (t.a_index ? t.a_index[row + r] : row + r) * t.a_row;
    c[r] = t.c + (t.c_index ? t.c_index[row + r] : row + r) * t.c_row + first * kLanes;
  }
  for (int v = 0; v < vectors; ++v)
    b[v] = t.b + (first + v) / kParts * t.b_panel + (first + v) % kParts * kLanes;
  Vector sum[rows][vectors];
  if (t.keep != nullptr) {
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] = load(c[r] + v * kLanes) * t.keep[row + r];
  } else {
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] = Vector{};
  }
  const int64_t a_inner = t.a_inner, b_inner = t.b_inner;
  for (int64_t i = 0; i < t.inner; ++i) {
    Vector column[vectors];
    const int64_t at = (indexed ? t.b_index[i] : i) * b_inner;
    for (int v = 0; v < vectors; ++v) column[v] = load(b[v] + at);
    for (int r = 0; r < rows; ++r) {
      const Vector x = broadcast(a[r][i * a_inner]);
      for (int v = 0; v < vectors; ++v) sum[r][v] += x * column[v];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store(c[r] + v * kLanes, sum[r][v]);
}

template <int vectors, bool indexed>
void multiply_rows(const TileProduct& t, int64_t first) {
  int64_t row = 0;
  for (; row + kRows <= t.rows; row += kRows)
    multiply_block<kRows, vectors, indexed>(t, row, first);
  switch (t.rows - row) {
    case 1:
      return multiply_block<1, vectors, indexed>(t, row, first);
    case 2:
      return multiply_block<2, vectors, indexed>(t, row, first);
    case 3:
      return multiply_block<3, vectors, indexed>(t, row, first);
    case 4:
      return multiply_block<4, vectors, indexed>(t, row, first);
    case 5:
      return multiply_block<5, vectors, indexed>(t, row, first);
  }
}

template <bool indexed>
void multiply_vectors(const TileProduct& t) {
  const int64_t vectors = t.panels * kParts;
  int64_t first = 0;
  if constexpr (kVectors == 4) {
    // Five are three and two: the sums of a single vector are too few to hide each other's latency.
    for (; vectors - first >= 4 && vectors - first != 5; first += 4)
      multiply_rows<4, indexed>(t, first);
    if (vectors - first == 5) multiply_rows<3, indexed>(t, first), first += 3;
    switch (vectors - first) {
      case 1:
        return multiply_rows<1, indexed>(t, first);
      case 2:
        return multiply_rows<2, indexed>(t, first);
      case 3:
        return multiply_rows<3, indexed>(t, first);
    }
  } else {
    for (; first < vectors; first += kVectors) multiply_rows<kVectors, indexed>(t, first);
  }
}

void multiply(const TileProduct& t) {
  if (t.b_index != nullptr) {
    multiply_vectors<true>(t);
  } else {
    multiply_vectors<false>(t);
  }
}

// 2^x to an ulp or so, for x <= 0; 0 below the smallest normal number; NaN stays.
inline Vector exp2(Vector x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vector low = broadcast(-126.f);
  const Vector y = x < low ? low : x;
  const Vector shifted = y + kRound;
  const Vector f = y - (shifted - kRound);  // in [-1/2, 1/2]
  // Minimax polynomial of 2^f.
  Vector p = broadcast(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.f;
  const Unsigned exponent = (Unsigned(shifted) << 23) + (127u << 23);
  return x < low ? Vector{} : p * Vector(exponent);
}

using Lanes = std::make_integer_sequence<int, kLanes>;

template <int step, int... lane>
inline Vector exchanged(Vector x, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(x, x, (lane ^ step)...);
}

template <int step = kLanes / 2>
inline float largest(Vector x) {
  const Vector other = exchanged<step>(x, Lanes{});
  x = other > x ? other : x;
  if constexpr (step > 1) return largest<step / 2>(x);
  return x[0];
}

template <int step = kLanes / 2>
inline float total(Vector x) {
  x += exchanged<step>(x, Lanes{});
  if constexpr (step > 1) return total<step / 2>(x);
  return x[0];
}

inline Integers lane_numbers() {
  Integers lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

// Up to kLanes rows: their factors are computed together at the end.
void softmax_rows(const TileSoftmax& t, int64_t first, int64_t end) {
  const Integers lanes = lane_numbers();
  float difference[kLanes] = {}, totals[kLanes], kept[kLanes];
  for (int64_t r = first; r < end; ++r) {
    float* row = t.logits + r * t.row;
    const int32_t from = t.from ? t.from[r] : 0, to = t.to[r];
    const int64_t state = t.state_index ? t.state_index[r] : r;
    const float old = t.maximum[state];
    Vector highest = broadcast(old);
    for (int64_t c = 0; c < t.columns; c += kLanes) {
      Vector x = load(row + c) * t.scale + load(t.bias + c);
      if (c < from || c + kLanes > to) {
        const Integers column = lanes + int32_t(c);
        x = ((column >= from) & (column < to)) ? x : broadcast(-kInfinity);
      }
      store(row + c, x);
      highest = x > highest ? x : highest;
    }
    const float maximum = largest(highest);
    const float shift = maximum == -kInfinity ? 0.f : maximum;  // no key yet: all weights are 0
    Vector sum{};
    for (int64_t c = 0; c < t.columns; c += kLanes) {
      const Vector weight = exp2(load(row + c) - shift);
      sum += weight;
      store(row + c, weight);
    }
    t.maximum[state] = maximum;
    difference[r - first] = old - shift;
    totals[r - first] = total(sum);
  }
  store(kept, exp2(load(difference)));
  for (int64_t r = first; r < end; ++r) {
    const int64_t state = t.state_index ? t.state_index[r] : r;
    t.kept[r] = kept[r - first];
    t.sum[state] = kept[r - first] * t.sum[state] + totals[r - first];
  }
}

void softmax(const TileSoftmax& t) {
  for (int64_t r = 0; r < t.rows; r += kLanes)
    softmax_rows(t, r, r + kLanes < t.rows ? r + kLanes : t.rows);
}

void softmax_backward(const TileSoftmaxBackward& t) {
  const Integers lanes = lane_numbers();
  for (int64_t r = 0; r < t.rows; ++r) {
    float* row = t.logits + r * t.row;
    float* gradient = t.d_weights + r * t.row;
    const int32_t from = t.from ? t.from[r] : 0, to = t.to[r];
    const float lse = t.lse[r], delta = t.delta[r];
    for (int64_t c = 0; c < t.columns; c += kLanes) {
      Vector weight = exp2(load(row + c) * t.scale + load(t.bias + c) - lse);
      Vector d = weight * (load(gradient + c) - delta);
      if (c < from || c + kLanes > to) {
        const Integers column = lanes + int32_t(c);
        const Integers seen = (column >= from) & (column < to);
        weight = seen ? weight : Vector{};
        d = seen ? d : Vector{};
      }
      store(row + c, weight);
      store(gradient + c, d);
      if (t.d_bias != nullptr) store(t.d_bias + c, load(t.d_bias + c) + d);
    }
  }
}

// The scores of row r, of one vector of columns; what is not a number becomes the least.
inline Vector scores_of(const TileBest& t, int64_t r, int64_t column) {
  Vector x = load(t.scores + r * t.row + column);
  if (t.bias != nullptr) x += t.bias[r];
  return x == x ? x : broadcast(-kInfinity);
}

// One vector of columns: each has its list, best first, in registers; a row goes down the list and
// changes places with what it beats.
template <int most>
void best_in_columns(const TileBest& t, int64_t column) {
  Vector values[most];
  Integers index[most];
  const auto insert = [&](Vector& x, Integers& id, int place) {
    const Integers better = x > values[place];
    const Vector value = better ? x : values[place];
    const Integers number = better ? id : index[place];
    x = better ? values[place] : x;
    id = better ? index[place] : id;
    values[place] = value;
    index[place] = number;
  };
#pragma GCC unroll 16
  for (int r = 0; r < most; ++r) {
    Vector x = r < t.rows ? scores_of(t, r, column) : broadcast(-kInfinity);
    Integers id = Integers{} + r;
#pragma GCC unroll 16
    for (int place = 0; place < r; ++place) insert(x, id, place);
    values[r] = x;
    index[r] = id;
  }
  for (int64_t r = most; r < t.rows; ++r) {
    Vector x = scores_of(t, r, column);
    Integers id = Integers{} + int32_t(r);
#pragma GCC unroll 16
    for (int place = 0; place < most; ++place) insert(x, id, place);
  }
#pragma GCC unroll 16
  for (int place = 0; place < most; ++place)
    if (place < t.best)
      *reinterpret_cast<UnalignedIntegers*>(t.index + place * t.row + column) = index[place];
}

// Lists too long for registers, a column at a time.
void best_in_column(const TileBest& t, int64_t column) {
  int64_t held = 0;
  for (int64_t r = 0; r < t.rows; ++r) {
    float x = t.scores[r * t.row + column] + (t.bias != nullptr ? t.bias[r] : 0.f);
    if (x != x) x = -kInfinity;
    if (held == t.best && !(x > t.values[held - 1])) continue;
    int64_t place = held < t.best ? held++ : held - 1;
    for (; place > 0 && x > t.values[place - 1]; --place) {
      t.values[place] = t.values[place - 1];
      t.index[place * t.row + column] = t.index[(place - 1) * t.row + column];
    }
    t.values[place] = x;
    t.index[place * t.row + column] = int32_t(r);
  }
}

void best(const TileBest& t) {
  const int64_t columns = t.panels * kPanel;
  if (t.best > 16) {
    for (int64_t c = 0; c < columns; ++c) best_in_column(t, c);
    return;
  }
  for (int64_t c = 0; c < columns; c += kLanes) {
    if (t.best == 1)
      best_in_columns<1>(t, c);
    else if (t.best == 2)
      best_in_columns<2>(t, c);
    else if (t.best <= 4)
      best_in_columns<4>(t, c);
    else if (t.best <= 8)
      best_in_columns<8>(t, c);
    else
      best_in_columns<16>(t, c);
  }
}

}  // namespace

extern const CpuTiles DSRSQ_TILES;
const CpuTiles DSRSQ_TILES = {DSRSQ_TILES_NAME, multiply, softmax, softmax_backward, best};

}  // namespace dsrsq::ops
