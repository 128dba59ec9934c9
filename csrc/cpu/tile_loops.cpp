// The loops over one tile. Compiled once for each instruction set; FASTGAN_ISA names the copy.
#include <algorithm>
#include <type_traits>

#include "vec.h"

#ifndef FASTGAN_ISA
#define FASTGAN_ISA baseline
#endif
#define FASTGAN_JOIN2(a, b) a##b
#define FASTGAN_JOIN(a, b) FASTGAN_JOIN2(a, b)
#define FASTGAN_TEXT2(a) #a
#define FASTGAN_TEXT(a) FASTGAN_TEXT2(a)

namespace fastgan {
namespace {

// What is normalised: x, or act(x) where the activation comes first.
template <int A, bool F, typename V>
FASTGAN_HD V normalised_input(V x, ScalarOf<V> slope) {
  if constexpr (F) return act<A>(x, slope);
  return x;
}

template <typename P>
FASTGAN_HD const P* as(const void* p) {
  return static_cast<const P*>(p);
}

// Independent sums in flight over a run of one plane. The long code of tanh and sigmoid gains nothing.
template <int A>
constexpr int kChains = A == kLeakyRelu ? 4 : 1;

// Calls vector(offset, column) for the vectors of whole rows, one(...) for the elements of the
// incomplete row. Row by row: several rows at once halve the loads of coefficients, but so many
// streams in one page defeat the prefetcher, at a third of the speed.
template <typename T, typename Vector, typename One>
FASTGAN_HD void columns(const Tile& t, const Vector& vector, const One& one) {
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t j = t.first; j < t.last; j += kLanes<T>) vector(r * t.ld + j, j);
  }
  const int64_t stop = std::min(t.last, t.tail);
  for (int64_t j = t.first; j < stop; ++j) one(t.rows * t.ld + j, j);
}

// Calls vector(offset, channel) for whole vectors of each plane, one for its remaining elements.
template <typename T, typename Vector, typename One>
FASTGAN_HD void planes(const Tile& t, const Vector& vector, const One& one) {
  for (int64_t n = 0; n < t.rows; ++n) {
    for (int64_t c = t.first; c < t.last; ++c) {
      const int64_t base = (n * t.channels + c) * t.size;
      int64_t i = t.begin;
      for (; i + kLanes<T> <= t.end; i += kLanes<T>) vector(base + i, c);
      for (; i < t.end; ++i) one(base + i, c);
    }
  }
}

template <typename P>
FASTGAN_HD void clear(void* p, int64_t first, int64_t last) {
  std::fill(static_cast<P*>(p) + first, static_cast<P*>(p) + last, P(0));
}

// Sums of one or two terms over a tile: term(offset, index, s1, s2) adds to s1 and s2, whose type, a
// vector or a scalar, says how many elements it is asked for. Columns accumulate in r1 and r2
// themselves, planes in registers.
template <typename T, int A, int Terms, typename Term>
FASTGAN_HD void accumulate(const Tile& t, const Term& term) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  P* __restrict__ r1 = static_cast<P*>(t.r1);
  P* __restrict__ r2 = static_cast<P*>(t.r2);
  clear<P>(r1, t.first, t.last);
  if constexpr (Terms == 2) clear<P>(r2, t.first, t.last);
  if (t.planes) {
    for (int64_t n = 0; n < t.rows; ++n) {
      for (int64_t c = t.first; c < t.last; ++c) {
        const int64_t base = (n * t.channels + c) * t.size;
        V s1[4] = {}, s2[4] = {};
        int64_t i = t.begin;
        for (; i + kChains<A> * kLanes<T> <= t.end; i += kChains<A> * kLanes<T>) {
          for (int u = 0; u < kChains<A>; ++u) term(base + i + u * kLanes<T>, c, s1[u], s2[u]);
        }
        for (; i + kLanes<T> <= t.end; i += kLanes<T>) term(base + i, c, s1[0], s2[0]);
        P p1 = horizontal_sum((s1[0] + s1[1]) + (s1[2] + s1[3])), p2 = 0;
        if constexpr (Terms == 2) p2 = horizontal_sum((s2[0] + s2[1]) + (s2[2] + s2[3]));
        for (; i < t.end; ++i) term(base + i, c, p1, p2);
        r1[c] += p1;
        if constexpr (Terms == 2) r2[c] += p2;
      }
    }
    return;
  }
  columns<T>(
      t,
      [&](int64_t offset, int64_t j) __attribute__((always_inline)) {
        V s1 = load(r1 + j), s2 = {};
        if constexpr (Terms == 2) s2 = load(r2 + j);
        term(offset, j, s1, s2);
        store(r1 + j, s1);
        if constexpr (Terms == 2) store(r2 + j, s2);
      },
      [&](int64_t offset, int64_t j) __attribute__((always_inline)) {
        P s1 = 0, s2 = 0;
        term(offset, j, s1, s2);
        r1[j] += s1;
        if constexpr (Terms == 2) r2[j] += s2;
      });
}

