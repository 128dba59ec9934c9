// Storage types and 16-byte packs. Free of torch and CUDA includes: a host test compiles the same
// code; on the device the conversions are single instructions.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise.h"

// Register arrays live in registers only where every index is known after unrolling.
#ifdef __CUDA_ARCH__
#define FASTGAN_UNROLL _Pragma("unroll")
#else
#define FASTGAN_UNROLL
#endif

namespace fastgan {
namespace cuda {

struct Bf16 {
  std::uint16_t bits;
};
struct Fp16 {
  std::uint16_t bits;
};

FASTGAN_HD float float_of_bits(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

FASTGAN_HD std::uint32_t bits_of_float(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

FASTGAN_HD float to_float(float value) { return value; }

FASTGAN_HD float to_float(Bf16 value) { return float_of_bits(std::uint32_t(value.bits) << 16); }

FASTGAN_HD float to_float(Fp16 value) {
#ifdef __CUDA_ARCH__
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
  return out;
#else
  // A half's exponent and fraction, moved to a float's place, are the value times 2^-112; the
  // product restores it and is exact for subnormals too. Infinities and NaNs need the top exponent.
  const std::uint32_t sign = std::uint32_t(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = std::uint32_t(value.bits & 0x7fffu) << 13;
  if ((value.bits & 0x7c00u) == 0x7c00u) {
    return float_of_bits(sign | 0x7f800000u | magnitude);
  }
  return float_of_bits(sign | bits_of_float(float_of_bits(magnitude) * 0x1p112f));
#endif
}

template <typename T>
struct Convert;

template <>
struct Convert<float> {
  static FASTGAN_HD float from(float value) { return value; }
};

template <>
struct Convert<Bf16> {
  static FASTGAN_HD Bf16 from(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    Bf16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
    return out;
#else
    const std::uint32_t bits = bits_of_float(value);
    if (value != value) {
      return {std::uint16_t(0x7fff)};
    }
    return {std::uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
  }
};

template <>
struct Convert<Fp16> {
  static FASTGAN_HD Fp16 from(float value) {
#ifdef __CUDA_ARCH__
    Fp16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
    return out;
#else
    const std::uint32_t bits = bits_of_float(value);
    const std::uint16_t sign = std::uint16_t((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      return {std::uint16_t(sign | 0x7fffu)};
    }
    if (magnitude >= 0x477ff000u) {  // 65520: rounds beyond the largest half
      return {std::uint16_t(sign | 0x7c00u)};
    }
    if (magnitude < 0x38800000u) {  // below 2^-14: a subnormal half, in steps of 2^-24
      // Adding 0.5 places the value's 2^-24 at the last bit of a float, rounding to even.
      const std::uint32_t sum = bits_of_float(float_of_bits(magnitude) + 0.5f);
      return {std::uint16_t(sign | (sum - 0x3f000000u))};
    }
    const std::uint32_t rebased = magnitude - 0x38000000u;
    return {std::uint16_t(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13))};
#endif
  }
};

// Two 16-bit elements in one register, the first in the low half: one instruction from sm_80 on.
template <typename T>
FASTGAN_HD std::uint32_t pack_pair(float low, float high) {
  return std::uint32_t(Convert<T>::from(low).bits) |
         (std::uint32_t(Convert<T>::from(high).bits) << 16);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
FASTGAN_HD std::uint32_t pack_pair<Bf16>(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <>
FASTGAN_HD std::uint32_t pack_pair<Fp16>(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
#endif

// Elements of T that one 16-byte access holds.
template <typename T>
constexpr int kWide = 16 / int(sizeof(T));

// V elements as they lie in memory: V is kWide<T> (one 16-byte access) or 1.
template <typename T, int V>
struct Pack {
  static_assert(V == kWide<T>, "a pack is 16 bytes or one element");
  alignas(16) std::uint32_t word[4];

  static FASTGAN_HD Pack zero() { return {{0u, 0u, 0u, 0u}}; }

  FASTGAN_HD void unpack(float (&value)[V]) const {
    FASTGAN_UNROLL
    for (int w = 0; w < 4; ++w) {
      if constexpr (sizeof(T) == 4) {
        value[w] = float_of_bits(word[w]);
      } else {
        value[2 * w] = to_float(T{std::uint16_t(word[w] & 0xffffu)});
        value[2 * w + 1] = to_float(T{std::uint16_t(word[w] >> 16)});
      }
    }
  }

  static FASTGAN_HD Pack pack(const float (&value)[V]) {
    Pack out;
    FASTGAN_UNROLL
    for (int w = 0; w < 4; ++w) {
      if constexpr (sizeof(T) == 4) {
        out.word[w] = bits_of_float(value[w]);
      } else {
        out.word[w] = pack_pair<T>(value[2 * w], value[2 * w + 1]);
      }
    }
    return out;
  }
};

template <typename T>
struct Pack<T, 1> {
  T value_;

  static FASTGAN_HD Pack zero() { return {Convert<T>::from(0.0f)}; }
  FASTGAN_HD void unpack(float (&value)[1]) const { value[0] = to_float(value_); }
  static FASTGAN_HD Pack pack(const float (&value)[1]) { return {Convert<T>::from(value[0])}; }
};

// `address` is in global memory.
template <typename T, int V>
FASTGAN_HD Pack<T, V> load(const T* address) {
#ifdef __CUDA_ARCH__
  if constexpr (V > 1) {
    const uint4 words = *reinterpret_cast<const uint4*>(address);
    return {{words.x, words.y, words.z, words.w}};
  } else {
    return {*address};
  }
#else
  Pack<T, V> out;
  std::memcpy(&out, address, sizeof(out));
  return out;
#endif
}

// `address` is in global memory. The intrinsic is one 16-byte store; an assignment was seen to
// become four of 4 bytes.
template <typename T, int V>
FASTGAN_HD void store(T* address, const Pack<T, V>& pack) {
#ifdef __CUDA_ARCH__
  if constexpr (V > 1) {
    __stwb(reinterpret_cast<uint4*>(address),
           make_uint4(pack.word[0], pack.word[1], pack.word[2], pack.word[3]));
  } else {
    *address = pack.value_;
  }
#else
  std::memcpy(address, &pack, sizeof(pack));
#endif
}

// Kernels take an activation as a type: LeakyRelu after the norm, which nearly every layer has, or
// any, as an Act. That one is a uniform branch a pack: six combinations of activation and order
// times every dtype, layout and target would multiply the build, and all arms of the branch, of
// which tanh is the largest, ask for registers. `f` of `with_act` receives compile-time constants.
struct Act {
  int kind;
  bool first;
  float slope;
};

struct LeakyRelu {
  static constexpr int kind = kLeakyRelu;
  static constexpr bool first = false;
  float slope;
};

template <int A, bool First>
struct ActTag {
  static constexpr int kind = A;
  static constexpr bool first = First;
};

template <bool First, typename F>
FASTGAN_HD void with_kind(int kind, const F& f) {
  switch (kind) {
    case kTanh: f(ActTag<kTanh, First>()); break;
    case kSigmoid: f(ActTag<kSigmoid, First>()); break;
    default: f(ActTag<kLeakyRelu, First>()); break;
  }
}

template <typename F>
FASTGAN_HD void with_act(const LeakyRelu&, const F& f) {
  f(ActTag<kLeakyRelu, false>());
}

template <typename F>
FASTGAN_HD void with_act(const Act& act, const F& f) {
  if (act.first) {
    with_kind<true>(act.kind, f);
  } else {
    with_kind<false>(act.kind, f);
  }
}

// f(LeakyRelu) or f(Act), on the host; single elements, which are few, take an Act.
template <int V, typename F>
void for_act(const Act& act, const F& f) {
  if constexpr (V > 1) {
    if (act.kind == kLeakyRelu && !act.first) {
      return f(LeakyRelu{act.slope});
    }
  }
  f(act);
}

}  // namespace cuda
}  // namespace fastgan
