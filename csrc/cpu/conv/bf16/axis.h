// Where the outputs of bfloat16's convolutions (cpu/conv/bf16/kernel.h) lie, and which taps they
// meet: for the driver, which cuts them up, and the kernels. In an unnamed namespace: each is
// compiled for another instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/conv/bf16/kernel.h"

namespace fastgan {
namespace {

// The taps that begin at `first` and lie so far apart.
inline int64_t taps_from(int64_t first, int64_t kernel, int64_t by) {
  return first < kernel ? ceil_div(kernel - first, by) : 0;
}

// The taps of a phase in one direction, and the outputs it has.
struct Bf16Axis {
  int64_t first, taps;              // of the kernel
  int64_t start, pace;              // output o meets o * pace + start of the source at the first tap,
  int64_t down;                     // and `down` less or more at each further one
  int64_t outputs, offset, stride;  // output o is o * stride + offset of the target
  int64_t source;                   // the source's size

  Bf16Axis(const Bf16Shape& s, bool transposed, int64_t d, int64_t phase) {
    const int64_t kernel = s.kernel[d], by = s.stride[d], padding = s.padding[d];
    const int64_t image = d ? s.width : s.height, strided = d ? s.columns : s.rows;
    if (!transposed) {
      *this = {0, kernel, -padding, by, 1, strided, 0, 1, image};
      return;
    }
    const int64_t tap = (phase + padding) % by;
    *this = {tap,
             taps_from(tap, kernel, by),
             (phase + padding) / by,
             1,
             -1,
             std::max<int64_t>(0, ceil_div(image - phase, by)),
             phase,
             by,
             strided};
  }
  static Bf16Axis rows(const Bf16Shape& s, bool transposed, int64_t phase) {
    return {s, transposed, 0, phase / s.stride[1]};
  }
  static Bf16Axis columns(const Bf16Shape& s, bool transposed, int64_t phase) {
    return {s, transposed, 1, phase % s.stride[1]};
  }

  Bf16Span all() const { return {0, outputs, 0, taps}; }
  // One output, and those taps at which it meets the source.
  Bf16Span one(int64_t output) const {
    Bf16Span found{output, 1, 0, 0};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t at = output * pace + start + tap * down;
      if (at < 0 || at >= source) continue;
      if (found.taps++ == 0) found.tap = tap;
    }
    return found;
  }

 private:
  Bf16Axis(int64_t first, int64_t taps, int64_t start, int64_t pace, int64_t down, int64_t outputs,
           int64_t offset, int64_t stride, int64_t source)
      : first(first),
        taps(taps),
        start(start),
        pace(pace),
        down(down),
        outputs(outputs),
        offset(offset),
        stride(stride),
        source(source) {}
};

}  // namespace
}  // namespace fastgan
