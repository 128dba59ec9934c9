// Walks over a tile in the order of memory, and sums over its columns or channels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vec.h"

namespace fastgan {
namespace {

// Independent sums in flight over a run of one plane. The long code of tanh and sigmoid gains nothing.
template <int A>
constexpr int kChains = A == kLeakyRelu ? 4 : 1;

// Calls vector(column, offsets...) for the vectors of whole rows, so many rows at once, and one(...)
// for the elements of the incomplete row. Two rows at once halve the loads of coefficients, which
// sums of one tensor gain from; among the streams of several tensors, or where one is written, the
// prefetcher loses its way.
template <typename T, int Rows, typename Vector, typename One>
FASTGAN_HD void columns(const Tile& t, const Vector& vector, const One& one) {
  const int64_t rows = t.rows, ld = t.ld, tail = t.tail;
  int64_t r = 0;
  if constexpr (Rows == 2) {
    for (; r + 2 <= rows; r += 2) {
      for (int64_t j = 0; j < ld; j += kLanes<T>) vector(j, r * ld + j, (r + 1) * ld + j);
    }
  }
  for (; r < rows; ++r) {
    for (int64_t j = 0; j < ld; j += kLanes<T>) vector(j, r * ld + j);
  }
  for (int64_t j = 0; j < tail; ++j) one(j, rows * ld + j);
}

// Calls vector(channel, offset) for whole vectors of each plane, one for its remaining elements.
template <typename T, typename Vector, typename One>
FASTGAN_HD void planes(const Tile& t, const Vector& vector, const One& one) {
  const int64_t first = t.first, last = t.last, size = t.size, run = t.end - t.begin;
  const int64_t whole = run - run % kLanes<T>;
  for (int64_t n = 0; n < t.rows; ++n) {
    int64_t base = (n * t.channels + first) * size + t.begin;
    if (run == kLanes<T>) {
      for (int64_t c = first; c < last; ++c, base += size) vector(c, base);
      continue;
    }
    for (int64_t c = first; c < last; ++c, base += size) {
      for (int64_t i = 0; i < whole; i += kLanes<T>) vector(c, base + i);
      for (int64_t i = whole; i < run; ++i) one(c, base + i);
    }
  }
}

template <typename P>
FASTGAN_HD void clear(void* p, int64_t first, int64_t last) {
  std::fill(static_cast<P*>(p) + first, static_cast<P*>(p) + last, P(0));
}

// Sums over the planes of `block` channels of one batch index, from channel c on, are added to r1
// and r2. The lanes of all are summed together: for a small plane that costs as much as the rest.
template <typename T, int A, int Terms, typename Term>
FASTGAN_HD void add_planes(const Tile& t, const Term& term, int64_t n, int64_t c, int64_t block,
                           AccOf<T>* __restrict__ r1, AccOf<T>* __restrict__ r2) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  const int64_t begin = t.begin, end = t.end, size = t.size;
  V sums1[kLanes<T>], sums2[kLanes<T>];
  const bool single = end - begin == kLanes<T>;
  for (int64_t b = 0; single && b < block; ++b) {
    V s1 = {}, s2 = {};
    term((n * t.channels + c + b) * size + begin, c + b, s1, s2);
    sums1[b] = s1;
    sums2[b] = s2;
  }
  for (int64_t b = 0; !single && b < block; ++b) {
    const int64_t base = (n * t.channels + c + b) * size;
    V s1 = {}, s2 = {};
    int64_t i = begin;
    if (i + kChains<A> * kLanes<T> <= end) {
      V chain1[kChains<A>] = {}, chain2[kChains<A>] = {};
      for (; i + kChains<A> * kLanes<T> <= end; i += kChains<A> * kLanes<T>) {
        for (int u = 0; u < kChains<A>; ++u) {
          term(base + i + u * kLanes<T>, c + b, chain1[u], chain2[u]);
        }
      }
      for (int u = 0; u < kChains<A>; ++u) s1 += chain1[u], s2 += chain2[u];
    }
    for (; i + kLanes<T> <= end; i += kLanes<T>) term(base + i, c + b, s1, s2);
    if (i < end) {
      P p1 = 0, p2 = 0;
      for (; i < end; ++i) term(base + i, c + b, p1, p2);
      s1 += V{p1}, s2 += V{p2};
    }
    sums1[b] = s1;
    sums2[b] = s2;
  }
  for (int64_t b = block; b < kLanes<T>; ++b) sums1[b] = sums2[b] = V{};
  const V v1 = sums_of_lanes(sums1), v2 = Terms == 2 ? sums_of_lanes(sums2) : V{};
  if (block == kLanes<T>) {
    store(r1 + c, load(r1 + c) + v1);
    if constexpr (Terms == 2) store(r2 + c, load(r2 + c) + v2);
    return;
  }
  for (int64_t b = 0; b < block; ++b) {
    r1[c + b] += v1[b];
    if constexpr (Terms == 2) r2[c + b] += v2[b];
  }
}

// Sums of one or two terms over a tile: term(offset, index, s1, s2) adds to s1 and s2, whose type, a
// vector or a scalar, says how many elements it is asked for. Columns accumulate in r1 and r2
// themselves, planes in registers.
template <typename T, int A, int Terms, int Rows, typename Term>
FASTGAN_HD void accumulate(const Tile& t, const Term& term) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  P* __restrict__ r1 = static_cast<P*>(t.r1);
  P* __restrict__ r2 = static_cast<P*>(t.r2);
  clear<P>(r1, t.first, t.last);
  if constexpr (Terms == 2) clear<P>(r2, t.first, t.last);
  if (t.planes) {
    for (int64_t n = 0; n < t.rows; ++n) {
      for (int64_t c = t.first; c < t.last; c += kLanes<T>) {
        const int64_t block = std::min(kLanes<T>, t.last - c);
        add_planes<T, A, Terms>(t, term, n, c, block, r1, r2);
      }
    }
    return;
  }
  columns<T, Rows>(
      t,
      [&](int64_t j, auto... offsets) __attribute__((always_inline)) {
        V s1 = load(r1 + j), s2 = {};
        if constexpr (Terms == 2) s2 = load(r2 + j);
        (term(offsets, j, s1, s2), ...);
        store(r1 + j, s1);
        if constexpr (Terms == 2) store(r2 + j, s2);
      },
      [&](int64_t j, int64_t offset) __attribute__((always_inline)) {
        P s1 = 0, s2 = 0;
        term(offset, j, s1, s2);
        r1[j] += s1;
        if constexpr (Terms == 2) r2[j] += s2;
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
