// The interface between the launchers of bfloat16's convolutions (compiled once, knowing torch) and
// their kernels (compiled once for each instruction set, knowing only pointers and sizes).
//
// Products are of pairs: a 32-bit lane holds two neighbours of the sum, and one instruction
// (VDPBF16PS, of AVX-512's bfloat16) multiplies two lanes of pairs and adds both products to a
// float32; other instruction sets widen the halves. A convolution and its data gradient sum over
// channels, which lie side by side in channels-last memory: pairs are there already, and only the
// weights are packed. The weight gradient sums over the strided map: two samples make the pairs.
// AMX (TDPBF16PS) multiplies 16 rows of 16 pairs by 16 pairs of 16 columns at once, from tiles (amx.h).
#pragma once

// The compiler knows AMX, a processor's matrix unit.
#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11
#define FASTGAN_AMX_KERNELS 1
#endif

#include <cstdint>

#include "cpu/runtime/tiles.h"

namespace fastgan {

// Channels of either tensor come in multiples of this, the widest vector of pairs.
constexpr int64_t kBf16Channels = 16;
// Columns of a panel of packed weights, and the side of an output tile of the weight gradient.
constexpr int64_t kBf16Panel = 64;

// A convolution relates an image and a strided map, whose position q meets q * stride - padding + i
// of the image, 0 <= i < kernel, in rows and columns. Both tensors are channels-last.
struct Bf16Shape {
  Dtype weight;                     // of the weights and their gradient: bfloat16 or float32
  int64_t batch;
  int64_t height, width, image;     // of the image; its channels
  int64_t rows, columns, strided;   // of the strided map; their channels
  int64_t kernel[2], stride[2], padding[2];

  int64_t taps() const { return kernel[0] * kernel[1]; }
  // Pixels of one parity, which meet the same taps.
  int64_t phases() const { return stride[0] * stride[1]; }
  int64_t output_tiles() const { return across(image) * across(strided) * stride[0]; }

  static int64_t across(int64_t channels) { return (channels + kBf16Panel - 1) / kBf16Panel; }
};

// Outputs of a phase along one direction, and taps of it that all of them meet.
struct Bf16Span {
  int64_t first, outputs, tap, taps;
};

// A rectangle of a phase's outputs; a convolution has one phase. With all of the phase's taps each output
// is multiplied with zeros where it meets none of the source.
struct Bf16Piece {
  int64_t phase;
  Bf16Span rows, columns;

  int64_t outputs() const { return rows.outputs * columns.outputs; }
  int64_t taps() const { return rows.taps * columns.taps; }
};

// Weights are (strided map, kernel rows, kernel columns, image) in memory; those of float32 are
// rounded to bfloat16 as they are packed. `packed` holds pairs. Scratch sizes in floats.
struct Bf16Kernels {
  bool by_amx;
  int64_t (*packed_pairs)(const Bf16Shape&, bool transposed);
  // Panels [first, last) of the columns, kBf16Panel channels each.
  void (*pack)(const Bf16Shape&, bool transposed, const void* weight, int64_t first, int64_t last,
               uint32_t* packed);
  int64_t (*scratch_floats)(const Bf16Shape&, bool transposed, int64_t outputs);
  // Outputs [first, last) of a piece, counted through the batch; bias of the outputs' channels or null.
  void (*conv)(const Bf16Shape&, bool transposed, const void* from, const uint32_t* packed,
               const float* bias, const Bf16Piece&, int64_t first, int64_t last, void* to,
               float* scratch);
  int64_t (*weight_scratch_floats)(const Bf16Shape&, int64_t output_tiles);
  // Output tiles [first, last) of the weight gradient, each at the kernel's rows of one parity.
  void (*weight)(const Bf16Shape&, const void* image, const void* strided, int64_t first,
                 int64_t last, void* out, float* scratch);
};

// The widest set of kernels this processor runs.
const Bf16Kernels& bf16_kernels();

}  // namespace fastgan
