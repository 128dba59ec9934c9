// The kernels of gather_images: bytes to numbers in [-1, 1], rows mirrored where asked for.
#include <cstring>

#include "cpu/gather_images/kernel.h"
#include "cpu/simd/isa.h"

namespace fastgan {
namespace {

constexpr float kHalf = 127.5f;
typedef uint8_t VecB __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 4)));

FASTGAN_HD VecF load_bytes(const uint8_t* p) {
  VecB b;
  std::memcpy(&b, p, sizeof b);
#if defined(__AVX512F__)
  return __builtin_convertvector(bits_as<VecI>(_mm512_cvtepu8_epi32(bits_as<__m128i>(b))), VecF);
#elif defined(__AVX2__)
  __m128i low = _mm_setzero_si128();
  std::memcpy(&low, &b, sizeof b);
  return __builtin_convertvector(bits_as<VecI>(_mm256_cvtepu8_epi32(low)), VecF);
#else
  return __builtin_convertvector(b, VecF);
#endif
}

// A quotient and a difference, each rounded: the reference's bits.
template <typename T>
void scale(const uint8_t* source, T* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<float> <= count; i += kLanes<float>) {
    store(out + i, load_bytes(source + i) / kHalf - 1.0f);
  }
  for (; i < count; ++i) store1(out + i, float(source[i]) / kHalf - 1.0f);
}

template <int64_t C>
void mirror(const uint8_t* row, int64_t width, uint8_t* out) {
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t c = 0; c < C; ++c) out[x * C + c] = row[(width - 1 - x) * C + c];
  }
}

void mirror_any(const uint8_t* row, int64_t width, int64_t channels, uint8_t* out) {
  switch (channels) {
    case 1: return mirror<1>(row, width, out);
    case 2: return mirror<2>(row, width, out);
    case 3: return mirror<3>(row, width, out);
    case 4: return mirror<4>(row, width, out);
  }
  for (int64_t x = 0; x < width; ++x) {
    std::memcpy(out + x * channels, row + (width - 1 - x) * channels, channels);
  }
}

template <typename T>
void scale_rows(const ImageRows& r) {
  T* out = static_cast<T*>(r.out);
  const int64_t row = r.width * r.channels;
  if (!r.mirrored) return scale(r.source, out, r.rows * row);
  for (int64_t y = 0; y < r.rows; ++y) {
    mirror_any(r.source + y * row, r.width, r.channels, r.scratch);
    scale(r.scratch, out + y * row, row);
  }
}

void scale_any(const ImageRows& r) {
  with_type(r.dtype, [&](auto type) { scale_rows<decltype(type)>(r); });
}

}  // namespace

extern const GatherKernels FASTGAN_OF_ISA(kGatherKernels);
const GatherKernels FASTGAN_OF_ISA(kGatherKernels) = {scale_any};

}  // namespace fastgan
