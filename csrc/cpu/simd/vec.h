// Vectors of float and double by GCC's vector extension, as wide as the instruction set this file
// is compiled for, and their loads and stores from every storage type.
//
// Everything stands in an unnamed namespace: the including file is compiled once for each
// instruction set, and no copy may replace another at link time.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/runtime/tiles.h"
#include "elementwise.h"

#if defined(__AVX512F__)
#define FASTGAN_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTGAN_VECTOR_BYTES 32
#else
#define FASTGAN_VECTOR_BYTES 16
#endif

namespace fastgan {
namespace {

typedef float VecF __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
typedef uint16_t VecH __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 2)));
typedef int64_t VecL __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
typedef float VecN __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 2)));  // as many as a VecD

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <typename To, typename From>
FASTGAN_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Accumulation type, its vector and the number of lanes for a storage type T.
template <typename T>
struct Storage {
  using Acc = float;
  using Vec = VecF;
};
template <>
struct Storage<double> {
  using Acc = double;
  using Vec = VecD;
};
template <typename T>
using AccOf = typename Storage<T>::Acc;
template <typename T>
using VecOf = typename Storage<T>::Vec;
template <typename T>
constexpr int64_t kLanes = sizeof(VecOf<T>) / sizeof(AccOf<T>);

// ---- one element

FASTGAN_HD float load1(const float* p) { return *p; }
FASTGAN_HD double load1(const double* p) { return *p; }
FASTGAN_HD float load1(const BFloat16* p) { return bits_as<float>(uint32_t(p->bits) << 16); }
FASTGAN_HD float load1(const Half* p) {
  const uint32_t magnitude = uint32_t(p->bits & 0x7fffu) << 13;
  // 2^112 moves the exponent bias from 15 to 127, subnormals included.
  uint32_t bits = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
  if ((p->bits & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  return bits_as<float>(bits | uint32_t(p->bits & 0x8000u) << 16);
}

FASTGAN_HD void store1(float* p, float v) { *p = v; }
FASTGAN_HD void store1(double* p, double v) { *p = v; }
FASTGAN_HD void store1(BFloat16* p, float v) {
  const uint32_t u = bits_as<uint32_t>(v);
  p->bits = v != v ? 0x7fc0 : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
FASTGAN_HD void store1(Half* p, float v) {
  const uint32_t u = bits_as<uint32_t>(v);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    p->bits = uint16_t(sign | 0x7e00u);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65520 or more: infinity
    p->bits = uint16_t(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal: let the adder round at 2^-24
    const float shifted = bits_as<float>(magnitude) + 0.5f;
    p->bits = uint16_t(sign | (bits_as<uint32_t>(shifted) - 0x3f000000u));
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    p->bits = uint16_t(sign | ((rounded - 0x38000000u) >> 13));
  }
}

// ---- one vector

FASTGAN_HD VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FASTGAN_HD VecD load(const double* p) {
  VecD v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FASTGAN_HD VecF load(const BFloat16* p) {
  VecH h;
  std::memcpy(&h, p, sizeof h);
#if defined(__AVX512BW__)  // half i to the upper half of lane i, in one shuffle
  const VecI lane = VecI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001;
  const __m512i halves = _mm512_castsi256_si512(bits_as<__m256i>(h));
  return bits_as<VecF>(
      _mm512_maskz_permutexvar_epi16(0xaaaaaaaau, bits_as<__m512i>(lane), halves));
#elif defined(__AVX2__)
  return bits_as<VecF>(bits_as<VecU>(_mm256_cvtepu16_epi32(bits_as<__m128i>(h))) << 16);
#else
  return bits_as<VecF>(__builtin_convertvector(h, VecU) << 16);
#endif
}
FASTGAN_HD VecF load(const Half* p) {
#if defined(__AVX512F__)
  return bits_as<VecF>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__) && defined(__F16C__)
  return bits_as<VecF>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  VecF v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = load1(p + i);
  return v;
#endif
}

FASTGAN_HD void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }
FASTGAN_HD void store(double* p, VecD v) { std::memcpy(p, &v, sizeof v); }
FASTGAN_HD void store(BFloat16* p, VecF v) {
#if defined(__AVX512BF16__)  // flushes subnormals, of which there are none to speak of
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      bits_as<__m256i>(_mm512_cvtneps_pbh(bits_as<__m512>(v))));
  return;
#endif
  const VecU u = bits_as<VecU>(v);
  const VecU rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VecU quiet = VecU{} + 0x7fc0u;
  const VecH h = __builtin_convertvector(v == v ? rounded : quiet, VecH);
  std::memcpy(p, &h, sizeof h);
}
FASTGAN_HD void store(Half* p, VecF v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__) && defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) store1(p + i, v[i]);
#endif
}

// ---- non-temporal stores

// Writes a whole vector to memory aligned to its size, without a cache's reading that memory first.
template <typename T>
FASTGAN_HD void stream(T* p, VecOf<T> v) {
#if defined(__AVX2__)
  struct {
    T of[kLanes<T>];
  } whole;
  store(whole.of, v);
  if constexpr (sizeof whole == 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), bits_as<__m128i>(whole));
  } else if constexpr (sizeof whole == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits_as<__m256i>(whole));
  } else {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bits_as<__m512i>(whole));
#endif
  }
#else
  store(p, v);
#endif
}

