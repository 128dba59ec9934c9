// The interface between the launchers of the small-channel convolutions (compiled once, knowing
// torch) and their kernels (compiled once for each instruction set, knowing only pointers and
// sizes).
//
// A small-channel convolution relates an image of at most kMaxSmallChannels channels and a wide
// tensor of K channels, channels-last. Position (r, q) of the wide tensor meets rows r * stride -
// padding + i of the image, 0 <= i < kernel, and columns alike. Reading the image is a convolution,
// writing it a transposed one.
#pragma once

#include <cstdint>

#include "cpu/runtime/tiles.h"

namespace fastgan {

constexpr int64_t kMaxSmallChannels = 4;  // channels of the image, and steps of the stride
constexpr int64_t kMaxSmallKernel = 7;    // rows or columns of the kernel

// Sizes of one sample; pairs are rows, columns.
struct SmallChannelShape {
  Dtype dtype;
  int64_t channels, height, width;  // the image
  bool interleaved;                 // the image's channels lie side by side
  int64_t wide, rows, columns;      // the wide tensor
  int64_t kernel[2], stride[2], padding[2];

  int64_t taps() const { return channels * kernel[0] * kernel[1]; }
};

// What follows the sums: a bias for each channel, with as many floats behind as a vector is wide, and
// the activation.
struct SmallChannelEpilogue {
  const float* bias;
  int activation;
  float slope;
};

// Weights (wide, image channel, kernel row, kernel column) with these strides in elements.
struct SmallChannelWeight {
  const void* data;
  int64_t stride[4];
};

struct SmallChannelScratch {
  float* floats;
  int32_t* offsets;
};

// Sizes in floats; `scratch` and `offsets` for a call over so many rows.
struct SmallChannelSizes {
  int64_t packed, scratch, offsets, sum_columns;
};

// `image`, `wide` and `out` start at the sample; [first, last) are rows of the wide tensor, for
// to_image of the image.
struct SmallChannelKernels {
  SmallChannelSizes (*sizes)(const SmallChannelShape&, bool to_image, int64_t rows);
  void (*pack)(const SmallChannelShape&, const SmallChannelWeight&, bool to_image, float* packed);
  void (*from_image)(const SmallChannelShape&, const SmallChannelEpilogue&, const float* packed,
                     const void* image, int64_t first, int64_t last, void* out,
                     const SmallChannelScratch&);
  void (*to_image)(const SmallChannelShape&, const SmallChannelEpilogue&, const float* packed,
                   const void* wide, int64_t first, int64_t last, void* out,
                   const SmallChannelScratch&);
  // Adds to sums[tap][sum column] the weight gradient's share; taps are (channel, row, column).
  void (*weight)(const SmallChannelShape&, const void* image, const void* wide, int64_t first,
                 int64_t last, float* sums, const SmallChannelScratch&);
};

// The widest set of kernels this processor runs.
const SmallChannelKernels& small_channel_kernels();

}  // namespace fastgan
