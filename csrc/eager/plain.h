// What the kernels take as it stands: plain dense tensors on the CPU, in a thread where nothing watches.
#pragma once

#include <ATen/Functions.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <optional>

#include "cpu/runtime/entries.h"

namespace fastgan::eager {

using at::Tensor;
using Optional = std::optional<Tensor>;

// The kernels; the library that holds them is loaded before this one.
const CpuEntries& kernels();

// Whether someone in this thread wants to see operators: a trace, a dispatch mode, a function transform,
// forward-mode differentiation.
inline bool is_watched() {
  using Key = c10::DispatchKey;
  constexpr c10::DispatchKeySet watching(
      {Key::Tracer, Key::Python, Key::PythonDispatcher, Key::FuncTorchDynamicLayerFrontMode,
       Key::FuncTorchVmapMode, Key::Functionalize});
  return c10::impl::tls_local_dispatch_key_set().included_.has_any(watching) ||
         c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

// Whether t's elements are what lies in its memory, on the CPU: no wrapper of a transform or of Python, no
// view whose signs are yet to be changed, no zeros without memory.
inline bool is_plain(const Tensor& t) {
  using Key = c10::DispatchKey;
  constexpr c10::DispatchKeySet plain(
      {Key::CPU, Key::AutogradCPU, Key::ADInplaceOrView, Key::AutocastCPU});
  return (t.key_set() | plain) == plain;
}

inline bool is_channels_last(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  if (sizes[1] != 1 && strides[1] != 1) return false;
  int64_t next = sizes[1];
  for (int64_t d = t.dim() - 1; d >= 0; --d) {
    if (d == 1) continue;
    if (sizes[d] != 1 && strides[d] != next) return false;
    next *= sizes[d];
  }
  return true;
}

// What the kernels know of a tensor.
struct Kind {
  Dtype dtype;
  Layout layout;
};

// Of a tensor that they take as x; nothing of another.
inline std::optional<Kind> kind_of(const Tensor& x) {
  if (!is_plain(x) || x.dim() < 2 || x.dim() > 5 || x.numel() == 0) return std::nullopt;
  Kind kind{Dtype::kFloat32, {x.size(0), x.size(1), 1, false}};
  switch (x.scalar_type()) {
    case at::kFloat: break;
    case at::kBFloat16: kind.dtype = Dtype::kBFloat16; break;
    case at::kHalf: kind.dtype = Dtype::kFloat16; break;
    case at::kDouble: kind.dtype = Dtype::kFloat64; break;
    default: return std::nullopt;
  }
  Layout& l = kind.layout;
  l.size = x.numel() / (l.batch * l.channels);
  l.columns = l.size == 1;
  if (!x.is_contiguous()) {
    if (!is_channels_last(x)) return std::nullopt;
    l.columns = true;
  }
  return kind;
}

inline at::ScalarType stat_type(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? at::kDouble : at::kFloat;
}

// Whether p is what they take as a parameter or statistic of such a tensor, or not there.
inline bool is_parameter(const Optional& p, const Kind& x) {
  return !p.has_value() ||
         (is_plain(*p) && p->scalar_type() == stat_type(x.dtype) && p->dim() == 1 &&
          p->size(0) == x.layout.channels && p->is_contiguous());
}

inline bool requires_grad(const Tensor& t) { return t.requires_grad(); }
inline bool requires_grad(const Optional& t) { return t.has_value() && t->requires_grad(); }

template <typename... Tensors>
bool needs_gradient(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

inline const void* pointer(const Optional& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

inline Tensor empty(at::IntArrayRef sizes, at::ScalarType type) {
  return Tensor(at::detail::empty_cpu(sizes, type));
}

// An uninitialised tensor of x's dtype, shape and strides; x is dense.
inline Tensor output_like(const Tensor& x) {
  const size_t bytes = x.nbytes();
  if (bytes < kernels().large_block) {
    return Tensor(at::detail::empty_strided_cpu(x.sizes(), x.strides(), x.scalar_type()));
  }
  return at::from_blob(kernels().take(bytes), x.sizes(), x.strides(), kernels().give, x.options());
}

// t in the dtype and memory layout of x, which is dense.
inline Tensor dense_like(Tensor t, const Tensor& x) {
  if (t.scalar_type() == x.scalar_type() && t.strides() == x.strides()) return t;
  t = t.to(x.scalar_type());
  return x.is_contiguous() ? t.contiguous() : t.movedim(1, -1).contiguous().movedim(-1, 1);
}

}  // namespace fastgan::eager