// Loads an element or a vector of data, and a coefficient to go with it, by the type asked for.
template <typename V, typename T>
FASTGAN_HD V data(const T* p) {
  if constexpr (std::is_same_v<V, AccOf<T>>) {
    return load1(p);
  } else {
    return load(p);
  }
}

template <typename V, bool Planes, typename P>
FASTGAN_HD auto coefficient(const P* p, int64_t index) {
  if constexpr (Planes || std::is_same_v<V, P>) {
    return p[index];
  } else {
    return load(p + index);
  }
}

template <typename T, int A, bool F, bool Planes>
void stats(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  const P slope = P(t.slope);
  accumulate<T, F ? A : kLeakyRelu, 1>(t, [&](int64_t offset, int64_t, auto& s1, auto&) __attribute__((always_inline)) {
    using V = std::remove_reference_t<decltype(s1)>;
    s1 += normalised_input<A, F>(data<V>(x + offset), slope);
  });
  P *mean = static_cast<P*>(t.r1), *m2 = static_cast<P*>(t.r2), *rest = static_cast<P*>(t.r3);
  const auto count = [&](int64_t j) {
    return P(std::max<int64_t>(1, Planes ? t.rows * (t.end - t.begin) : t.rows + (j < t.tail)));
  };
  for (int64_t j = t.first; j < t.last; ++j) mean[j] /= count(j);
  // The mean carries the rounding of a long sum and of its own storage. The deviations from it are
  // small, so their own mean is what it lacks, and corrects M2.
  Tile second = t;
  second.r1 = rest;
  accumulate<T, F ? A : kLeakyRelu, 2>(
      second, [&](int64_t offset, int64_t j, auto& s1, auto& s2) __attribute__((always_inline)) {
        using V = std::remove_reference_t<decltype(s1)>;
        const V u = normalised_input<A, F>(data<V>(x + offset), slope);
        const V centred = u - coefficient<V, Planes>(mean, j);
        s1 += centred;
        s2 += centred * centred;
      });
  for (int64_t j = t.first; j < t.last; ++j) {
    const P sum = rest[j];
    rest[j] = sum / count(j);
    m2[j] -= rest[j] * sum;
  }
}

template <typename T, int A, bool F, bool Planes>
void reduce(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  const T* __restrict__ dz = as<T>(t.dz);
  const P *mean = as<P>(t.mean), *scale = as<P>(t.scale), *bias = as<P>(t.bias);
  const P slope = P(t.slope);
  accumulate<T, A, 2>(
      t, [&](int64_t offset, int64_t j, auto& s1, auto& s2) __attribute__((always_inline)) {
        using V = std::remove_reference_t<decltype(s1)>;
        V a, centred;
        norm_act_terms<A, F>(data<V>(dz + offset), data<V>(x + offset),
                             coefficient<V, Planes>(mean, j), coefficient<V, Planes>(scale, j),
                             coefficient<V, Planes>(bias, j), slope, a, centred);
        s1 += a;
        s2 += a * centred;
      });
}

// Writes element(offset, index) for every element of a tile.
template <typename T, bool Planes, typename Function>
FASTGAN_HD void transform(const Tile& t, const Function& element) {
  using P = AccOf<T>;
  using V = VecOf<T>;
  const auto vector = [&](int64_t offset, int64_t j) __attribute__((always_inline)) {
    element(offset, j, V{});
  };
  const auto one = [&](int64_t offset, int64_t j) __attribute__((always_inline)) {
    element(offset, j, P{});
  };
  if constexpr (Planes) {
    planes<T>(t, vector, one);
  } else {
    columns<T>(t, vector, one);
  }
}

template <typename V, typename T>
FASTGAN_HD void put(T* p, V v) {
  if constexpr (std::is_same_v<V, AccOf<T>>) {
    store1(p, v);
  } else {
    store(p, v);
  }
}

template <typename T, int A, bool F, bool Planes>
void forward(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  T* __restrict__ out = static_cast<T*>(t.out);
  const P* __restrict__ mean = as<P>(t.mean);
  const P* __restrict__ scale = as<P>(t.scale);
  const P* __restrict__ bias = as<P>(t.bias);
  const P slope = P(t.slope);
  transform<T, Planes>(
      t, [&](int64_t offset, int64_t j, auto tag) __attribute__((always_inline)) {
        using V = decltype(tag);
        put(out + offset, norm_act_element<A, F>(
                              data<V>(x + offset), coefficient<V, Planes>(mean, j),
                              coefficient<V, Planes>(scale, j), coefficient<V, Planes>(bias, j),
                              slope));
      });
}

