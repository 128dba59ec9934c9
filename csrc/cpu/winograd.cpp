// Convolutions with a kernel of 4, stride 2 and padding 1 by minimal filtering (winograd.h), on the
// CPU: validation of what the loops rely on, allocation, and the cut into blocks of tiles.
//
// Every output is summed by one thread in an order that the shapes fix: results are the same bits on
// any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "walk.h"
#include "winograd.h"

namespace fastgan {
namespace {

// Tiles at once: as many as make reading the weights cheap beside multiplying with them.
constexpr int64_t kBlockTiles = 66;
// And of the weight gradient: so many stay near, transformed; but where the sums of all squares do not,
// as many as make reading and writing them cheap beside the products.
constexpr int64_t kWeightTiles = 64, kMostWeightTiles = 256, kNearSquares = 32;

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

WinogradShape shape_of(const Tensor& x, int64_t rows, int64_t columns, int64_t positions,
                       int64_t image) {
  const Dtype dtype = dtype_of(x);
  STD_TORCH_CHECK(dtype != Dtype::kFloat64, "x: expected float32, bfloat16 or float16");
  return {dtype, x.size(0), rows, columns, positions, image};
}

void check_weight(const Tensor& weight, const Tensor& x, int64_t own) {
  check_tensor(weight, "weight", 4);
  STD_TORCH_CHECK(weight.size(2) == 4 && weight.size(3) == 4 && weight.size(own) == x.size(1) &&
                      weight.size(0) % kWinogradChannels == 0 &&
                      weight.scalar_type() == x.scalar_type(),
                  "weight: expected (positions, image, 4, 4) of x's dtype and channels");
}

// The transformed weights, which are several times the weights.
const float* pack(const WinogradShape& s, bool transposed, const Tensor& weight) {
  thread_local KeptScratch<float> kept;
  float* const packed = kept.at_least(winograd_loops().packed_floats(s, transposed));
  const int64_t work = kProductsOfTile * kPhases * kWinogradChannels * s.image;
  torch::stable::parallel_for(0, s.positions / kWinogradChannels, grain(work),
                              [&](int64_t begin, int64_t end) {
                                winograd_loops().pack(s, transposed, weight.data_ptr(), begin, end,
                                                      packed);
                              });
  return packed;
}

// Calls function(first tile, last tile, scratch) for all, in blocks.
template <typename Function>
void for_blocks(const WinogradShape& s, bool transposed, const Function& function) {
  const int64_t tiles = s.tiles(), threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t block = std::clamp<int64_t>((tiles + threads - 1) / threads, 1, kBlockTiles);
  const int64_t blocks = (tiles + block - 1) / block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const auto floats = scratch<float>(winograd_loops().scratch_floats(s, transposed, block));
    for (int64_t i = begin; i < end; ++i) {
      function(i * block, std::min(tiles, (i + 1) * block), floats.get());
    }
  });
}

Tensor winograd_conv(Tensor image, Tensor weight) {
  check_tensor(image, "image", 2);
  check_weight(weight, image, 1);
  const WinogradShape s =
      shape_of(image, image.size(2) / 2, image.size(3) / 2, weight.size(0), image.size(1));
  Tensor out = empty_channels_last(image, s.batch, s.positions, s.rows, s.columns);
  const float* packed = pack(s, false, weight);
  for_blocks(s, false, [&](int64_t first, int64_t last, float* floats) {
    winograd_loops().conv(s, image.data_ptr(), packed, first, last, out.data_ptr(), floats);
  });
  return out;
}

Tensor winograd_conv_transpose(Tensor positions, Tensor weight) {
  check_tensor(positions, "positions", 1);
  check_weight(weight, positions, 0);
  const WinogradShape s =
      shape_of(positions, positions.size(2), positions.size(3), positions.size(1), weight.size(1));
  Tensor out = empty_channels_last(positions, s.batch, s.image, 2 * s.rows, 2 * s.columns);
  const float* packed = pack(s, true, weight);
  for_blocks(s, true, [&](int64_t first, int64_t last, float* floats) {
    winograd_loops().conv_transpose(s, positions.data_ptr(), packed, first, last, out.data_ptr(),
                                    floats);
  });
  return out;
}

// Squares [begin, end) of the weight gradient.
void weight_squares(const WinogradShape& s, const void* image, const void* positions, int64_t begin,
                    int64_t end, void* out) {
  thread_local KeptScratch<float> kept_transformed, kept_sums;
  const int64_t at_once = s.squares() > kNearSquares ? kMostWeightTiles : kWeightTiles;
  const int64_t parts = (s.tiles() + at_once - 1) / at_once;
  const int64_t most = (s.tiles() + parts - 1) / parts;
  // With all tiles at once no sum waits for more.
  const int64_t each = winograd_loops().sums_floats(), step = parts > 1 ? each : 0;
  float* const transformed = kept_transformed.at_least(winograd_loops().transformed_floats(s, most));
  float* const sums = kept_sums.at_least(each + (end - begin - 1) * step);
  for (int64_t first = 0; first < s.tiles(); first += most) {
    const int64_t tiles = std::min(most, s.tiles() - first);
    winograd_loops().weight_transform(s, image, positions, first, tiles, begin, end, transformed);
    for (int64_t i = begin; i < end; ++i) {
      float* const of_square = sums + (i - begin) * step;
      winograd_loops().weight_multiply(s, transformed, tiles, i, first > 0, of_square);
      if (first + tiles == s.tiles()) winograd_loops().weight_gather(s, of_square, i, out);
    }
  }
}

Tensor winograd_conv_weight(Tensor image, Tensor positions) {
  check_tensor(image, "image", 2);
  check_tensor(positions, "positions", 1);
  STD_TORCH_CHECK(image.size(0) == positions.size(0) && image.size(2) == 2 * positions.size(2) &&
                      image.size(3) == 2 * positions.size(3) &&
                      image.scalar_type() == positions.scalar_type(),
                  "positions: expected the batch and dtype of image and half its sizes");
  const WinogradShape s =
      shape_of(image, positions.size(2), positions.size(3), positions.size(1), image.size(1));
  Tensor out = empty_channels_last(image, s.positions, s.image, 4, 4);
  // Each thread transforms for its own squares: with few channels, to read what another core has
  // written takes longer than to transform again.
  torch::stable::parallel_for(0, s.squares(), 1, [&](int64_t begin, int64_t end) {
    weight_squares(s, image.data_ptr(), positions.data_ptr(), begin, end, out.data_ptr());
  });
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, CPU, m) {
  m.impl("winograd_conv", TORCH_BOX(&fastgan::winograd_conv));
  m.impl("winograd_conv_transpose", TORCH_BOX(&fastgan::winograd_conv_transpose));
  m.impl("winograd_conv_weight", TORCH_BOX(&fastgan::winograd_conv_weight));
}
