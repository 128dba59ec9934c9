// The loops over one tile. Compiled once for each instruction set; FASTGAN_ISA names the copy.
#include "isa.h"
#include "sums.h"

#define FASTGAN_TEXT2(a) #a
#define FASTGAN_TEXT(a) FASTGAN_TEXT2(a)

namespace fastgan {

#if defined(__AVX512BF16__)
extern const TileLoops kTileLoops_avx512;
#endif

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

// Loads an element or a vector of data, and a coefficient to go with it, by the type asked for.
template <typename V, typename T>
FASTGAN_HD V data(const T* p) {
  if constexpr (std::is_same_v<V, AccOf<T>>) {
    return load1(p);
  } else {
    return load(p);
  }
}

// As data, of what may still be in memory. The processor's own prefetching stops at each page's end.
constexpr int64_t kBytesAhead = 8192;

template <typename V, typename T>
FASTGAN_HD V fetch(const T* p) {
  if constexpr (!std::is_same_v<V, AccOf<T>>) {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kBytesAhead);
  }
  return data<V>(p);
}

template <typename V, bool Planes, typename P>
FASTGAN_HD auto coefficient(const P* p, int64_t index) {
  if constexpr (Planes || std::is_same_v<V, P>) {
    return p[index];
  } else {
    return load(p + index);
  }
}

// How many rows of a tile of columns, and elements of a plane, the pivot of a channel is the mean of.
constexpr int64_t kPivotRows = 4;
constexpr int64_t kPivotElements = 16;

// The start of a tile, from which pivots are taken.
template <bool Planes>
Tile head_of(const Tile& t) {
  Tile head = t;
  if constexpr (Planes) {
    head.rows = 1;
    head.end = std::min(t.end, t.begin + kPivotElements);
  } else if (t.rows > 0) {
    head.rows = std::min(t.rows, kPivotRows);
    head.tail = 0;
  }
  return head;
}

template <bool Planes>
FASTGAN_HD int64_t values(const Tile& t, int64_t j) {
  return std::max<int64_t>(1, Planes ? t.rows * (t.end - t.begin) : t.rows + (j < t.tail));
}

// Sums of deviations from a pivot among the values themselves, which is of the size of their mean, so
// that nothing cancels when the mean's own deviation leaves M2: with a pivot of m of n values the sum
// of squares is at most 1 + n / m times M2.
template <typename T, int A, bool F, bool Planes>
void stats(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  const P slope = P(t.slope);
  constexpr int kActivation = F ? A : kLeakyRelu;
  P *pivot = static_cast<P*>(t.r1), *m2 = static_cast<P*>(t.r2), *rest = static_cast<P*>(t.r3);
  const Tile head = head_of<Planes>(t);
  accumulate<T, kActivation, 1, 2>(
      head, [&](int64_t offset, int64_t, auto& s1, auto&) __attribute__((always_inline)) {
        using V = std::remove_reference_t<decltype(s1)>;
        s1 += normalised_input<A, F>(data<V>(x + offset), slope);
      });
  for (int64_t j = t.first; j < t.last; ++j) {
    const P mean = pivot[j] / P(values<Planes>(head, j));
    pivot[j] = mean - mean == P(0) ? mean : P(0);  // infinities and NaN are for the sums to find
  }
  Tile deviations = t;
  deviations.r1 = rest;
  accumulate<T, kActivation, 2, 2>(
      deviations, [&](int64_t offset, int64_t j, auto& s1, auto& s2) __attribute__((always_inline)) {
        using V = std::remove_reference_t<decltype(s1)>;
        const V u = normalised_input<A, F>(fetch<V>(x + offset), slope);
        const V centred = u - coefficient<V, Planes>(pivot, j);
        s1 += centred;
        s2 += centred * centred;
      });
  for (int64_t j = t.first; j < t.last; ++j) {
    const P sum = rest[j];
    rest[j] = sum / P(values<Planes>(t, j));
    const P left = m2[j] - rest[j] * sum;
    m2[j] = left < P(0) ? P(0) : left;
  }
}

template <typename T, int A, bool F, bool Planes>
void reduce(const Tile& t) {
  using P = AccOf<T>;
  const T* __restrict__ x = as<T>(t.x);
  const T* __restrict__ dz = as<T>(t.dz);
  const P *mean = as<P>(t.mean), *scale = as<P>(t.scale), *bias = as<P>(t.bias);
  const P slope = P(t.slope);
  accumulate<T, A, 2, 1>(
      t, [&](int64_t offset, int64_t j, auto& s1, auto& s2) __attribute__((always_inline)) {
        using V = std::remove_reference_t<decltype(s1)>;
        V a, centred;
        norm_act_terms<A, F>(fetch<V>(dz + offset), fetch<V>(x + offset),
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
  const auto vector = [&](int64_t j, int64_t offset) __attribute__((always_inline)) {
    element(offset, j, V{});
  };
  const auto one = [&](int64_t j, int64_t offset) __attribute__((always_inline)) {
    element(offset, j, P{});
  };
  if constexpr (Planes) {
    planes<T>(t, vector, one);
  } else {
    columns<T, 1>(t, vector, one);
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
  accumulate<T, A, 1, 1>(t, [&](int64_t offset, int64_t, auto& s1, auto&) __attribute__((always_inline)) {
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
#if defined(__AVX512BF16__)
// These instructions serve bfloat16 alone; the rest would be the AVX-512 copy again.
#define FASTGAN_ENTRY(KERNEL, SELECT)                                \
  void KERNEL##_entry(const Tile& t) {                               \
    if (t.dtype != Dtype::kBFloat16) return kTileLoops_avx512.KERNEL(t); \
    SELECT(KERNEL, BFloat16)                                         \
  }
#else
#define FASTGAN_ENTRY(KERNEL, SELECT)                                \
  void KERNEL##_entry(const Tile& t) {                               \
    switch (t.dtype) {                                               \
      case Dtype::kFloat32: SELECT(KERNEL, float) break;             \
      case Dtype::kBFloat16: SELECT(KERNEL, BFloat16) break;         \
      case Dtype::kFloat16: SELECT(KERNEL, Half) break;              \
      case Dtype::kFloat64: SELECT(KERNEL, double) break;            \
    }                                                                \
  }
#endif
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

void merge_moments_entry(const Merge& m) {
  m.wide ? merge_moments<double>(m) : merge_moments<float>(m);
}
void merge_sums_entry(const Merge& m) { m.wide ? merge_sums<double>(m) : merge_sums<float>(m); }

}  // namespace

extern const TileLoops FASTGAN_OF_ISA(kTileLoops);
const TileLoops FASTGAN_OF_ISA(kTileLoops) = {
    FASTGAN_TEXT(FASTGAN_ISA), stats_entry, forward_entry, reduce_entry, dx_entry,
    bias_backward_entry, merge_moments_entry, merge_sums_entry};

}  // namespace fastgan
