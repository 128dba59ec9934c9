// Loops over a tile, and sums over its columns or channels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/simd/vec.h"

namespace fastgan {
namespace {

// Independent sums in flight over a run of one plane. The long code of tanh and sigmoid gains nothing.
template <int A>
constexpr int kChains = A == kLeakyRelu ? 4 : 1;

// How many lanes of a vector count: all of them, or the first few of a plane's end.
using Whole = std::integral_constant<int64_t, 0>;
struct Part {
  int64_t lanes;
};

// Vectors of adjacent columns that are taken down the rows together, their coefficients and sums in
// registers, and the bytes of rows that are taken before the next such block.
constexpr int kBlock = 4;
constexpr int64_t kChunkBytes = 16384;
// How far ahead memory is asked for, at least. The processor's own prefetching stops at each page's
// end, and loses its way among rows.
constexpr int64_t kBytesAhead = 8192;

// A piece of a tile of columns: rows [first, last), and the element that is prefetched next.
struct Chunk {
  int64_t first, last, ahead;
};

// Calls block(column, chunk, count) for blocks of so many (a constant) vectors of columns, and one(...)
// for the elements of the incomplete row.
template <typename T, int Rows, typename Block, typename One>
FASTGAN_HD void columns(const Tile& t, bool blocked, const Block& block, const One& one) {
  constexpr int64_t size = sizeof(T);
  const int64_t rows = t.rows, ld = t.ld;
  const int64_t height = blocked ? std::max<int64_t>(Rows, kChunkBytes / (ld * size)) : Rows;
  const int64_t distance = std::max(height * ld, kBytesAhead / size);
  const int64_t chunks = (rows + height - 1) / height;
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t first = (t.reversed ? chunks - 1 - i : i) * height;
    Chunk chunk{first, std::min(rows, first + height), first * ld + (t.reversed ? -distance : distance)};
    int64_t j = 0;
    for (; j + kBlock * kLanes<T> <= ld; j += kBlock * kLanes<T>) {
      block(j, chunk, std::integral_constant<int, kBlock>{});
    }
    for (; j < ld; j += kLanes<T>) block(j, chunk, std::integral_constant<int, 1>{});
  }
  for (int64_t j = 0; j < t.tail; ++j) one(j, rows * ld + j);
}

// Asks, by fetch(element), for as many elements ahead as a step down a block of `count` vectors reads.
template <typename T, int count, typename Fetch>
FASTGAN_HD void fetch_ahead(Chunk& chunk, const Fetch& fetch) {
  constexpr int64_t line = 64 / sizeof(T), step = count * kLanes<T>;
#pragma GCC unroll 8
  for (int64_t i = 0; i < step; i += line) fetch(chunk.ahead + i);
  chunk.ahead += step;
}

// Calls vector(channel, offset, lanes) for the vectors of each plane.
template <typename T, typename Vector>
FASTGAN_HD void planes(const Tile& t, const Vector& vector) {
  const int64_t first = t.first, last = t.last, size = t.size, run = t.end - t.begin;
  const int64_t whole = run - run % kLanes<T>;
  for (int64_t n = 0; n < t.rows; ++n) {
    int64_t base = (n * t.channels + first) * size + t.begin;
    if (run == kLanes<T>) {
      for (int64_t c = first; c < last; ++c, base += size) vector(c, base, Whole{});
      continue;
    }
    for (int64_t c = first; c < last; ++c, base += size) {
      for (int64_t i = 0; i < whole; i += kLanes<T>) vector(c, base + i, Whole{});
      if (whole < run) vector(c, base + whole, Part{run - whole});
    }
  }
}

template <typename P>
FASTGAN_HD void clear(void* p, int64_t first, int64_t last) {
  std::fill(static_cast<P*>(p) + first, static_cast<P*>(p) + last, P(0));
}

// Adds the terms of one plane's run, from `base` on, to s1 and s2.
template <typename T, int A, typename Term, typename K>
FASTGAN_HD void add_run(const Term& term, int64_t base, int64_t run, const K& k, VecOf<T>& s1,
                        VecOf<T>& s2) {
  using V = VecOf<T>;
  constexpr int64_t lanes = kLanes<T>, step = kChains<A> * lanes;
  int64_t i = 0;
  if (step <= run) {
    V chain1[kChains<A>] = {}, chain2[kChains<A>] = {};
    for (; i + step <= run; i += step) {
      for (int u = 0; u < kChains<A>; ++u) {
        term.template fetch<3>(base + i + u * lanes + kBytesAhead / int64_t(sizeof(T)));
        term.add(base + i + u * lanes, k, chain1[u], chain2[u], Whole{});
      }
    }
    for (int u = 0; u < kChains<A>; ++u) s1 += chain1[u], s2 += chain2[u];
  }
  for (; i + lanes <= run; i += lanes) term.add(base + i, k, s1, s2, Whole{});
  if (i < run) {
    V p1 = {}, p2 = {};
    term.add(base + i, k, p1, p2, Part{run - i});
    s1 += first_lanes(p1, run - i), s2 += first_lanes(p2, run - i);
  }
}

// Sums over the planes of `block` channels from channel c on, to r1 and r2. All rows are summed, lane by
// lane, before the lanes are, and the lanes of all channels together: for small planes that costs as
// much as the rest.
template <typename T, int A, int Terms, typename Term>
FASTGAN_HD void sum_planes(const Tile& t, const Term& term, int64_t c, int64_t block,
                           AccOf<T>* __restrict__ r1, AccOf<T>* __restrict__ r2) {
  using V = VecOf<T>;
  V sums1[kLanes<T>], sums2[kLanes<T>];
  const int64_t run = t.end - t.begin, stride = t.channels * t.size;
  const bool single = run == kLanes<T>;
  for (int64_t b = 0; b < block; ++b) {
    const auto k = term.template at<V>(c + b);
    int64_t base = (c + b) * t.size + t.begin;
    V s1 = {}, s2 = {};
    for (int64_t n = 0; n < t.rows; ++n, base += stride) {
      if (single) {
        term.template fetch<3>(base + kBytesAhead / int64_t(sizeof(T)));
        term.add(base, k, s1, s2, Whole{});
      } else {
        add_run<T, A>(term, base, run, k, s1, s2);
      }
    }
    sums1[b] = s1;
    sums2[b] = s2;
  }
  for (int64_t b = block; b < kLanes<T>; ++b) sums1[b] = sums2[b] = V{};
  const V v1 = sums_of_lanes(sums1), v2 = Terms == 2 ? sums_of_lanes(sums2) : V{};
  if (block == kLanes<T>) {
    store(r1 + c, v1);
    if constexpr (Terms == 2) store(r2 + c, v2);
    return;
  }
  for (int64_t b = 0; b < block; ++b) {
    r1[c + b] = v1[b];
    if constexpr (Terms == 2) r2[c + b] = v2[b];
  }
}

// Sums of one or two terms over a tile, to r1 and r2. Halves of floats are taken in blocks whatever
// their size, unless the term Writes: there is less to wait for. A term has
//   at<V>(index)                   the coefficients of a channel, or of a vector of columns
//   add(offset, k, s1, s2, lanes)  adds to s1 and s2, whose type says how many elements it is asked
//   for fetch(offset)                  asks for the memory of the elements from there on
template <typename T, int A, int Terms, int Rows, bool Planes, bool Writes = false, typename Term>
FASTGAN_HD void accumulate(const Tile& t, const Term& term) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  P* __restrict__ r1 = static_cast<P*>(t.r1);
  P* __restrict__ r2 = static_cast<P*>(t.r2);
  if constexpr (Planes) {
    for (int64_t c = t.first; c < t.last; c += kLanes<T>) {
      sum_planes<T, A, Terms>(t, term, c, std::min(kLanes<T>, t.last - c), r1, r2);
    }
    return;
  }
  clear<P>(r1, t.first, t.last);
  if constexpr (Terms == 2) clear<P>(r2, t.first, t.last);
  const int64_t ld = t.ld;
  columns<T, Rows>(
      t, t.blocked || (sizeof(T) == 2 && !Writes),
      [&](int64_t j, Chunk& chunk, auto count) __attribute__((always_inline)) {
        constexpr int n = decltype(count)::value;
        constexpr int64_t lanes = kLanes<T>;
        decltype(term.template at<V>(j)) k[n];
        V s1[n] = {}, s2[n] = {};
#pragma GCC unroll 8
        for (int b = 0; b < n; ++b) {
          k[b] = term.template at<V>(j + b * lanes);
          s1[b] = load(r1 + j + b * lanes);
          if constexpr (Terms == 2) s2[b] = load(r2 + j + b * lanes);
        }
        for (int64_t r = chunk.first, offset = r * ld + j; r < chunk.last; ++r, offset += ld) {
          fetch_ahead<T, n>(chunk, [&](int64_t i) { term.template fetch<2>(i); });
#pragma GCC unroll 8
          for (int b = 0; b < n; ++b) term.add(offset + b * lanes, k[b], s1[b], s2[b], Whole{});
        }
#pragma GCC unroll 8
        for (int b = 0; b < n; ++b) {
          store(r1 + j + b * lanes, s1[b]);
          if constexpr (Terms == 2) store(r2 + j + b * lanes, s2[b]);
        }
      },
      [&](int64_t j, int64_t offset) __attribute__((always_inline)) {
        P s1 = 0, s2 = 0;
        term.add(offset, term.template at<P>(j), s1, s2, Whole{});
        r1[j] += s1;
        if constexpr (Terms == 2) r2[j] += s2;
      });
}

