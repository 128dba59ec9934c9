// gather_images, as seen by one thread: V neighbouring values of one image of the batch.
#pragma once

#include "cuda/device/element.h"
#include "cuda/device/geometry.h"

namespace fastgan {
namespace cuda {

// out[b] = images[index[b]] / 127.5 - 1, mirrored where flips[b] says so; NaN where the index is
// outside. Reads a byte and writes a value for each. Images are (height, width, channels).
template <typename T_, int V>
struct GatherKernel {
  using T = T_;
  static constexpr int kBlocksPerSm = 4;

  std::int64_t count, size, blocks_per_image;  // images, values of one, blocks of one
  FastDiv channels_div, width_div;
  std::uint32_t channels, width;
  const std::uint8_t* images;
  const std::int64_t* index;
  const bool* flips;  // null: none
  T* out;

  FASTGAN_HD void run(std::int64_t block, int thread) const {
    const std::int64_t b = block / blocks_per_image;
    const std::int64_t first = (block % blocks_per_image * kThreads + thread) * V;
    if (first >= size) {
      return;
    }
    const std::int64_t chosen = index[b];
    const bool known = chosen >= 0 && chosen < count;
    const bool mirrored = flips && flips[b];
    const std::uint8_t* const image = images + (known ? chosen : 0) * size;
    float value[V];
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) {
      const std::int64_t at = mirrored ? opposite(std::uint32_t(first) + v) : first + v;
      // A division, not a product with the reciprocal: the reference's bits.
      value[v] = known ? float(image[at]) / 127.5f - 1.0f : quiet_nan();
    }
    store<T, V>(out + b * size + first, Pack<T, V>::pack(value));
  }

  // Where the value at `at` stands in the mirrored image.
  FASTGAN_HD std::int64_t opposite(std::uint32_t at) const {
    const std::uint32_t pixel = channels_div(at);
    const std::uint32_t column = pixel - width_div(pixel) * width;
    return std::int64_t(at) + (std::int64_t(width) - 1 - 2 * std::int64_t(column)) * channels;
  }

  static FASTGAN_HD float quiet_nan() { return float_of_bits(0x7fc00000u); }
};

template <typename T, int V, typename Exec>
void run_gather(Exec& launcher, std::int64_t count, std::int64_t batch, std::int64_t height,
                std::int64_t width, std::int64_t channels, const std::uint8_t* images,
                const std::int64_t* index, const bool* flips, T* out) {
  const std::int64_t size = height * width * channels;
  const std::int64_t blocks = ceil_div(size, kThreads * V);
  const GatherKernel<T, V> kernel{count,
                                  size,
                                  blocks,
                                  make_fast_div(std::uint32_t(channels)),
                                  make_fast_div(std::uint32_t(width)),
                                  std::uint32_t(channels),
                                  std::uint32_t(width),
                                  images,
                                  index,
                                  flips,
                                  out};
  launcher.map(kernel, batch * blocks);
}

}  // namespace cuda
}  // namespace fastgan
