// The loops of transpose: squares of a vector's length in registers, and few rows or columns, such
// as the channels of an image, one by one.
#include "cpu/transpose/kernel.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd/isa.h"
#include "cpu/simd/transpose.h"

namespace fastgan {
namespace {

constexpr int kSide = kLanes<float>;
template <typename T>  // of 4 or 2 bytes
using SideOf = std::conditional_t<sizeof(T) == sizeof(uint32_t), VecU, VecH>;

// A square at the edge has fewer rows or columns. A row is read to a vector's end where memory goes
// on: what follows it lands in columns that are not written.
template <typename T>
void square(const T* x, int64_t ld, int rows, int columns, const T* end, T* out, int64_t ld_out) {
  using Vec = SideOf<T>;
  Vec v[kSide];
  for (int i = 0; i < kSide; ++i) {
    const T* row = x + i * ld;
    if (i < rows && row + kSide <= end) {
      std::memcpy(&v[i], row, sizeof(Vec));
    } else {
      v[i] = Vec{};
      if (i < rows) std::memcpy(&v[i], row, columns * sizeof(T));
    }
  }
  transpose(v);
  for (int j = 0; j < columns; ++j) {
    std::memcpy(out + j * ld_out, &v[j], rows == kSide ? sizeof(Vec) : rows * sizeof(T));
  }
}

template <typename T>
void whole_square(const T* x, int64_t ld, T* out, int64_t ld_out) {
  using Vec = SideOf<T>;
  Vec v[kSide];
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) std::memcpy(&v[i], x + i * ld, sizeof(Vec));
  transpose(v);
#pragma GCC unroll 16
  for (int j = 0; j < kSide; ++j) std::memcpy(out + j * ld_out, &v[j], sizeof(Vec));
}

template <typename T>
void squares(const Rectangle& r, const T* x, T* out) {
  const T* end = static_cast<const T*>(r.end);
  for (int64_t i = r.first_row; i < r.last_row; i += kSide) {
    const int rows = int(std::min<int64_t>(kSide, r.last_row - i));
    for (int64_t j = r.first_column; j < r.last_column; j += kSide) {
      const int columns = int(std::min<int64_t>(kSide, r.last_column - j));
      const T* from = x + i * r.columns + j;
      T* to = out + j * r.rows + i;
      if (rows == kSide && columns == kSide) {
        whole_square(from, r.columns, to, r.rows);
      } else {
        square(from, r.columns, rows, columns, end, to, r.rows);
      }
    }
  }
}

template <int Rows, typename T>
void few_rows(const Rectangle& r, const T* x, T* out) {
  for (int64_t j = r.first_column; j < r.last_column; ++j) {
    for (int i = 0; i < Rows; ++i) out[j * Rows + i] = x[i * r.columns + j];
  }
}

template <int Columns, typename T>
void few_columns(const Rectangle& r, const T* x, T* out) {
  for (int64_t i = r.first_row; i < r.last_row; ++i) {
    for (int j = 0; j < Columns; ++j) out[j * r.rows + i] = x[i * Columns + j];
  }
}

template <typename T>
void transpose_part(const Rectangle& r) {
  const T* __restrict x = static_cast<const T*>(r.x);
  T* __restrict out = static_cast<T*>(r.out);
  if (r.rows == 2) return few_rows<2>(r, x, out);
  if (r.rows == 3) return few_rows<3>(r, x, out);
  if (r.rows == 4) return few_rows<4>(r, x, out);
  if (r.columns == 2) return few_columns<2>(r, x, out);
  if (r.columns == 3) return few_columns<3>(r, x, out);
  if (r.columns == 4) return few_columns<4>(r, x, out);
  squares(r, x, out);
}

void transpose_any(const Rectangle& r) {
  r.bytes == 4 ? transpose_part<uint32_t>(r) : transpose_part<uint16_t>(r);
}

}  // namespace

extern const TransposeKernels FASTGAN_OF_ISA(kTransposeKernels);
const TransposeKernels FASTGAN_OF_ISA(kTransposeKernels) = {transpose_any};

}  // namespace fastgan