// Puts the elements of a tile of columns in the order of memory.
template <typename T, typename Element>
FASTGAN_HD void along_rows(const Tile& t, const Element& element) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  const int64_t ld = t.ld;
  int64_t offset = 0;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t j = 0; j < ld; j += kLanes<T>, offset += kLanes<T>) {
      element.put(offset, element.template at<V>(j), V{}, Whole{});
    }
  }
  for (int64_t j = 0; j < t.tail; ++j) {
    element.put(offset + j, element.template at<P>(j), P{}, Whole{});
  }
}

// Puts every element of a tile: as a term, with put(offset, k, V{}, lanes) in place of add, and
// fetch_all(offset), which asks for the memory that is written, too.
template <typename T, bool Planes, typename Element>
FASTGAN_HD void transform(const Tile& t, const Element& element) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  if constexpr (Planes) {
    planes<T>(t, [&](int64_t c, int64_t offset, auto lanes) __attribute__((always_inline)) {
      element.put(offset, element.template at<V>(c), V{}, lanes);
    });
    return;
  }
  if (!t.blocked) return along_rows<T>(t, element);
  const int64_t ld = t.ld;
  columns<T, 1>(
      t, true,
      [&](int64_t j, Chunk& chunk, auto count) __attribute__((always_inline)) {
        constexpr int n = decltype(count)::value;
        decltype(element.template at<V>(j)) k[n];
#pragma GCC unroll 8
        for (int b = 0; b < n; ++b) k[b] = element.template at<V>(j + b * kLanes<T>);
        for (int64_t r = chunk.first, offset = r * ld + j; r < chunk.last; ++r, offset += ld) {
          fetch_ahead<T, n>(chunk, [&](int64_t i) { element.template fetch_all<2>(i); });
#pragma GCC unroll 8
          for (int b = 0; b < n; ++b) element.put(offset + b * kLanes<T>, k[b], V{}, Whole{});
        }
      },
      [&](int64_t j, int64_t offset) __attribute__((always_inline)) {
        element.put(offset, element.template at<P>(j), P{}, Whole{});
      });
}

