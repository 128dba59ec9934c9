// The loops over one tile. Compiled once for each instruction set; FASTGAN_ISA names the copy.
#include "cpu/norm_act/sums.h"
#include "cpu/simd/isa.h"

#define FASTGAN_TEXT2(a) #a
#define FASTGAN_TEXT(a) FASTGAN_TEXT2(a)

namespace fastgan {

#if defined(__AVX512BF16__)
extern const TileKernels kTileKernels_avx512;
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

// Loads an element, a vector of data or the first lanes of one, by the type asked for.
template <typename V, typename T>
FASTGAN_HD V data(const T* p, Whole) {
  if constexpr (std::is_same_v<V, AccOf<T>>) {
    return load1(p);
  } else {
    return load(p);
  }
}
template <typename V, typename T>
FASTGAN_HD V data(const T* p, Part part) {
  return load(p, part.lanes);
}

template <typename V, typename T>
FASTGAN_HD void put_data(T* p, V v, Whole, bool streamed = false) {
  if constexpr (std::is_same_v<V, AccOf<T>>) {
    store1(p, v);
  } else if (streamed) {
    stream(p, v);
  } else {
    store(p, v);
  }
}
template <typename V, typename T>
FASTGAN_HD void put_data(T* p, V v, Part part, bool = false) {
  store(p, v, part.lanes);
}

// To the second cache: the rows of a block and those prefetched after it do not fit the first.
// Without the empty statement GCC takes the function for one that has no effect, and drops its
// calls.
template <int hint>
FASTGAN_HD void fetch_line(const void* p) {
  __builtin_prefetch(p, 0, hint);
  asm volatile("");
}

// The coefficient of a plane, which is one for all lanes, or of a vector of columns.
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

template <typename T, int A, bool F>
struct PivotTerm {
  const T* x;
  AccOf<T> slope;

  template <typename V>
  FASTGAN_HD int at(int64_t) const {
    return 0;
  }
  template <typename V, typename Lanes>
  FASTGAN_HD void add(int64_t offset, int, V& s1, V&, Lanes lanes) const {
    s1 += normalised_input<A, F>(data<V>(x + offset, lanes), slope);
  }
  template <int hint>
  FASTGAN_HD void fetch(int64_t) const {}
};

template <typename T, int A, bool F, bool Planes>
struct DeviationTerm {
  using P = AccOf<T>;
  const T* x;
  const P* pivot;
  P slope;

  template <typename V>
  FASTGAN_HD auto at(int64_t j) const {
    return coefficient<V, Planes>(pivot, j);
  }
  template <typename V, typename K, typename Lanes>
  FASTGAN_HD void add(int64_t offset, const K& k, V& s1, V& s2, Lanes lanes) const {
    const V centred = normalised_input<A, F>(data<V>(x + offset, lanes), slope) - k;
    s1 += centred;
    s2 += centred * centred;
  }
  template <int hint>
  FASTGAN_HD void fetch(int64_t offset) const { fetch_line<hint>(x + offset); }
};

// Sums of deviations from a pivot among the values themselves, which is of the size of their mean, so
// that nothing cancels when the mean's own deviation leaves M2: with a pivot of m of n values the sum
// of squares is at most 1 + n / m times M2.
template <typename T, int A, bool F, bool Planes>
void stats(const Tile& t) {
  using P = AccOf<T>;
  const T* x = as<T>(t.x);
  const P slope = P(t.slope);
  constexpr int kActivation = F ? A : kLeakyRelu;
  P *pivot = static_cast<P*>(t.r1), *m2 = static_cast<P*>(t.r2), *rest = static_cast<P*>(t.r3);
  const Tile head = head_of<Planes>(t);
  accumulate<T, kActivation, 1, 2, Planes>(head, PivotTerm<T, A, F>{x, slope});
  for (int64_t j = t.first; j < t.last; ++j) {
    const P mean = pivot[j] / P(values<Planes>(head, j));
    pivot[j] = mean - mean == P(0) ? mean : P(0);  // infinities and NaN are for the sums to find
  }
  Tile deviations = t;
  deviations.r1 = rest;
  accumulate<T, kActivation, 2, 2, Planes>(deviations,
                                           DeviationTerm<T, A, F, Planes>{x, pivot, slope});
  for (int64_t j = t.first; j < t.last; ++j) {
    const P sum = rest[j];
    rest[j] = sum / P(values<Planes>(t, j));
    const P left = m2[j] - rest[j] * sum;
    m2[j] = left < P(0) ? P(0) : left;
  }
}

// Coefficients of a channel, or of a vector of columns; the last two in training's dx alone.
template <typename C>
struct Coefficients {
  C mean, scale, bias, k0, k1;
};

// What the passes over x, and dz, of a tile have in common.
template <typename T, bool Planes, bool Gradient>
struct Pass {
  using P = AccOf<T>;
  const T *x, *dz;
  T* out;
  const P *mean, *scale, *bias, *k0, *k1;
  P slope;
  bool streamed;

  explicit Pass(const Tile& t)
      : x(as<T>(t.x)), dz(as<T>(t.dz)), out(static_cast<T*>(t.out)), mean(as<P>(t.mean)),
        scale(as<P>(t.scale)), bias(as<P>(t.bias)), k0(as<P>(t.k0)), k1(as<P>(t.k1)),
        slope(P(t.slope)), streamed(t.streamed) {}

