// Convolutions with an image of at most four channels on one side, on the CPU: validation of what
// the kernels rely on, allocation, and the cut into bands of rows.
//
// Every output is summed by one thread in an order that the shapes fix, and the weight gradient's
// partial sums are merged in order: results are the same bits on any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/conv/small_channels/kernel.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

using Sizes = std::vector<int64_t>;

// Bands that keep this many threads busy, and floats of a padded image that stay in the second-level
// cache beside what else a band reads.
constexpr int64_t kBands = 32;
constexpr int64_t kBandFloats = 65536;
// Partial sums of the weight gradient, and how many floats they may take together.
constexpr int64_t kPartials = 64;
constexpr int64_t kPartialFloats = 4 << 20;

// Whether channels lie side by side.
bool interleaved(const Tensor& x) {
  const Layout l = layout_of(x);
  return l.columns || l.channels == 1;
}

void check_pair(const Sizes& pair, const char* name, int64_t least, int64_t most) {
  STD_TORCH_CHECK(pair.size() == 2, name, ": expected two numbers, got ", pair.size());
  for (int64_t value : pair) {
    STD_TORCH_CHECK(value >= least && value <= most, name, ": expected ", least, " to ", most,
                    ", got ", value);
  }
}

// Both tensors' sizes; `image` and `wide` are those of (batch, channels, height, width) tensors.
SmallChannelShape shape_of(Dtype dtype, const Sizes& image, bool image_interleaved,
                           const Sizes& wide, const Sizes& kernel, const Sizes& stride,
                           const Sizes& padding) {
  constexpr int64_t any = 1 << 30;
  check_pair(kernel, "kernel", 1, kMaxSmallKernel);
  check_pair(stride, "stride", 1, kMaxSmallChannels);
  check_pair(padding, "padding", 0, any);
  STD_TORCH_CHECK(dtype != Dtype::kFloat64, "x: expected float32, bfloat16 or float16");
  STD_TORCH_CHECK(image[1] >= 1 && image[1] <= kMaxSmallChannels, "image: expected 1 to ",
                  kMaxSmallChannels, " channels, got ", image[1]);
  SmallChannelShape s{};
  s.dtype = dtype;
  s.channels = image[1];
  s.height = image[2];
  s.width = image[3];
  s.interleaved = image_interleaved;
  s.wide = wide[1];
  s.rows = wide[2];
  s.columns = wide[3];
  for (int d = 0; d < 2; ++d) {
    s.kernel[d] = kernel[d];
    s.stride[d] = stride[d];
    s.padding[d] = padding[d];
  }
  STD_TORCH_CHECK(s.height > 0 && s.width > 0 && s.rows > 0 && s.columns > 0 && s.wide > 0,
                  "size: expected positive sizes");
  return s;
}

Sizes sizes_of(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": expected (N, C, H, W), got ", x.dim(), " dimensions");
  const auto sizes = x.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

void check_weight(const Tensor& weight, const Tensor& x, int64_t wide, int64_t channels) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == wide &&
                      (channels == 0 || weight.size(1) == channels) &&
                      weight.scalar_type() == x.scalar_type(),
                  "weight: expected (", wide, ", ", channels, ", *k) of x's dtype");
}

Scratch<float> packed_weight(const SmallChannelShape& s, const Tensor& weight, bool to_image) {
  auto packed = scratch<float>(small_channel_kernels().sizes(s, to_image, 1).packed);
  SmallChannelWeight w{weight.data_ptr(), {}};
  for (int d = 0; d < 4; ++d) w.stride[d] = weight.stride(d);
  small_channel_kernels().pack(s, w, to_image, packed.get());
  return packed;
}

// The bias with zeros behind it, where whole vectors are read.
struct Epilogue : SmallChannelEpilogue {
  Epilogue(const std::optional<Tensor>& given, int64_t channels, int64_t code, double slope_)
      : values(channels + kColumnQuantum, 0.0f) {
    STD_TORCH_CHECK(code >= kLeakyRelu && code <= kSigmoid, "activation: unknown code ", code);
    const float* const biases = bias_or_null(given, channels);
    if (biases) std::copy_n(biases, channels, values.begin());
    bias = values.data();
    activation = static_cast<int>(code);
    slope = static_cast<float>(slope_);
  }

  std::vector<float> values;
};

// Samples cut into bands of rows, by shape alone.
struct Bands {
  int64_t samples, rows, band, in_sample;

  Bands(int64_t samples, int64_t rows, int64_t floats_of_row)
      : samples(samples), rows(rows) {
    const int64_t wanted = samples > 0 ? (kBands + samples - 1) / samples : 1;
    const int64_t most = std::max<int64_t>(1, kBandFloats / floats_of_row);
    band = std::clamp<int64_t>((rows + wanted - 1) / wanted, 1, most);
    in_sample = (rows + band - 1) / band;
  }

  int64_t count() const { return samples * in_sample; }

  // Calls function(sample, first row, last row, scratch) for bands [begin, end).
  template <typename Function>
  void run(const SmallChannelShape& s, bool to_image, int64_t begin, int64_t end,
           const Function& function) const {
    const SmallChannelSizes sizes = small_channel_kernels().sizes(s, to_image, band);
    const auto floats = scratch<float>(sizes.scratch);
    const auto offsets = scratch<int32_t>(sizes.offsets);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % in_sample * band;
      function(i / in_sample, first, std::min(rows, first + band),
               SmallChannelScratch{floats.get(), offsets.get()});
    }
  }
};

