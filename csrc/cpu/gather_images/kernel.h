// The interface between the driver of gather_images (compiled once, knowing torch) and its loops
// (compiled once for each instruction set).
#pragma once

#include <cstdint>

#include "cpu/runtime/tiles.h"

namespace fastgan {

// Rows of one image, interleaved: `source` is bytes, `out` of `dtype`.
struct ImageRows {
  Dtype dtype;
  const uint8_t* source;
  void* out;
  int64_t rows, width, channels;
  bool mirrored;
  uint8_t* scratch;  // a row of bytes, where mirrored
};

struct GatherKernels {
  void (*scale)(const ImageRows&);  // out = source / 127.5 - 1
};

// The widest set of kernels this processor runs.
const GatherKernels& gather_kernels();

}  // namespace fastgan
