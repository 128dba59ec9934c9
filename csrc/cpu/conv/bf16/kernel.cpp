// The kernels of bfloat16's convolutions (cpu/conv/bf16/kernel.h). Compiled once for each
// instruction set.
#include <algorithm>
#include <cstdint>

#include "cpu/conv/bf16/amx.h"
#include "cpu/conv/bf16/axis.h"
#include "cpu/conv/bf16/gradient.h"
#include "cpu/conv/bf16/kernel.h"
#include "cpu/conv/bf16/product.h"
#include "cpu/simd/isa.h"

namespace fastgan {
namespace {

// ---- weights

// A convolution sums over the image's channels, its transpose over the strided map's.
struct Sides {
  int64_t depth, columns;  // channels summed over, and of the output

  Sides(const Bf16Shape& s, bool transposed)
      : depth(transposed ? s.strided : s.image), columns(transposed ? s.image : s.strided) {}
  int64_t pairs() const { return depth / 2; }
};

int64_t packed_pairs(const Bf16Shape& s, bool transposed) {
  const Sides of(s, transposed);
  return s.across(of.columns) * kPanel * s.taps() * of.pairs();
}

// How far apart the taps lie that an output meets.
struct Spread {
  int64_t rows, columns;

  Spread(const Bf16Shape& s, bool transposed)
      : rows(transposed ? s.stride[0] : 1), columns(transposed ? s.stride[1] : 1) {}
};

// Calls function(tap) for those of each output one after the other.
template <typename Function>
void for_taps(const Bf16Shape& s, bool transposed, const Function& function) {
  const Spread by(s, transposed);
  for (int64_t row = 0; row < by.rows; ++row) {
    for (int64_t column = 0; column < by.columns; ++column) {
      for (int64_t i = row; i < s.kernel[0]; i += by.rows) {
        for (int64_t j = column; j < s.kernel[1]; j += by.columns) function(i * s.kernel[1] + j);
      }
    }
  }
}

// The place in this order of the taps that begin at (row, column).
int64_t taps_before(const Bf16Shape& s, bool transposed, int64_t row, int64_t column) {
  const Spread by(s, transposed);
  int64_t rows = 0, columns = 0;
  for (int64_t i = 0; i < row; ++i) rows += taps_from(i, s.kernel[0], by.rows);
  for (int64_t j = 0; j < column; ++j) columns += taps_from(j, s.kernel[1], by.columns);
  return rows * s.kernel[1] + taps_from(row, s.kernel[0], by.rows) * columns;
}

FASTGAN_HD VecU pairs_at(const BFloat16* p) { return load_pairs(reinterpret_cast<const uint32_t*>(p)); }
FASTGAN_HD VecU pairs_at(const float* p) {
#if defined(__AVX512BF16__)
  return bits_as<VecU>(
      _mm512_cvtne2ps_pbh(bits_as<__m512>(load(p + kWidth)), bits_as<__m512>(load(p))));
#endif
  BFloat16 low[2 * kWidth];
  store(low, load(p));
  store(low + kWidth, load(p + kWidth));
  return pairs_at(low);
}

// Pairs of channels [0, depth) for a vector of columns whose weights lie `pitch` apart.
template <typename T>
void pack_tap(const T* w, int64_t pitch, int64_t depth, uint32_t* to) {
  int64_t c = 0;
  for (; c + 2 * kWidth <= depth; c += 2 * kWidth) {
    VecF v[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) v[i] = bits_as<VecF>(pairs_at(w + i * pitch + c));
    transpose(v);
    for (int64_t i = 0; i < kWidth; ++i) store_pairs(to + (c / 2 + i) * kPanel, bits_as<VecU>(v[i]));
  }
  for (; c < depth; c += 2) {
    for (int64_t i = 0; i < kWidth; ++i) {
      BFloat16 pair[2];
      for (int half = 0; half < 2; ++half) store1(pair + half, load1(w + i * pitch + c + half));
      std::memcpy(to + c / 2 * kPanel + i, pair, sizeof pair);
    }
  }
}

// `columns` weights of rows that lie `pitch` apart, two rows to pairs.
template <typename T>
void pair_rows(const T* w, int64_t pitch, int64_t pairs, int64_t columns, uint32_t* to) {
  for (int64_t k = 0; k < pairs; ++k, w += 2 * pitch, to += kPanel) {
    for (int64_t c = 0; c < columns; c += kWidth) {
      store_pairs(to + c, interleave(w + c, w + pitch + c));
    }
  }
}

// [panel][tap][pair][column], taps in the order of for_taps.
template <typename T>
void pack_of(const Bf16Shape& s, bool transposed, const T* w, int64_t first, int64_t last,
             uint32_t* packed) {
  const Sides of(s, transposed);
  const int64_t pitch = s.taps() * s.image;  // weights of two channels of the strided map
  // For a convolution few columns at a time: the taps of one lie side by side.
  const int64_t step = transposed ? kPanel : kWidth, end = std::min(last * kPanel, of.columns);
  for (int64_t column = first * kPanel; column < end; column += step) {
    uint32_t* to = packed + column / kPanel * s.taps() * of.pairs() * kPanel + column % kPanel;
    for_taps(s, transposed, [&](int64_t tap) {
      const T* const at = w + tap * s.image;
      if (transposed) {
        pair_rows(at + column, pitch, of.pairs(), std::min(step, end - column), to);
      } else {
        pack_tap(at + column * pitch, pitch, of.depth, to);
      }
      to += of.pairs() * kPanel;
    });
  }
}

void pack(const Bf16Shape& s, bool transposed, const void* weight, int64_t first, int64_t last,
          uint32_t* packed) {
  if (s.weight == Dtype::kFloat32) {
    return pack_of(s, transposed, static_cast<const float*>(weight), first, last, packed);
  }
  pack_of(s, transposed, static_cast<const BFloat16*>(weight), first, last, packed);
}

// ---- a convolution and its transpose

constexpr int64_t kPointerFloats = sizeof(void*) / sizeof(float);

int64_t scratch_floats(const Bf16Shape& s, bool transposed, int64_t outputs) {
  // A source position of zeros, and pointers: of each output one for itself and one for each tap, of
  // the tile after the last, and of the taps' weights.
  const int64_t pointers = outputs * (s.taps() + 1) + kMaxRows + s.taps();
  return Sides(s, transposed).pairs() + pointers * kPointerFloats;
}

// What the outputs [first, first + count) of a piece meet at each tap, and where they lie.
struct Outputs {
  int64_t count;
  const uint32_t** met;  // [tap][output]
  BFloat16** out;

