// The interface between the drivers (compiled once, knowing torch) and the tile loops (compiled
// once for each instruction set, knowing only pointers and sizes).
#pragma once

#include <cstdint>

namespace fastgan {
namespace {

constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

enum class Dtype { kFloat32, kBFloat16, kFloat16, kFloat64 };

// A tile is a rectangle of one segment, in one of two memory layouts.
//   columns: memory is rows of `ld` columns; the tile is `rows` full rows from `x` on, columns
//            [first, last), then an incomplete row of which columns below `tail` exist.
//            Coefficients and results are indexed by column.
//   planes:  memory is [batch][channels][size]; the tile is batch indices [0, rows) from `x` on,
//            channels [first, last), elements [begin, end) of each plane.
//            Coefficients and results are indexed by channel.
// Coefficients and results are float, or double where dtype is kFloat64. Null k0 and k1: evaluation.
struct Tile {
  Dtype dtype;
  int activation;
  bool act_first;
  bool planes;
  bool blocked;   // columns are written down blocks of rows, not along each row
  bool reversed;  // the tiles before this one come next
  bool streamed;  // whole vectors are written by non-temporal stores; they lie on multiples of
                  // their size
  double slope;

  const void* x;
  const void* dz;  // backward; for bias_backward, x holds the output z
  void* out;

  int64_t rows, first, last;
  int64_t ld, tail;                    // columns
  int64_t channels, size, begin, end;  // planes

  const void *mean, *scale, *bias, *k0, *k1;
  void *r1, *r2, *r3;
};

// Partial results of the tiles of one segment, to be merged for a block of channels into doubles.
// Where rows repeat the channels, these stand for `groups` columns each, `stride` apart.
struct Merge {
  bool wide;                  // partial results are double
  const void *r1, *r2, *r3;   // of the first tile; a further one every `period`
  const int64_t* counts;      // values of a column in each tile;
  int64_t tail;               // columns below have one more in the last tile
  int64_t tiles, period;
  int64_t first, count, groups, stride;
  double total;               // values of a channel
  double *out1, *out2;        // `count` zeros each; out2 of sums may be null
};

struct TileKernels {
  const char* name;
  void (*stats)(const Tile&);          // r1 + r3 = mean, r2 = M2 of this tile
  void (*forward)(const Tile&);        // out = z
  void (*reduce)(const Tile&);         // r1 = sum a, r2 = sum a * centred
  void (*dx)(const Tile&);             // out = dx
  void (*bias_backward)(const Tile&);  // out = dx; r1 = sum dx
  void (*merge_moments)(const Merge&);  // out1 = mean, out2 = M2
  void (*merge_sums)(const Merge&);     // out1 = sum r1, out2 = sum r2
};

// The widest set of kernels this processor runs.
const TileKernels& tile_kernels();

// Columns are padded to a multiple of this: the widest vector, in floats.
constexpr int64_t kColumnQuantum = 16;

}  // namespace fastgan