// What was streamed comes before what this thread writes next.
FASTGAN_HD void end_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// ---- the first n lanes of a vector, n less than it has

// Copies n elements to or from a whole vector's memory; to it with zeros behind them.
template <typename T>
FASTGAN_HD void widen_part(T* to, const T* from, int64_t n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const uint32_t first = (1u << n) - 1;
  if constexpr (sizeof(T) == 2) {
    _mm256_storeu_epi16(to, _mm256_maskz_loadu_epi16(first, from));
  } else if constexpr (sizeof(T) == 4) {
    _mm512_storeu_epi32(to, _mm512_maskz_loadu_epi32(first, from));
  } else {
    _mm512_storeu_epi64(to, _mm512_maskz_loadu_epi64(first, from));
  }
#else
  for (int64_t i = 0; i < kLanes<T>; ++i) to[i] = i < n ? from[i] : T{};
#endif
}
template <typename T>
FASTGAN_HD void narrow_part(T* to, const T* from, int64_t n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const uint32_t first = (1u << n) - 1;
  if constexpr (sizeof(T) == 2) {
    _mm256_mask_storeu_epi16(to, first, _mm256_loadu_epi16(from));
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(to, first, _mm512_loadu_epi32(from));
  } else {
    _mm512_mask_storeu_epi64(to, first, _mm512_loadu_epi64(from));
  }
#else
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
#endif
}

template <typename T>
FASTGAN_HD VecOf<T> load(const T* p, int64_t n) {
  T whole[kLanes<T>];
  widen_part(whole, p, n);
  return load(whole);
}
template <typename T>
FASTGAN_HD void store(T* p, VecOf<T> v, int64_t n) {
  T whole[kLanes<T>];
  store(whole, v);
  narrow_part(p, whole, n);
}

// v with zeros in the lanes from n on.
template <typename V, typename Index>
FASTGAN_HD V first_lanes_by(V v, int64_t n, Index lane) {
  for (size_t i = 0; i < sizeof(V) / sizeof(v[0]); ++i) lane[i] = i;
  return lane < static_cast<std::remove_reference_t<decltype(lane[0])>>(n) ? v : V{};
}
FASTGAN_HD VecF first_lanes(VecF v, int64_t n) { return first_lanes_by(v, n, VecI{}); }
FASTGAN_HD VecD first_lanes(VecD v, int64_t n) { return first_lanes_by(v, n, VecL{}); }

// Lane i of the result is the sum of the lanes of v[i], by halves: of two vectors, one half of each
// is added to the other, so that a level costs as much as it leaves vectors.
template <typename V, typename Index, int lanes>
FASTGAN_HD V sums_of_lanes_by(V (&v)[lanes], Index lane) {
  for (int i = 0; i < lanes; ++i) lane[i] = i;
#pragma GCC unroll 16
  for (int half = lanes / 2; half > 0; half /= 2) {
    const Index second = lane & half ? Index{} + lanes : Index{};
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) {
      v[i] = __builtin_shuffle(v[i], v[i + half], lane + second) +
             __builtin_shuffle(v[i], v[i + half], (lane ^ half) + second);
    }
  }
  return v[0];
}
FASTGAN_HD VecF sums_of_lanes(VecF (&v)[kLanes<float>]) { return sums_of_lanes_by(v, VecI{}); }
FASTGAN_HD VecD sums_of_lanes(VecD (&v)[kLanes<double>]) { return sums_of_lanes_by(v, VecL{}); }

// e^x with about two units in the last place (Cephes' polynomial). NaN stays NaN; the clamp keeps
// 2^n a normal number.
FASTGAN_HD VecF exp_vec(VecF x) {
  x = x > 88.3f ? VecF{} + 88.3f : x;
  x = x < -87.3f ? VecF{} - 87.3f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const VecF shifted = x * 1.44269504088896341f + magic;
  const VecF n = shifted - magic;
  const VecF r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  VecF p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VecI exponent = (bits_as<VecI>(shifted) - bits_as<int32_t>(magic) + 127) << 23;
  return p * bits_as<VecF>(exponent);
}

}  // namespace

template <>
struct Math<VecF> {
  using Scalar = float;
  static FASTGAN_HD VecF sigmoid(VecF y) { return 1.0f / (1.0f + exp_vec(-y)); }
  // An odd polynomial near zero, where 1 - 2 / (e^2y + 1) would cancel.
  static FASTGAN_HD VecF tanh(VecF y) {
    const VecI sign = bits_as<VecI>(y) & INT32_MIN;
    const VecF size = bits_as<VecF>(bits_as<VecI>(y) & INT32_MAX);
    const VecF s = y * y;
    VecF p = s * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    const VecF small = p * s * y + y;
    const VecF large = 1.0f - 2.0f / (exp_vec(size + size) + 1.0f);
    return size < 0.625f ? small : bits_as<VecF>(bits_as<VecI>(large) | sign);
  }
};

template <>
struct Math<VecD> {
  using Scalar = double;
  static FASTGAN_HD VecD sigmoid(VecD y) {
    for (int i = 0; i < kLanes<double>; ++i) y[i] = Math<double>::sigmoid(y[i]);
    return y;
  }
  static FASTGAN_HD VecD tanh(VecD y) {
    for (int i = 0; i < kLanes<double>; ++i) y[i] = Math<double>::tanh(y[i]);
    return y;
  }
};

}  // namespace fastgan
