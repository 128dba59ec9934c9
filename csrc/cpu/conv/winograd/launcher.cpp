// Convolutions with a kernel of 4, stride 2 and padding 1 by Winograd's F(2x2, 2x2)
// (cpu/conv/winograd/kernel.h), on the CPU: validation of what the kernels rely on, allocation, and
// the cut into blocks of tiles.
//
// Every output is summed by one thread in an order that the shapes fix: results are the same bits
// on any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>

#include "cpu/conv/winograd/kernel.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

// Tiles at once: as many as make reading the weights cheap beside multiplying with them.
constexpr int64_t kBlockTiles = 66;
// And of the weight gradient: as many as make reading and writing the sums cheap beside the products, but
// where there are many sums, more.
constexpr int64_t kWeightTiles = 128, kMaxWeightTiles = 256, kNearOutputTiles = 32;

// Transforming a tile takes as long as its products with so many channels, and packing the weights of a
// channel as its products with so many tiles.
constexpr int64_t kTransformTime = 8, kPackTime = 16;
// Channels are cut at multiples of this: whole panels, whatever the instruction set.
constexpr int64_t kCutChannels = 64;

// All outputs in parts: of the tiles `down`, of the channels `across`.
struct Cut {
  int64_t tiles, channels, down, across;

  int64_t column(int64_t i) const {
    return std::min(channels, ceil_div(channels, kCutChannels) * i / across * kCutChannels);
  }
  WinogradPart part(int64_t i) const {
    const int64_t row = i / across, at = i % across;
    return {tiles * row / down, tiles * (row + 1) / down, column(at), column(at + 1)};
  }
};

// A part for each thread, such that they end soonest. Each transforms for itself what it reads, of
// the weights and of the image or the strided map: to write where another core has read takes
// longer.
Cut cut_of(int64_t tiles, int64_t channels) {
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t panels = ceil_div(channels, kCutChannels);
  Cut best{};
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t across = 1; across <= std::min(threads, panels); ++across) {
    const int64_t down = std::min(threads / across, tiles);
    const int64_t most = std::min(channels, ceil_div(panels, across) * kCutChannels);
    const int64_t time = (ceil_div(tiles, down) + kPackTime) * (most + kTransformTime);
    if (time < least) least = time, best = {tiles, channels, down, across};
  }
  return best;
}

void check_tensor(const Tensor& x, const char* name, int64_t parity) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": expected (N, C, H, W), got ", x.dim(), " dimensions");
  const Layout l = layout_of(x);
  STD_TORCH_CHECK(l.columns, name, ": expected a channels-last tensor");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(1) % kWinogradChannels == 0, name, ": expected a multiple of ",
                  kWinogradChannels, " channels, got ", x.size(1));
  STD_TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0 && x.size(2) % parity == 0 && x.size(3) % parity == 0,
                  name, ": expected positive sizes that ", parity, " divides, got ", x.size(2), " x ",
                  x.size(3));
}

WinogradShape shape_of(const Tensor& x, int64_t rows, int64_t columns, int64_t strided,
                       int64_t image) {
  const Dtype dtype = dtype_of(x);
  STD_TORCH_CHECK(dtype != Dtype::kFloat64, "x: expected float32, bfloat16 or float16");
  STD_TORCH_CHECK(x.size(0) > 0, "x: expected at least one sample");
  return {dtype, x.size(0), rows, columns, strided, image};
}

void check_weight(const Tensor& weight, const Tensor& x, int64_t own) {
  check_tensor(weight, "weight", 4);
  STD_TORCH_CHECK(weight.size(2) == 4 && weight.size(3) == 4 && weight.size(own) == x.size(1) &&
                      weight.size(0) % kWinogradChannels == 0 &&
                      weight.scalar_type() == x.scalar_type(),
                  "weight: expected (strided, image, 4, 4) of x's dtype and channels");
}

// The transformed weights of a part, which are several times its weights.
const float* packed_weights(const WinogradShape& s, bool transposed, const Tensor& weight,
                            const WinogradPart& part) {
  thread_local KeptScratch<float> kept;
  const int64_t floats = winograd_kernels().packed_floats(s, transposed, part.channels());
  float* const packed = kept.at_least(floats);
  winograd_kernels().pack(s, transposed, weight.data_ptr(), part, packed);
  return packed;
}