  void find(const Bf16Shape& s, bool transposed, const Bf16Piece& piece, int64_t first,
            const uint32_t* from, const uint32_t* nothing, BFloat16* to) const {
    const Sides of(s, transposed);
    const Bf16Axis down = Bf16Axis::rows(s, transposed, piece.phase);
    const Bf16Axis along = Bf16Axis::columns(s, transposed, piece.phase);
    const Bf16Span &rows = piece.rows, &columns = piece.columns;
    const int64_t out_rows = transposed ? s.height : s.rows, out_columns = transposed ? s.width : s.columns;
    for (int64_t o = 0, length; o < count; o += length) {  // a row of them at a time
      const int64_t before = (first + o) % columns.outputs, line = (first + o) / columns.outputs;
      const int64_t x = columns.first + before, y = rows.first + line % rows.outputs;
      const int64_t n = line / rows.outputs;
      length = std::min(count - o, columns.outputs - before);
      const int64_t out_row = n * out_rows + y * down.stride + down.offset;
      for (int64_t i = 0; i < length; ++i) {
        out[o + i] = to + (out_row * out_columns + (x + i) * along.stride + along.offset) * of.columns;
      }
      const uint32_t** meet = met + o;
      for (int64_t tap = 0; tap < piece.taps(); ++tap, meet += count) {
        const int64_t i = rows.tap + tap / columns.taps, j = columns.tap + tap % columns.taps;
        const int64_t r = y * down.pace + down.start + i * down.down;
        const int64_t q = x * along.pace + along.start + j * along.down;
        const int64_t held = r >= 0 && r < down.source ? along.source : 0;
        const uint32_t* const source = from + ((n * down.source + r) * along.source + q) * of.pairs();
        for (int64_t i = 0, at = q; i < length; ++i, at += along.pace) {
          meet[i] = at >= 0 && at < held ? source + i * along.pace * of.pairs() : nothing;
        }
      }
    }
    std::fill_n(met + piece.taps() * count, kMaxRows, nothing);
  }
};

// The weights of a piece's taps in a panel.
void find_weights(const Bf16Shape& s, bool transposed, const Bf16Piece& piece,
                  const uint32_t* panel, const uint32_t** found) {
  const Bf16Axis down = Bf16Axis::rows(s, transposed, piece.phase);
  const Bf16Axis along = Bf16Axis::columns(s, transposed, piece.phase);
  const int64_t before = taps_before(s, transposed, down.first, along.first);
  for (int64_t i = piece.rows.tap; i < piece.rows.tap + piece.rows.taps; ++i) {
    for (int64_t j = piece.columns.tap; j < piece.columns.tap + piece.columns.taps; ++j) {
      *found++ = panel + (before + i * along.taps + j) * Sides(s, transposed).pairs() * kPanel;
    }
  }
}

// Where everything of a block lies in its scratch.
struct Room {
  uint32_t* nothing;  // a source position of zeros
  BFloat16** out;
  const uint32_t **met, **weights;