  template <typename V>
  FASTGAN_HD auto at(int64_t j) const {
    using C = decltype(coefficient<V, Planes>(mean, j));
    return Coefficients<C>{coefficient<V, Planes>(mean, j), coefficient<V, Planes>(scale, j),
                           coefficient<V, Planes>(bias, j), C{}, C{}};
  }
  template <int hint>
  FASTGAN_HD void fetch(int64_t offset) const {
    fetch_line<hint>(x + offset);
    if constexpr (Gradient) fetch_line<hint>(dz + offset);
  }
  template <int hint>
  FASTGAN_HD void fetch_all(int64_t offset) const {
    fetch<hint>(offset);
    fetch_line<hint>(out + offset);
  }
};

template <typename T, int A, bool F, bool Planes>
struct ReduceTerm : Pass<T, Planes, true> {
  using Pass<T, Planes, true>::Pass;
  template <typename V, typename K, typename Lanes>
  FASTGAN_HD void add(int64_t offset, const K& k, V& s1, V& s2, Lanes lanes) const {
    V a, centred;
    norm_act_terms<A, F>(data<V>(this->dz + offset, lanes), data<V>(this->x + offset, lanes), k.mean,
                         k.scale, k.bias, this->slope, a, centred);
    s1 += a;
    s2 += a * centred;
  }
};

template <typename T, int A, bool F, bool Planes>
void reduce(const Tile& t) {
  accumulate<T, A, 2, 1, Planes>(t, ReduceTerm<T, A, F, Planes>(t));
}

template <typename T, int A, bool F, bool Planes>
struct ForwardElement : Pass<T, Planes, false> {
  using Pass<T, Planes, false>::Pass;
  template <typename V, typename K, typename Lanes>
  FASTGAN_HD void put(int64_t offset, const K& k, V, Lanes lanes) const {
    const V z = norm_act_element<A, F>(data<V>(this->x + offset, lanes), k.mean, k.scale, k.bias,
                                       this->slope);
    put_data(this->out + offset, z, lanes, this->streamed);
  }
};

template <typename T, int A, bool F, bool Planes>
void forward(const Tile& t) {
  transform<T, Planes>(t, ForwardElement<T, A, F, Planes>(t));
  if (t.streamed) end_stream();
}

template <typename T, int A, bool F, bool Planes>
struct EvalGradient : Pass<T, Planes, true> {
  using Pass<T, Planes, true>::Pass;
  template <typename V, typename K, typename Lanes>
  FASTGAN_HD void put(int64_t offset, const K& k, V, Lanes lanes) const {
    const V dx = norm_act_dx_eval<A, F>(data<V>(this->dz + offset, lanes),
                                        data<V>(this->x + offset, lanes), k.mean, k.scale, k.bias,
                                        this->slope);
    put_data(this->out + offset, dx, lanes, this->streamed);
  }
};

template <typename T, int A, bool F, bool Planes>
struct TrainGradient : Pass<T, Planes, true> {
  using Pass<T, Planes, true>::Pass;
  template <typename V>
  FASTGAN_HD auto at(int64_t j) const {
    auto k = Pass<T, Planes, true>::template at<V>(j);
    k.k0 = coefficient<V, Planes>(this->k0, j);
    k.k1 = coefficient<V, Planes>(this->k1, j);
    return k;
  }
  template <typename V, typename K, typename Lanes>
  FASTGAN_HD void put(int64_t offset, const K& k, V, Lanes lanes) const {
    const V dx = norm_act_dx<A, F>(data<V>(this->dz + offset, lanes),
                                   data<V>(this->x + offset, lanes), k.mean, k.scale, k.bias, k.k0,
                                   k.k1, this->slope);
    put_data(this->out + offset, dx, lanes, this->streamed);
  }
};

template <typename T, int A, bool F, bool Planes>
void dx(const Tile& t) {
  if (t.k0 == nullptr) {
    transform<T, Planes>(t, EvalGradient<T, A, F, Planes>(t));
  } else {
    transform<T, Planes>(t, TrainGradient<T, A, F, Planes>(t));
  }
  if (t.streamed) end_stream();
}

// x holds the output; what is summed is put, too.
template <typename T, int A, bool Planes>
struct BiasGradient : Pass<T, Planes, true> {
  using Pass<T, Planes, true>::Pass;
  template <typename V>
  FASTGAN_HD int at(int64_t) const {
    return 0;
  }
  template <typename V, typename Lanes>
  FASTGAN_HD void add(int64_t offset, int, V& s1, V&, Lanes lanes) const {
    const V g = act_grad_from_output<A>(data<V>(this->dz + offset, lanes),
                                        data<V>(this->x + offset, lanes), this->slope);
    put_data(this->out + offset, g, lanes);
    s1 += g;
  }
};

template <typename T, int A, bool F, bool Planes>
void bias_backward(const Tile& t) {
  accumulate<T, A, 1, 1, Planes, true>(t, BiasGradient<T, A, Planes>(t));
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
#define FASTGAN_ENTRY(KERNEL, SELECT)                                      \
  void KERNEL##_entry(const Tile& t) {                                     \
    if (t.dtype != Dtype::kBFloat16) return kTileKernels_avx512.KERNEL(t); \
    SELECT(KERNEL, BFloat16)                                               \
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

extern const TileKernels FASTGAN_OF_ISA(kTileKernels);
const TileKernels FASTGAN_OF_ISA(kTileKernels) = {
    FASTGAN_TEXT(FASTGAN_ISA), stats_entry,         forward_entry,   reduce_entry, dx_entry,
    bias_backward_entry,       merge_moments_entry, merge_sums_entry};

}  // namespace fastgan
