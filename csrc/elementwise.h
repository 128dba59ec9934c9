// The element maths of norm_act and bias_act, and the merging of statistics.
//
// Free of torch and CUDA includes, so the CPU kernels, the CUDA kernels and a plain unit test share
// it. Functions are templates over V: a scalar (float, double) or, on the CPU, a vector of them with
// GCC's vector extension; `?:` and comparisons work alike on both.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FASTGAN_HD __host__ __device__ __forceinline__
#else
#define FASTGAN_HD inline __attribute__((always_inline))
#endif

namespace fastgan {

enum Activation : int { kLeakyRelu = 0, kTanh = 1, kSigmoid = 2 };

// Scalar type of V and its transcendental functions. Vector types specialise it (cpu/simd/vec.h).
template <typename V>
struct Math {
  using Scalar = V;
  static FASTGAN_HD V tanh(V y) { return ::tanh(y); }
  static FASTGAN_HD V sigmoid(V y) { return V(1) / (V(1) + ::exp(-y)); }
};

template <>
struct Math<float> {
  using Scalar = float;
  static FASTGAN_HD float tanh(float y) { return ::tanhf(y); }
  static FASTGAN_HD float sigmoid(float y) { return 1.0f / (1.0f + ::expf(-y)); }
};

template <typename V>
using ScalarOf = typename Math<V>::Scalar;

// z = act(y). A NaN fails y > 0 and comes out as slope * NaN = NaN.
template <int A, typename V>
FASTGAN_HD V act(V y, ScalarOf<V> slope) {
  if constexpr (A == kTanh) {
    return Math<V>::tanh(y);
  } else if constexpr (A == kSigmoid) {
    return Math<V>::sigmoid(y);
  } else {
    const V scaled = y * slope;
    return y > ScalarOf<V>(0) ? y : scaled;
  }
}

// g * act'(y), from the input y of the activation. The gradient passes through a select and not
// through a product with 1, as in PyTorch: both give g where y > 0.
template <int A, typename V>
FASTGAN_HD V act_grad(V g, V y, ScalarOf<V> slope) {
  using S = ScalarOf<V>;
  if constexpr (A == kTanh) {
    const V z = Math<V>::tanh(y);
    return g * (S(1) - z * z);
  } else if constexpr (A == kSigmoid) {
    const V z = Math<V>::sigmoid(y);
    return g * (S(1) - z) * z;
  } else {
    const V scaled = g * slope;
    return y > S(0) ? g : scaled;
  }
}

// g * act'(.) from the output z of the activation. For LeakyReLU sign(z) = sign(y) as slope >= 0
// (with slope 0 the output of a negative y is zero, which also selects the slope).
template <int A, typename V>
FASTGAN_HD V act_grad_from_output(V g, V z, ScalarOf<V> slope) {
  using S = ScalarOf<V>;
  if constexpr (A == kTanh) {
    return g * (S(1) - z * z);
  } else if constexpr (A == kSigmoid) {
    return g * (S(1) - z) * z;
  } else {
    const V scaled = g * slope;
    return z > S(0) ? g : scaled;
  }
}

// Count, mean and sum of squared deviations of a set of values.
template <typename T>
struct Moments {
  T count;
  T mean;
  T m2;
};

// The moments of two disjoint sets (Chan, Golub, LeVeque 1979): no difference of large sums, so
// |mean| >> std costs no digits. An empty side is neutral.
template <typename T>
FASTGAN_HD Moments<T> merge(const Moments<T>& a, const Moments<T>& b) {
  const T count = a.count + b.count;
  if (!(count > T(0))) {
    return a;
  }
  const T share = b.count / count;
  const T delta = b.mean - a.mean;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

// One more value (Welford 1962).
template <typename T>
FASTGAN_HD Moments<T> push(const Moments<T>& a, T x) {
  const T count = a.count + T(1);
  const T delta = x - a.mean;
  const T mean = a.mean + delta / count;
  return {count, mean, a.m2 + delta * (x - mean)};
}

// Per-channel coefficients of one (segment, channel), formed once from (mean, var, weight, bias):
//   y = (x - mean) * scale + bias,  scale = weight * rstd.
// x - mean is taken first: for |mean| >> std, x * scale + (bias - mean * scale) would round twice.
template <typename T>
struct Affine {
  T mean;
  T scale;
  T bias;
};

template <typename T>
FASTGAN_HD T rsqrt_of(T v) {
  return T(1) / ::sqrt(v);
}
template <>
FASTGAN_HD float rsqrt_of<float>(float v) {
#ifdef __CUDA_ARCH__
  return ::rsqrtf(v);  // one instruction for a dozen and two slow paths; to 2 units in the last place
#else
  return 1.0f / ::sqrtf(v);
#endif
}

template <typename T>
FASTGAN_HD Affine<T> affine(T mean, T var, T weight, T bias, T eps) {
  return {mean, weight * rsqrt_of<T>(var + eps), bias};
}

// z of one element. act_first: normalise act(x), else activate norm(x).
template <int A, bool ActFirst, typename V, typename P>
FASTGAN_HD V norm_act_element(V x, P mean, P scale, P bias, ScalarOf<V> slope) {
  if constexpr (ActFirst) {
    return (act<A>(x, slope) - mean) * scale + bias;
  } else {
    return act<A>(V((x - mean) * scale + bias), slope);
  }
}

// The two factors whose sums the backward needs: a (the gradient of the normalised value's affine
// output) and centred = u - mean, where u is the normalised input (x, or act(x) if act_first).
//   dbias = sum a,   dweight = rstd * sum a * centred.
template <int A, bool ActFirst, typename V, typename P>
FASTGAN_HD void norm_act_terms(V dz, V x, P mean, P scale, P bias, ScalarOf<V> slope, V& a,
                               V& centred) {
  if constexpr (ActFirst) {
    a = dz;
    centred = act<A>(x, slope) - mean;
  } else {
    centred = x - mean;
    a = act_grad<A>(dz, V(centred * scale + bias), slope);
  }
}

// dx of one element in training: scale * (a - k0 - centred * k1), times act'(x) if act_first, with
// k0 = sum a / n and k1 = rstd^2 * sum(a * centred) / n.
template <int A, bool ActFirst, typename V, typename P>
FASTGAN_HD V norm_act_dx(V dz, V x, P mean, P scale, P bias, P k0, P k1, ScalarOf<V> slope) {
  V a, centred;
  norm_act_terms<A, ActFirst>(dz, x, mean, scale, bias, slope, a, centred);
  const V du = (a - k0 - centred * k1) * scale;
  if constexpr (ActFirst) {
    return act_grad<A>(du, x, slope);
  } else {
    return du;
  }
}

// dx of one element in eval: no terms through the statistics. Not norm_act_dx with k0 = k1 = 0, which
// would make NaN of an infinite x.
template <int A, bool ActFirst, typename V, typename P>
FASTGAN_HD V norm_act_dx_eval(V dz, V x, P mean, P scale, P bias, ScalarOf<V> slope) {
  if constexpr (ActFirst) {
    return act_grad<A>(V(dz * scale), x, slope);
  } else {
    return act_grad<A>(dz, V((x - mean) * scale + bias), slope) * scale;
  }
}

}  // namespace fastgan