  Room(const Bf16Shape& s, bool transposed, int64_t count, int64_t taps, float* scratch)
      : nothing(reinterpret_cast<uint32_t*>(scratch)) {
    const int64_t pairs = Sides(s, transposed).pairs();
    std::fill(nothing, nothing + pairs, 0u);
    uint32_t* const pointers = nothing + pairs;
    out = reinterpret_cast<BFloat16**>(pointers);
    met = reinterpret_cast<const uint32_t**>(pointers + count * kPointerFloats);
    weights = met + taps * count + kMaxRows;
  }
};

void conv(const Bf16Shape& s, bool transposed, const void* source, const uint32_t* packed,
          const float* bias, const Bf16Piece& piece, int64_t first, int64_t last, void* target,
          float* scratch) {
  const Sides of(s, transposed);
  const int64_t count = last - first, taps = piece.taps();
  const Room room(s, transposed, count, taps, scratch);
  const Outputs outputs{count, room.met, room.out};
  outputs.find(s, transposed, piece, first, static_cast<const uint32_t*>(source), room.nothing,
               static_cast<BFloat16*>(target));
  for (int64_t panel = 0; panel < s.across(of.columns); ++panel) {
    const int64_t begin = panel * kPanel;
    find_weights(s, transposed, piece, packed + panel * s.taps() * of.pairs() * kPanel, room.weights);
    tiles(std::min(kPanel, of.columns - begin), count,
          [&](int64_t column, int64_t vectors, int64_t row, int64_t rows) {
            kRuns.of[vectors - 1][rows - 1](
                {room.met + row, count, taps, of.pairs(), room.weights, column, room.out + row,
                 begin + column, bias});
          });
  }
}

#if FASTGAN_AMX
// With the sums of a block of outputs and columns, and the outputs' sources as tiles.
int64_t amx_scratch_floats(const Bf16Shape& s, bool transposed, int64_t outputs) {
  const int64_t tiled = ceil_div(outputs, kTile) * kTile * s.taps() * Sides(s, transposed).pairs();
  return scratch_floats(s, transposed, outputs) + tiled + kBlock * kBlock + 64;
}

// Copies what outputs meet into tiles, which lie by outputs and then as they are summed.
void tile_sources(const uint32_t* const* met, int64_t count, int64_t taps, int64_t pairs,
                  uint32_t* to) {
  for (int64_t row = 0; row < count; row += kTile) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const uint32_t* const* const from = met + tap * count + row;
      const int64_t rows = std::min(kTile, count - row);
      for (int64_t p = 0; p < rows; ++p) {
        for (int64_t k = 0; k < pairs; k += kTile) {
          store_pairs(to + k * kTile + p * kTile, load_pairs(from[p] + k));
        }
      }
      to += pairs * kTile;
    }
  }
}