// Calls run(packed weights, part, scratch) for all outputs, a block of tiles at a time.
template <typename Run>
void for_parts(const WinogradShape& s, bool transposed, const Tensor& weight, const Run& run) {
  const Cut cut = cut_of(s.tiles(), transposed ? s.image : s.strided);
  torch::stable::parallel_for(0, cut.down * cut.across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const WinogradPart all = cut.part(i);
      const float* const packed = packed_weights(s, transposed, weight, all);
      const int64_t block = ceil_div(all.tiles(), ceil_div(all.tiles(), kBlockTiles));
      WinogradPart part{all.first, all.first + block, all.begin, all.end};
      const auto floats = scratch<float>(winograd_kernels().scratch_floats(s, transposed, part));
      for (; part.first < all.last; part.first += block) {
        part.last = std::min(all.last, part.first + block);
        run(packed, part, floats.get());
      }
    }
  });
}

Tensor winograd_conv(Tensor image, Tensor weight, std::optional<Tensor> given) {
  check_tensor(image, "image", 2);
  check_weight(weight, image, 1);
  const WinogradShape s =
      shape_of(image, image.size(2) / 2, image.size(3) / 2, weight.size(0), image.size(1));
  const float* const bias = bias_or_null(given, s.strided);
  Tensor out = empty_channels_last(image, s.batch, s.strided, s.rows, s.columns);
  for_parts(s, false, weight, [&](const float* packed, const WinogradPart& part, float* floats) {
    winograd_kernels().conv(s, image.data_ptr(), packed, bias, part, out.data_ptr(), floats);
  });
  return out;
}

Tensor winograd_conv_transpose(Tensor strided, Tensor weight, std::optional<Tensor> given) {
  check_tensor(strided, "strided", 1);
  check_weight(weight, strided, 0);
  const WinogradShape s =
      shape_of(strided, strided.size(2), strided.size(3), strided.size(1), weight.size(1));
  const float* const bias = bias_or_null(given, s.image);
  Tensor out = empty_channels_last(strided, s.batch, s.image, 2 * s.rows, 2 * s.columns);
  for_parts(s, true, weight, [&](const float* packed, const WinogradPart& part, float* floats) {
    winograd_kernels().conv_transpose(s, strided.data_ptr(), packed, bias, part, out.data_ptr(),
                                      floats);
  });
  return out;
}

// Output tiles [begin, end) of the weight gradient.
void weight_output_tiles(const WinogradShape& s, const void* image, const void* strided,
                         int64_t begin, int64_t end, void* out) {
  thread_local KeptScratch<float> kept_transformed, kept_sums;
  const int64_t at_once = s.output_tiles() > kNearOutputTiles ? kMaxWeightTiles : kWeightTiles;
  const int64_t most = ceil_div(s.tiles(), ceil_div(s.tiles(), at_once));
  // With all tiles at once no sum waits for more.
  const int64_t each = winograd_kernels().sums_floats(), step = most < s.tiles() ? each : 0;
  float* const transformed =
      kept_transformed.at_least(winograd_kernels().transformed_floats(s, most));
  float* const sums = kept_sums.at_least(each + (end - begin - 1) * step);
  for (int64_t first = 0; first < s.tiles(); first += most) {
    const int64_t tiles = std::min(most, s.tiles() - first);
    winograd_kernels().weight_transform(s, image, strided, first, tiles, begin, end, transformed);
    for (int64_t i = begin; i < end; ++i) {
      float* const tile_sums = sums + (i - begin) * step;
      winograd_kernels().weight_multiply(s, transformed, tiles, i, first > 0, tile_sums);
      if (first + tiles == s.tiles()) winograd_kernels().weight_gather(s, tile_sums, i, out);
    }
  }
}

Tensor winograd_conv_weight(Tensor image, Tensor strided) {
  check_tensor(image, "image", 2);
  check_tensor(strided, "strided", 1);
  STD_TORCH_CHECK(image.size(0) == strided.size(0) && image.size(2) == 2 * strided.size(2) &&
                      image.size(3) == 2 * strided.size(3) &&
                      image.scalar_type() == strided.scalar_type(),
                  "strided: expected the batch and dtype of image and half its sizes");
  const WinogradShape s =
      shape_of(image, strided.size(2), strided.size(3), strided.size(1), image.size(1));
  Tensor out = empty_channels_last(image, s.strided, s.image, 4, 4);
  // Each thread transforms for its own output tiles: with few channels, to read what another core
  // has written takes longer than to transform again.
  torch::stable::parallel_for(0, s.output_tiles(), 1, [&](int64_t begin, int64_t end) {
    weight_output_tiles(s, image.data_ptr(), strided.data_ptr(), begin, end, out.data_ptr());
  });
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("winograd_conv", TORCH_BOX(&fastgan::winograd_conv));
  m.impl("winograd_conv_transpose", TORCH_BOX(&fastgan::winograd_conv_transpose));
  m.impl("winograd_conv_weight", TORCH_BOX(&fastgan::winograd_conv_weight));
}