template <typename T, int A, bool F, bool Planes>
void dx(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  const T* __restrict__ dz = as<T>(t.dz);
  T* __restrict__ out = static_cast<T*>(t.out);
  const P* __restrict__ mean = as<P>(t.mean);
  const P* __restrict__ scale = as<P>(t.scale);
  const P* __restrict__ bias = as<P>(t.bias);
  const P* __restrict__ k0 = as<P>(t.k0);
  const P* __restrict__ k1 = as<P>(t.k1);
  const P slope = P(t.slope);
  if (k0 == nullptr) {
    transform<T, Planes>(
        t, [&](int64_t offset, int64_t j, auto tag) __attribute__((always_inline)) {
          using V = decltype(tag);
          put(out + offset, norm_act_dx_eval<A, F>(
                                data<V>(dz + offset), data<V>(x + offset),
                                coefficient<V, Planes>(mean, j), coefficient<V, Planes>(scale, j),
                                coefficient<V, Planes>(bias, j), slope));
        });
    return;
  }
  transform<T, Planes>(
      t, [&](int64_t offset, int64_t j, auto tag) __attribute__((always_inline)) {
        using V = decltype(tag);
        put(out + offset,
            norm_act_dx<A, F>(data<V>(dz + offset), data<V>(x + offset),
                              coefficient<V, Planes>(mean, j), coefficient<V, Planes>(scale, j),
                              coefficient<V, Planes>(bias, j), coefficient<V, Planes>(k0, j),
                              coefficient<V, Planes>(k1, j), slope));
      });
}

template <typename T, int A, bool F, bool Planes>
void bias_backward(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ z = as<T>(t.x);
  const T* __restrict__ dz = as<T>(t.dz);
  T* __restrict__ out = static_cast<T*>(t.out);
  const P slope = P(t.slope);
  accumulate<T, A, 1>(t, [&](int64_t offset, int64_t, auto& s1, auto&) __attribute__((always_inline)) {
    using V = std::remove_reference_t<decltype(s1)>;
    const V g = act_grad_from_output<A>(data<V>(dz + offset), data<V>(z + offset), slope);
    put(out + offset, g);
    s1 += g;
  });
}

#define FASTGAN_BY_ACTIVATION(KERNEL, T, F, PLANES)                   \
  switch (t.activation) {                                            \
    case kTanh: return KERNEL<T, kTanh, F, PLANES>(t);               \
    case kSigmoid: return KERNEL<T, kSigmoid, F, PLANES>(t);         \
    default: return KERNEL<T, kLeakyRelu, F, PLANES>(t);             \
  }
#define FASTGAN_BY_LAYOUT(KERNEL, T, F)                              \
  if (t.planes) {                                                    \
    FASTGAN_BY_ACTIVATION(KERNEL, T, F, true)                        \
  } else {                                                           \
    FASTGAN_BY_ACTIVATION(KERNEL, T, F, false)                       \
  }
#define FASTGAN_BY_ORDER(KERNEL, T)                                  \
  if (t.act_first) {                                                 \
    FASTGAN_BY_LAYOUT(KERNEL, T, true)                               \
  } else {                                                           \
    FASTGAN_BY_LAYOUT(KERNEL, T, false)                              \
  }
#define FASTGAN_ENTRY(KERNEL, SELECT)                                \
  void KERNEL##_entry(const Tile& t) {                               \
    switch (t.dtype) {                                               \
      case Dtype::kFloat32: SELECT(KERNEL, float) break;             \
      case Dtype::kBFloat16: SELECT(KERNEL, BFloat16) break;         \
      case Dtype::kFloat16: SELECT(KERNEL, Half) break;              \
      case Dtype::kFloat64: SELECT(KERNEL, double) break;            \
    }                                                                \
  }
#define FASTGAN_WITHOUT_ORDER(KERNEL, T) FASTGAN_BY_LAYOUT(KERNEL, T, false)

// Statistics of x itself do not depend on the activation.
#define FASTGAN_STATS(KERNEL, T)                                     \
  if (t.act_first) {                                                 \
    FASTGAN_BY_LAYOUT(KERNEL, T, true)                               \
  } else if (t.planes) {                                             \
    return KERNEL<T, kLeakyRelu, false, true>(t);                    \
  } else {                                                           \
    return KERNEL<T, kLeakyRelu, false, false>(t);                   \
  }

FASTGAN_ENTRY(stats, FASTGAN_STATS)
FASTGAN_ENTRY(forward, FASTGAN_BY_ORDER)
FASTGAN_ENTRY(reduce, FASTGAN_BY_ORDER)
FASTGAN_ENTRY(dx, FASTGAN_BY_ORDER)
FASTGAN_ENTRY(bias_backward, FASTGAN_WITHOUT_ORDER)

}  // namespace

extern const TileLoops FASTGAN_JOIN(kTileLoops_, FASTGAN_ISA);
const TileLoops FASTGAN_JOIN(kTileLoops_, FASTGAN_ISA) = {
    FASTGAN_TEXT(FASTGAN_ISA), stats_entry, forward_entry, reduce_entry, dx_entry,
    bias_backward_entry};

}  // namespace fastgan
