// The interface between the launchers of the Winograd convolutions (compiled once, knowing
// torch) and their kernels (compiled once for each instruction set, knowing only pointers and
// sizes).
//
// A convolution with a kernel of 4, stride 2 and padding 1 relates an image of C channels and
// a strided map of K channels, half as many in each direction; both channels-last. Taken apart by
// the parity of the tap (4 phases in two dimensions) it is a sum of 2x2 convolutions with stride 1,
// and the transposed one is a 2x2 convolution for each parity of the pixel. Winograd's F(2x2, 2x2)
// gives a 2x2 tile of such a convolution from a 3x3 patch by 9 products instead of 16: in one
// dimension
//   y0 = d0 g0 + d1 g1,  y1 = d1 g0 + d2 g1   from   (d0 - d1) g0,  d1 (g0 + g1),  (d2 - d1) g1.
// Over all tiles and channels each of the 9 is a matrix product. There are no constants but 1 and
// -1, and sums a quarter as long: results are as exact as those of the plain sum.
//
// Source: Winograd 1980, Arithmetic Complexity of Computations; Lavin and Gray, arXiv:1509.09308.
#pragma once

#include <cstdint>

#include "cpu/runtime/tiles.h"

namespace fastgan {

constexpr int64_t kProductsOfTile = 9;
constexpr int64_t kPhases = 4, kTaps = 16;
// Channels of either tensor come in multiples of this, the widest vector.
constexpr int64_t kWinogradChannels = 16;
// The weight gradient is made in output tiles of so many channels of the image and of the strided
// map.
constexpr int64_t kOutputTile = 64;

struct WinogradShape {
  Dtype dtype;
  int64_t batch, rows, columns;  // of the strided map; the image has twice as many rows and columns
  int64_t strided, image;        // channels

  int64_t tile_rows() const { return (rows + 1) / 2; }
  int64_t tile_columns() const { return (columns + 1) / 2; }
  int64_t tiles() const { return batch * tile_rows() * tile_columns(); }
  int64_t output_tiles() const { return kPhases * across(image) * across(strided); }

  static int64_t across(int64_t channels) { return (channels + kOutputTile - 1) / kOutputTile; }
};

// Some of the outputs: tiles [first, last) of all, channels [begin, end).
struct WinogradPart {
  int64_t first, last, begin, end;

  int64_t tiles() const { return last - first; }
  int64_t channels() const { return end - begin; }
};

// Weights are (strided map, 4, 4, image) in memory. `packed` holds the 9 transformed weights of all
// phases for the channels of a part; `packed_floats` and the scratch of a call are sizes in floats.
struct WinogradKernels {
  int64_t (*packed_floats)(const WinogradShape&, bool transposed, int64_t channels);
  int64_t (*scratch_floats)(const WinogradShape&, bool transposed, const WinogradPart&);
  int64_t (*transformed_floats)(const WinogradShape&, int64_t tiles);
  int64_t (*sums_floats)();

  void (*pack)(const WinogradShape&, bool transposed, const void* weight, const WinogradPart&,
               float* packed);
  // bias: of the result's channels, or null.
  void (*conv)(const WinogradShape&, const void* image, const float* packed, const float* bias,
               const WinogradPart&, void* strided, float* scratch);
  void (*conv_transpose)(const WinogradShape&, const void* strided, const float* packed,
                         const float* bias, const WinogradPart&, void* image, float* scratch);

  // The weight gradient, some tiles at a time: `transformed` holds the image and the strided map of
  // `tiles` of them, `sums` the products of one output tile over all tiles so far.
  // What output tiles [begin, end) need of the tiles from `first` on.
  void (*weight_transform)(const WinogradShape&, const void* image, const void* strided,
                           int64_t first, int64_t tiles, int64_t begin, int64_t end,
                           float* transformed);
  // Sets sums, or adds to them.
  void (*weight_multiply)(const WinogradShape&, const float* transformed, int64_t tiles,
                          int64_t output_tile, bool add, float* sums);
  void (*weight_gather)(const WinogradShape&, const float* sums, int64_t output_tile, void* out);
};

// The widest set of kernels this processor runs.
const WinogradKernels& winograd_kernels();

}  // namespace fastgan
