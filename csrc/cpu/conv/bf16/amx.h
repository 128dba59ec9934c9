// Products of bfloat16 by AMX for bfloat16's convolutions (cpu/conv/bf16/kernel.h): tiles of 16 rows
// of 64 bytes. In an unnamed namespace, as cpu/simd/vec.h and for the same reason.
//
// A tile of pairs times another adds 16 x 16 sums of 16 pairs each: the left one has the outputs for
// rows, the right one the pairs, which is how panels of packed weights lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/conv/bf16/product.h"

// Beside the products of AVX512-BF16.
#if defined(__AVX512BF16__) && FASTGAN_AMX_KERNELS
#define FASTGAN_AMX 1
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16")
#endif

namespace fastgan {
namespace {

// The pixels that a weight gradient's terms meet at a tap, as tiles.
template <bool Amx>
struct PixelTiles {
  PixelTiles(const void*, int64_t) {}
};

#if FASTGAN_AMX

constexpr int64_t kTile = 16;                  // rows of a tile, and pairs or sums of one
constexpr int64_t kTileLanes = kTile * kTile;  // of 32 bits
constexpr int64_t kBlock = 2 * kTile;          // two tiles, rows and columns of the sums held at once

inline uint32_t* aligned(void* p) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  return reinterpret_cast<uint32_t*>((at + 63) / 64 * 64);
}

// The tile registers, as long as one lives: all of them whole tiles.
class TileRegisters {
 public:
  TileRegisters() {
    for (int i = 0; i < 8; ++i) {
      shape_.bytes[i] = 64;
      shape_.rows[i] = kTile;
    }
    _tile_loadconfig(&shape_);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shape_;
};

// The products of a block of one or two tiles of rows by one or two of columns. The tiles of a row lie
// side by side; those of the columns in runs of `run`, b_step apart, the first `column` values behind
// b[r], their rows b_ld apart.
struct BlockProduct {
  int64_t steps;
  const uint32_t* a;
  int64_t a_next;  // to the second row of tiles
  const uint32_t* const* b;
  int64_t run, b_step, b_ld, column;
};

// They are added to what lies at `before`, if it is not null, and written to `to`.
struct BlockSums {
  const float* before;
  int64_t before_ld;
  float* to;
  int64_t ld;
};

template <bool Rows, bool Columns>
void multiply_block_of(const BlockProduct& o, const BlockSums& sums) {
  constexpr int64_t lane = sizeof(uint32_t);
  asm volatile("" ::: "memory");  // the loads of tiles do not say that they read memory
  if (sums.before) {
    const float* const p = sums.before;
    const int64_t ld = sums.before_ld;
    _tile_loadd(0, p, ld * lane);
    if (Columns) _tile_loadd(1, p + kTile, ld * lane);
    if (Rows) _tile_loadd(2, p + kTile * ld, ld * lane);
    if (Rows && Columns) _tile_loadd(3, p + kTile * ld + kTile, ld * lane);
  } else {
    _tile_zero(0);
    if (Columns) _tile_zero(1);
    if (Rows) _tile_zero(2);
    if (Rows && Columns) _tile_zero(3);
  }
  const uint32_t* a = o.a;
  for (int64_t r = 0; r * o.run < o.steps; ++r) {
    const uint32_t* b = o.b[r] + o.column;
    for (int64_t k = 0; k < o.run; ++k, a += kTileLanes, b += o.b_step) {
      _tile_loadd(6, b, o.b_ld * lane);
      _tile_loadd(4, a, kTile * lane);
      if (Columns) _tile_loadd(7, b + kTile, o.b_ld * lane);
      _tile_dpbf16ps(0, 4, 6);
      if (Rows) _tile_loadd(5, a + o.a_next, kTile * lane);
      if (Columns) _tile_dpbf16ps(1, 4, 7);
      if (Rows) _tile_dpbf16ps(2, 5, 6);
      if (Rows && Columns) _tile_dpbf16ps(3, 5, 7);
    }
  }
  float* const p = sums.to;
  _tile_stored(0, p, sums.ld * lane);
  if (Columns) _tile_stored(1, p + kTile, sums.ld * lane);
  if (Rows) _tile_stored(2, p + kTile * sums.ld, sums.ld * lane);
  if (Rows && Columns) _tile_stored(3, p + kTile * sums.ld + kTile, sums.ld * lane);
}

inline void multiply_block(int64_t rows, int64_t columns, const BlockProduct& o,
                           const BlockSums& sums) {
  if (rows > kTile && columns > kTile) return multiply_block_of<true, true>(o, sums);
  if (rows > kTile) return multiply_block_of<true, false>(o, sums);
  if (columns > kTile) return multiply_block_of<false, true>(o, sums);
  multiply_block_of<false, false>(o, sums);
}

// In place where 16 of them lie side by side, else copied.
template <>
class PixelTiles<true> {
 public:
  // at: a list of the terms' places, with `size` lanes of 32 bits in all.
  PixelTiles(int32_t* at, int64_t terms)
      : at_(at),
        found_(reinterpret_cast<const uint32_t**>(aligned(at + terms))),
        copies_(aligned(found_ + kSides * terms / kTile)) {}

  static int64_t size(int64_t terms) {
    constexpr int64_t pointer = sizeof(void*) / sizeof(float), line = 64 / sizeof(float);
    return terms + kSides * terms / kTile * pointer + terms * kPanel + 2 * line;
  }

  // Of `count` terms, each `wide` values of a panel at_[term] values behind b.
  void find(const uint32_t* b, int64_t count, bool in_place, int64_t wide) {
    steps_ = ceil_div(count, kTile);
    ld_ = in_place ? kPanel : kBlock;
    const uint32_t** found = found_;
    uint32_t* copy = copies_;
    for (int64_t column = 0; column < wide; column += kBlock) {
      const int64_t columns = std::min(kBlock, wide - column);
      for (int64_t k = 0; k < steps_; ++k, copy += kTile * kBlock) {
        *found++ = in_place ? b + at_[k * kTile] + column : copy;
        if (!in_place) copy_tile(b + column, k * kTile, count, columns, copy);
      }
    }
  }

  // Sums of their products with the tiles of terms at a, of `high` channels.
  void products(const uint32_t* a, const BlockSums& sums, int64_t high, int64_t wide) const {
    for (int64_t column = 0; column < wide; column += kBlock) {
      const uint32_t* const* const b = found_ + column / kBlock * steps_;
      for (int64_t row = 0; row < high; row += kBlock) {
        const float* const before = sums.before ? sums.before + row * sums.before_ld + column : nullptr;
        multiply_block(
            std::min(kBlock, high - row), std::min(kBlock, wide - column),
            {steps_, a + row * steps_ * kTile, steps_ * kTileLanes, b, 1, 0, ld_, 0},
            {before, sums.before_ld, sums.to + row * sums.ld + column, sums.ld});
      }
    }
  }

 private:
  static constexpr int64_t kSides = kPanel / kBlock;

  void copy_tile(const uint32_t* b, int64_t first, int64_t count, int64_t columns,
                 uint32_t* to) const {
    for (int64_t t = first; t < first + kTile; ++t, to += kBlock) {
      const uint32_t* const pixel = t < count ? b + at_[t] : nullptr;
      for (int64_t c = 0; c < columns; c += kTile) {
        store_pairs(to + c, pixel ? load_pairs(pixel + c) : VecU{});
      }
    }
  }

  int32_t* const at_;
  const uint32_t** const found_;
  uint32_t* const copies_;
  int64_t steps_ = 0, ld_ = 0;
};
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace fastgan
