// A plain C interface to csrc/cuda's gather_images on the host, for ctypes; see emulate.cpp.
#include <type_traits>

#include "emulate.h"

#include "cuda/gather_images/kernel.h"

using namespace fastgan;
using namespace fastgan::cuda;

template <typename T, typename... Args>
int run(bool wide, void* out, const Args&... args) {
  HostExecutor launcher(4, 0, 1);
  if (wide) {
    run_gather<T, kWide<T>>(launcher, args..., static_cast<T*>(out));
  } else {
    run_gather<T, 1>(launcher, args..., static_cast<T*>(out));
  }
  return launcher.launches() * 32;
}

extern "C" int emulate_gather(long long dtype, long long wide, long long count, long long batch,
                              long long height, long long width, long long channels,
                              const void* images, const void* index, const void* flips,
                              void* out) {
  const auto by_type = [&](auto type) {
    return run<decltype(type)>(wide != 0, out, count, batch, height, width, channels,
                               static_cast<const std::uint8_t*>(images),
                               static_cast<const std::int64_t*>(index),
                               static_cast<const bool*>(flips));
  };
  switch (dtype) {
    case 0: return by_type(float{});
    case 1: return by_type(Bf16{});
    case 2: return by_type(Fp16{});
    default: return -1;
  }
}
