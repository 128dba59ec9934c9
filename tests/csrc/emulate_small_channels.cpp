// A plain C interface to csrc/cuda's small-channel convolutions on the host, for ctypes; see
// emulate.cpp.
#include "cuda/small_channels/launches.h"
#include "emulate.h"

using namespace fastgan;
using namespace fastgan::cuda;

struct SmallChannelProblem {
  int dtype;  // 0 float32, 1 bfloat16, 2 float16
  int wide_packs;
  int batch, channels, height, width, channels_last;
  int wide, rows, columns;
  int kernel[2], stride[2], padding[2];
  int kind;
  float slope;
  int sms;
};

static SmallChannelShape shape_of(const SmallChannelProblem& p) {
  SmallChannelShape s{};
  s.batch = p.batch;
  s.channels = p.channels;
  s.height = p.height;
  s.width = p.width;
  s.wide = p.wide;
  s.rows = p.rows;
  s.columns = p.columns;
  for (int d = 0; d < 2; ++d) {
    s.kernel[d] = p.kernel[d];
    s.stride[d] = p.stride[d];
    s.padding[d] = p.padding[d];
  }
  const std::int64_t plane = std::int64_t(p.height) * p.width;
  const std::int64_t pixel = p.channels_last ? p.channels : 1;
  const std::int64_t image[] = {plane * p.channels, p.channels_last ? 1 : plane, p.width * pixel,
                                pixel};
  const std::int64_t area = p.kernel[0] * p.kernel[1];
  const std::int64_t weight[] = {p.channels * area, area, p.kernel[1], 1};
  std::copy(image, image + 4, s.image_stride);
  std::copy(weight, weight + 4, s.weight_stride);
  set_divisors(s);
  return s;
}

template <typename T, typename F>
int run(const SmallChannelProblem& p, const F& f) {
  HostExecutor launcher(p.sms, 0, 1);
  const SmallChannelShape shape = shape_of(p);
  if (p.wide_packs) {
    f(launcher, shape, std::integral_constant<int, kWide<T>>(), T{});
  } else {
    f(launcher, shape, std::integral_constant<int, 1>(), T{});
  }
  return launcher.launches() * 32;
}

template <typename F>
int run(const SmallChannelProblem& p, const F& f) {
  switch (p.dtype) {
    case 0:
      return run<float>(p, f);
    case 1:
      return run<Bf16>(p, f);
    case 2:
      return run<Fp16>(p, f);
    default:
      return -1;
  }
}

extern "C" {

int emulate_small_channel_conv(const SmallChannelProblem* p, const void* image, const void* weight,
                               const float* bias, void* wide) {
  return run(*p, [&](HostExecutor& launcher, const SmallChannelShape& shape, auto v, auto t) {
    using T = decltype(t);
    run_small_channel_conv<T, decltype(v)::value>(
        launcher, shape, {bias, {p->kind, false, p->slope}}, static_cast<const T*>(image),
        static_cast<const T*>(weight), static_cast<T*>(wide));
  });
}

int emulate_small_channel_transpose(const SmallChannelProblem* p, const void* wide,
                                    const void* weight, const float* bias, void* image) {
  return run(*p, [&](HostExecutor& launcher, const SmallChannelShape& shape, auto v, auto t) {
    using T = decltype(t);
    run_small_channel_transpose<T, decltype(v)::value>(
        launcher, shape, {bias, {p->kind, false, p->slope}}, static_cast<const T*>(wide),
        static_cast<const T*>(weight), static_cast<T*>(image));
  });
}

int emulate_small_channel_weight(const SmallChannelProblem* p, const void* image, const void* wide,
                                 float* dweight) {
  return run(*p, [&](HostExecutor& launcher, const SmallChannelShape& shape, auto v, auto t) {
    using T = decltype(t);
    run_small_channel_weight<T, decltype(v)::value>(launcher, shape, static_cast<const T*>(image),
                                                    static_cast<const T*>(wide), dweight);
  });
}

}  // extern "C"