// ---- merging

FASTGAN_HD VecD widened(const float* p) {
  VecN v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, VecD);
}
FASTGAN_HD VecD widened(const double* p) { return load(p); }

// Calls vector(partial result, channel, count) or one(...) for all columns of a block of channels, in
// the order of tiles; count is that of the values in the column's partial result.
template <typename Vector, typename One>
FASTGAN_HD void each_partial(const Merge& m, const Vector& vector, const One& one) {
  for (int64_t k = 0; k < m.tiles; ++k) {
    for (int64_t g = 0; g < m.groups; ++g) {
      const int64_t column = m.first + g * m.stride, at = k * m.period + column;
      const int64_t longer = k < m.tiles - 1 ? 0 : std::clamp<int64_t>(m.tail - column, 0, m.count);
      int64_t c = 0;
      for (const int64_t stop : {longer, m.count}) {
        const double n = static_cast<double>(m.counts[k] + (c < longer));
        for (; c + kLanes<double> <= stop; c += kLanes<double>) vector(at + c, c, n);
        for (; c < stop; ++c) one(at + c, c, n);
      }
    }
  }
}

// Mean and M2 from those of the tiles: the weighted mean of the means, then M2 + n * (mean - total
// mean)^2. Sums of deviations only, as in Chan et al. 1979.
template <typename P>
void merge_moments(const Merge& m) {
  const P *r1 = static_cast<const P*>(m.r1), *r2 = static_cast<const P*>(m.r2);
  const P* r3 = static_cast<const P*>(m.r3);
  double *mean = m.out1, *m2 = m.out2;
  each_partial(
      m,
      [&](int64_t at, int64_t c, double n) __attribute__((always_inline)) {
        store(mean + c, load(mean + c) + n * (widened(r1 + at) + widened(r3 + at)));
      },
      [&](int64_t at, int64_t c, double n) __attribute__((always_inline)) {
        mean[c] += n * (double(r1[at]) + double(r3[at]));
      });
  for (int64_t c = 0; c < m.count; ++c) mean[c] /= m.total;
  each_partial(
      m,
      [&](int64_t at, int64_t c, double n) __attribute__((always_inline)) {
        const VecD delta = (widened(r1 + at) + widened(r3 + at)) - load(mean + c);
        store(m2 + c, load(m2 + c) + widened(r2 + at) + n * delta * delta);
      },
      [&](int64_t at, int64_t c, double n) __attribute__((always_inline)) {
        const double delta = (double(r1[at]) + double(r3[at])) - mean[c];
        m2[c] += double(r2[at]) + n * delta * delta;
      });
}

// The sums of r1 and, if there is an out2, of r2.
template <typename P>
void merge_sums(const Merge& m) {
  const P *r1 = static_cast<const P*>(m.r1), *r2 = static_cast<const P*>(m.r2);
  double *s1 = m.out1, *s2 = m.out2;
  each_partial(
      m,
      [&](int64_t at, int64_t c, double) __attribute__((always_inline)) {
        store(s1 + c, load(s1 + c) + widened(r1 + at));
        if (s2) store(s2 + c, load(s2 + c) + widened(r2 + at));
      },
      [&](int64_t at, int64_t c, double) __attribute__((always_inline)) {
        s1[c] += double(r1[at]);
        if (s2) s2[c] += double(r2[at]);
      });
}

}  // namespace
}  // namespace fastgan
