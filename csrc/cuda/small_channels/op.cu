// Convolutions from and to an image of few channels: the ops' CUDA key. Kernels: cuda/small_channels/kernel.h,
// cuda/small_channels/weight.h; their launches, with the bytes they move: cuda/small_channels/launches.h.
#include <vector>

#include "cuda/device/launcher.cuh"
#include "cuda/small_channels/launches.h"

namespace fastgan {
namespace cuda {

using Sizes = std::vector<std::int64_t>;

static void check_pair(const Sizes& pair, const char* name, std::int64_t least,
                       std::int64_t most) {
  STD_TORCH_CHECK(pair.size() == 2, name, ": expected two numbers, got ", pair.size());
  for (const std::int64_t value : pair) {
    STD_TORCH_CHECK(value >= least && value <= most, name, ": expected ", least, " to ", most,
                    ", got ", value);
  }
}

static void check_4d(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.dim() == 4, name, ": expected a CUDA tensor (N, C, H, W), got ",
                  x.dim(), " dimensions");
}

// The sizes and strides of both tensors; the weight's strides are set apart.
static SmallChannelShape shape_of(const Tensor& image, const Tensor& wide, const Sizes& kernel,
                          const Sizes& stride, const Sizes& padding) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  check_pair(kernel, "kernel", 1, kMaxSmallKernel);
  check_pair(stride, "stride", 1, kMaxSmallChannels);
  check_pair(padding, "padding", 0, 1 << 20);
  STD_TORCH_CHECK(image.size(1) >= 1 && image.size(1) <= kMaxSmallChannels, "image: expected 1 to ",
                  kMaxSmallChannels, " channels, got ", image.size(1));
  STD_TORCH_CHECK(image.scalar_type() == wide.scalar_type() &&
                      image.get_device_index() == wide.get_device_index() &&
                      image.size(0) == wide.size(0),
                  "wide: expected the batch, dtype and device of image");
  STD_TORCH_CHECK(is_channels_last(wide), "wide: expected a channels-last tensor");
  STD_TORCH_CHECK(image.numel() > 0 && wide.numel() > 0 && image.numel() <= most &&
                      wide.size(0) * wide.size(2) * wide.size(3) <= most,
                  "image: expected 1 to ", most, " elements, and as many positions at most");
  SmallChannelShape s{};
  s.batch = int(image.size(0));
  s.channels = int(image.size(1));
  s.height = int(image.size(2));
  s.width = int(image.size(3));
  s.wide = int(wide.size(1));
  s.rows = int(wide.size(2));
  s.columns = int(wide.size(3));
  for (int d = 0; d < 4; ++d) {
    s.image_stride[d] = image.stride(d);
  }
  for (int d = 0; d < 2; ++d) {
    s.kernel[d] = int(kernel[d]);
    s.stride[d] = int(stride[d]);
    s.padding[d] = int(padding[d]);
  }
  set_divisors(s);
  return s;
}

static void set_weight(SmallChannelShape& s, const Tensor& weight, const Tensor& x) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == s.wide && weight.size(1) == s.channels &&
                      weight.scalar_type() == x.scalar_type() && weight.is_cuda() &&
                      weight.get_device_index() == x.get_device_index(),
                  "weight: expected (", s.wide, ", ", s.channels,
                  ", *k) of x's dtype and on its device");
  for (int d = 0; d < 4; ++d) {
    s.weight_stride[d] = weight.stride(d);
  }
}

static Tensor empty_channels_last(const Tensor& like, const Sizes& s) {
  Tensor t = torch::stable::new_empty(like, {s[0], s[2], s[3], s[1]});
  return torch::stable::transpose(torch::stable::transpose(t, 1, 3), 2, 3);
}

// f(Type<T>, V): 16-byte packs of the wide tensor where its channels divide into them.
template <typename F>
static void for_wide(const Tensor& wide, const F& f) {
  for_dtype(wide, [&](auto type) {
    constexpr int pack = kWide<typename decltype(type)::T>;
    if (wide.size(1) % pack == 0 && aligned(wide)) {
      f(type, Kind<pack, Layout::kChannelsLast>());
    } else {
      f(type, Kind<1, Layout::kChannelsLast>());
    }
  });
}

static Tensor small_channel_conv(Tensor image, Tensor weight, OptionalTensor bias, Sizes stride,
                        Sizes padding, Sizes size, std::int64_t activation, double slope) {
  check_4d(image, "image");
  check_4d(weight, "weight");
  check_pair(size, "size", 1, 1 << 20);
  Launcher launcher(image);
  Tensor wide = empty_channels_last(image, {image.size(0), weight.size(0), size[0], size[1]});
  SmallChannelShape shape = shape_of(image, wide, {weight.size(2), weight.size(3)}, stride, padding);
  set_weight(shape, weight, image);
  const SmallChannelEpilogue epilogue{float_data(bias, "bias", shape.wide, image),
                              make_act(activation, slope, false)};
  for_wide(wide, [&](auto type, auto kind) {
    using T = typename decltype(type)::T;
    run_small_channel_conv<T, decltype(kind)::V>(launcher, shape, epilogue, in<T>(image), in<T>(weight),
                                        out<T>(wide));
  });
  return wide;
}

static Tensor small_channel_conv_transpose(Tensor wide, Tensor weight, OptionalTensor bias, Sizes stride,
                                  Sizes padding, Sizes size, std::int64_t activation, double slope,
                                  bool channels_last) {
  check_4d(wide, "wide");
  check_4d(weight, "weight");
  check_pair(size, "size", 1, 1 << 20);
  Launcher launcher(wide);
  const Sizes sizes = {wide.size(0), weight.size(1), size[0], size[1]};
  Tensor image = channels_last
                     ? empty_channels_last(wide, sizes)
                     : torch::stable::new_empty(wide, {sizes[0], sizes[1], sizes[2], sizes[3]});
  SmallChannelShape shape = shape_of(image, wide, {weight.size(2), weight.size(3)}, stride, padding);
  set_weight(shape, weight, wide);
  const SmallChannelEpilogue epilogue{float_data(bias, "bias", shape.channels, wide),
                              make_act(activation, slope, false)};
  for_wide(wide, [&](auto type, auto kind) {
    using T = typename decltype(type)::T;
    run_small_channel_transpose<T, decltype(kind)::V>(launcher, shape, epilogue, in<T>(wide), in<T>(weight),
                                             out<T>(image));
  });
  return image;
}

static Tensor small_channel_conv_weight(Tensor image, Tensor wide, Sizes kernel, Sizes stride,
                               Sizes padding) {
  check_4d(image, "image");
  check_4d(wide, "wide");
  Launcher launcher(image);
  const SmallChannelShape shape = shape_of(image, wide, kernel, stride, padding);
  Tensor dweight = new_floats(image, {shape.wide, shape.channels, kernel[0], kernel[1]});
  for_wide(wide, [&](auto type, auto kind) {
    using T = typename decltype(type)::T;
    run_small_channel_weight<T, decltype(kind)::V>(launcher, shape, in<T>(image), in<T>(wide),
                                          float_out(dweight));
  });
  return dweight;
}

}  // namespace cuda
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("small_channel_conv", TORCH_BOX(&fastgan::cuda::small_channel_conv));
  m.impl("small_channel_conv_transpose", TORCH_BOX(&fastgan::cuda::small_channel_conv_transpose));
  m.impl("small_channel_conv_weight", TORCH_BOX(&fastgan::cuda::small_channel_conv_weight));
}