void put_block(const float* sums, int64_t rows, int64_t columns, BFloat16* const* out, int64_t first,
               const float* bias) {
  for (int64_t p = 0; p < rows; ++p, sums += kBlock) {
    for (int64_t c = 0; c < columns; c += kWidth) {
      const VecF sum = load(sums + c);
      store(out[p] + first + c, bias ? load(bias + first + c) + sum : sum);
    }
  }
}

void amx_conv(const Bf16Shape& s, bool transposed, const void* source, const uint32_t* packed,
              const float* bias, const Bf16Piece& piece, int64_t first, int64_t last, void* target,
              float* scratch) {
  const Sides of(s, transposed);
  const int64_t count = last - first, taps = piece.taps(), pairs = of.pairs();
  if (pairs % kTile || taps == 0) {
    return conv(s, transposed, source, packed, bias, piece, first, last, target, scratch);
  }
  float* const sums = reinterpret_cast<float*>(aligned(scratch));
  uint32_t* const tiled = reinterpret_cast<uint32_t*>(sums + kBlock * kBlock);
  const int64_t of_row = taps * pairs * kTile;  // of a tile of outputs
  const Room room(s, transposed, count, taps,
                  reinterpret_cast<float*>(tiled + ceil_div(count, kTile) * of_row));
  const Outputs outputs{count, room.met, room.out};
  outputs.find(s, transposed, piece, first, static_cast<const uint32_t*>(source), room.nothing,
               static_cast<BFloat16*>(target));
  tile_sources(room.met, count, taps, pairs, tiled);
  const TileRegisters registers;
  for (int64_t panel = 0; panel < s.across(of.columns); ++panel) {
    const int64_t begin = panel * kPanel, wide = std::min(kPanel, of.columns - begin);
    find_weights(s, transposed, piece, packed + panel * s.taps() * pairs * kPanel, room.weights);
    for (int64_t column = 0; column < wide; column += kBlock) {
      const int64_t columns = std::min(kBlock, wide - column);
      for (int64_t row = 0; row < count; row += kBlock) {
        const int64_t rows = std::min(kBlock, count - row);
        multiply_block(rows, columns,
                       {taps * pairs / kTile, tiled + row / kTile * of_row, of_row, room.weights,
                        pairs / kTile, kTile * kPanel, kPanel, column},
                       {nullptr, 0, sums, kBlock});
        put_block(sums, rows, columns, room.out + row, begin + column, bias);
      }
    }
  }
}
#endif

// ---- the weight gradient

template <bool Amx>
void weight(const Bf16Shape& s, const void* image, const void* strided, int64_t first, int64_t last,
            void* out, float* scratch) {
  const int64_t each = s.output_tiles() / s.stride[0];  // of one parity
  for (int64_t parity = first / each; parity * each < last; ++parity) {
    const int64_t begin = std::max(first - parity * each, int64_t{0});
    const int64_t end = std::min(last - parity * each, each);
    Bf16Gradient<Amx> gradient(s, parity, begin, end, scratch);
    gradient.run(static_cast<const BFloat16*>(image), static_cast<const BFloat16*>(strided), out);
  }
}

}  // namespace

extern const Bf16Kernels FASTGAN_OF_ISA(kBf16Kernels);
const Bf16Kernels FASTGAN_OF_ISA(kBf16Kernels) = {
    false, packed_pairs, pack, scratch_floats, conv, Bf16Gradient<false>::scratch_floats,
    weight<false>,
};
#if FASTGAN_AMX
void amx_weight(const Bf16Shape& s, const void* image, const void* strided, int64_t first,
                int64_t last, void* out, float* scratch) {
  const TileRegisters registers;
  weight<true>(s, image, strided, first, last, out, scratch);
}

extern const Bf16Kernels kBf16Kernels_amx;
const Bf16Kernels kBf16Kernels_amx = {
    true, packed_pairs, pack, amx_scratch_floats, amx_conv, Bf16Gradient<true>::scratch_floats,
    amx_weight,
};
#endif

}  // namespace fastgan