Tensor small_channel_conv(Tensor image, Tensor weight, std::optional<Tensor> bias, Sizes stride,
                          Sizes padding, Sizes size, int64_t activation, double slope) {
  const Sizes from = sizes_of(image, "image");
  check_weight(weight, image, sizes_of(weight, "weight")[0], from[1]);
  check_pair(size, "size", 1, 1 << 30);
  const Sizes to = {from[0], weight.size(0), size[0], size[1]};
  const SmallChannelShape s = shape_of(dtype_of(image), from, interleaved(image), to,
                                       {weight.size(2), weight.size(3)}, stride, padding);
  Tensor out = empty_channels_last(image, to[0], to[1], to[2], to[3]);
  const Epilogue e(bias, s.wide, activation, slope);
  const auto packed = packed_weight(s, weight, false);
  const Bands bands(from[0], s.rows, s.stride[0] * s.width * s.channels);
  const int64_t image_size = s.channels * s.height * s.width, out_size = s.wide * s.rows * s.columns;
  torch::stable::parallel_for(0, bands.count(), 1, [&](int64_t begin, int64_t end) {
    bands.run(s, false, begin, end,
              [&](int64_t n, int64_t first, int64_t last, SmallChannelScratch t) {
                small_channel_kernels().from_image(s, e, packed.get(), at(image, n * image_size),
                                                   first, last, at_mutable(out, n * out_size), t);
              });
  });
  return out;
}

void check_wide(const Tensor& wide) {
  STD_TORCH_CHECK(interleaved(wide), "wide: expected a channels-last tensor");
}

Tensor small_channel_conv_transpose(Tensor wide, Tensor weight, std::optional<Tensor> bias,
                                    Sizes stride, Sizes padding, Sizes size, int64_t activation,
                                    double slope, bool channels_last) {
  const Sizes from = sizes_of(wide, "wide");
  check_wide(wide);
  check_weight(weight, wide, from[1], 0);
  check_pair(size, "size", 1, 1 << 30);
  const Sizes to = {from[0], weight.size(1), size[0], size[1]};
  const SmallChannelShape s = shape_of(dtype_of(wide), to, channels_last, from,
                                       {weight.size(2), weight.size(3)}, stride, padding);
  Tensor out = channels_last ? empty_channels_last(wide, to[0], to[1], to[2], to[3])
                             : torch::stable::new_empty(wide, {to[0], to[1], to[2], to[3]});
  const Epilogue e(bias, s.channels, activation, slope);
  const auto packed = packed_weight(s, weight, true);
  const Bands bands(from[0], s.height, 1);
  const int64_t image_size = s.channels * s.height * s.width, wide_size = s.wide * s.rows * s.columns;
  torch::stable::parallel_for(0, bands.count(), 1, [&](int64_t begin, int64_t end) {
    bands.run(s, true, begin, end,
              [&](int64_t n, int64_t first, int64_t last, SmallChannelScratch t) {
                small_channel_kernels().to_image(s, e, packed.get(), at(wide, n * wide_size), first,
                                                 last, at_mutable(out, n * image_size), t);
              });
  });
  return out;
}

// dweight[k][tap] = the sum of the partials, in order and in double.
void merge(const SmallChannelShape& s, const float* sums, int64_t partials, int64_t columns,
           float* out) {
  const int64_t taps = s.taps(), size = taps * columns;
  torch::stable::parallel_for(0, taps, grain(partials * columns), [&](int64_t begin, int64_t end) {
    std::vector<double> total(s.wide);
    for (int64_t tap = begin; tap < end; ++tap) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t i = 0; i < partials; ++i) {
        const float* const own = sums + i * size + tap * columns;
        for (int64_t k = 0; k < s.wide; ++k) total[k] += own[k];
      }
      for (int64_t k = 0; k < s.wide; ++k) out[k * taps + tap] = static_cast<float>(total[k]);
    }
  });
}

Tensor small_channel_conv_weight(Tensor image, Tensor wide, Sizes kernel, Sizes stride,
                                 Sizes padding) {
  const Sizes from = sizes_of(image, "image"), to = sizes_of(wide, "wide");
  check_wide(wide);
  STD_TORCH_CHECK(from[0] == to[0] && image.scalar_type() == wide.scalar_type(),
                  "wide: expected the batch and dtype of image");
  const SmallChannelShape s =
      shape_of(dtype_of(image), from, interleaved(image), to, kernel, stride, padding);
  Tensor out = torch::stable::new_empty(image, {s.wide, s.channels, kernel[0], kernel[1]},
                                        ScalarType::Float);
  const Bands bands(from[0], s.rows, s.stride[0] * s.width * s.channels);
  const int64_t columns = small_channel_kernels().sizes(s, false, 1).sum_columns,
                size = s.taps() * columns;
  const int64_t most = std::clamp<int64_t>(kPartialFloats / size, 1, kPartials);
  const int64_t partials = std::min(most, bands.count());
  const auto sums = scratch<float>(partials * size);
  const int64_t image_size = s.channels * s.height * s.width, wide_size = s.wide * s.rows * s.columns;
  torch::stable::parallel_for(0, partials, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* const own = sums.get() + i * size;
      std::fill(own, own + size, 0.0f);
      const int64_t first_band = i * bands.count() / partials;
      const int64_t last_band = (i + 1) * bands.count() / partials;
      bands.run(s, false, first_band, last_band,
                [&](int64_t n, int64_t first, int64_t last, SmallChannelScratch t) {
                  small_channel_kernels().weight(s, at(image, n * image_size),
                                                 at(wide, n * wide_size), first, last, own, t);
                });
    }
  });
  merge(s, sums.get(), partials, columns, static_cast<float*>(out.data_ptr()));
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("small_channel_conv", TORCH_BOX(&fastgan::small_channel_conv));
  m.impl("small_channel_conv_transpose", TORCH_BOX(&fastgan::small_channel_conv_transpose));
  m.impl("small_channel_conv_weight", TORCH_BOX(&fastgan::small_channel_conv_weight));
}
