// norm_act and bias_act of plain eager calls, with their derivatives: no Python between PyTorch and
// the raw kernels, which costs as much as the kernels of a small layer.
//
// This is a library of its own, for PyTorch's autograd has no stable ABI: it serves the version of
// torch that it was built with, and where it is missing fastgan/ops does the same in Python. A
// backward that is itself recorded (`create_graph`), or whose gradient something watches, is the
// dispatcher operator with a choice of backend, which has a derivative.
#include <ATen/MemoryOverlap.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>

namespace fastgan {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Optional = std::optional<Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "kernel") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

struct Spec {
  double eps;
  int64_t activation;
  double slope;
  int64_t segments;
  bool act_first;
  std::string backend;
};

// What the statistics of a batch move: nothing where there are no running ones.
struct Running {
  Optional mean, var;
  double momentum;
  int64_t count;
  bool average;
};

bool requires_grad(const Tensor& t) { return t.requires_grad(); }
bool requires_grad(const Optional& t) { return t.has_value() && t->requires_grad(); }

template <typename... Tensors>
bool needs_gradient(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

Optional optional(const Tensor& t) { return t.defined() ? Optional(t) : std::nullopt; }

// Whether the derivative of a backward is recorded or its operators are watched: by a dispatch mode, a
// function transform, a gradient of another class or one with a tangent.
bool watched(const Tensor& dz) {
  using Key = c10::DispatchKey;
  constexpr c10::DispatchKeySet watching(
      {Key::Python, Key::FuncTorchBatched, Key::FuncTorchGradWrapper, Key::Functionalize});
  return at::GradMode::is_enabled() || dz.key_set().has_any(watching) || dz.is_meta() ||
         dz._fw_grad(0).defined() ||
         c10::impl::tls_local_dispatch_key_set().included_.has(Key::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::TorchDispatchModeTLS::any_modes_set();
}

// t in the dtype and memory layout of x, which is dense.
Tensor dense_like(Tensor t, const Tensor& x) {
  if (t.scalar_type() == x.scalar_type() && t.strides() == x.strides()) return t;
  t = t.to(x.scalar_type());
  return x.is_contiguous() ? t.contiguous() : t.movedim(1, -1).contiguous().movedim(-1, 1);
}

Three run_train(const Tensor& x, const Optional& weight, const Optional& bias, const Spec& s,
                const Running& running) {
  static const auto train = find<Three(const Tensor&, const Optional&, const Optional&, double,
                                       int64_t, double, int64_t, bool)>("fastgan::norm_act_train");
  static const auto update =
      find<void(Tensor, Tensor, const Tensor&, const Tensor&, double, int64_t, bool)>(
          "fastgan::update_running_stats_");
  const at::AutoDispatchBelowADInplaceOrView raw;
  Three results = train.call(x, weight, bias, s.eps, s.activation, s.slope, s.segments, s.act_first);
  if (running.mean.has_value()) {
    update.call(*running.mean, *running.var, std::get<1>(results), std::get<2>(results),
                running.momentum, running.count, running.average);
    // The kernel stands below the key that would raise their versions.
    for (const Optional* t : {&running.mean, &running.var}) (*t)->unsafeGetTensorImpl()->bump_version();
  }
  return results;
}

Tensor run_eval(const Tensor& x, const Tensor& mean, const Tensor& var, const Optional& weight,
                const Optional& bias, const Spec& s) {
  static const auto eval =
      find<Tensor(const Tensor&, const Tensor&, const Tensor&, const Optional&, const Optional&,
                  double, int64_t, double, int64_t, bool)>("fastgan::norm_act_eval");
  const at::AutoDispatchBelowADInplaceOrView raw;
  return eval.call(x, mean, var, weight, bias, s.eps, s.activation, s.slope, s.segments, s.act_first);
}

void save(AutogradContext* ctx, const Tensor& x, const Tensor& mean, const Tensor& var,
          const Optional& weight, const Optional& bias, const Spec& s) {
  ctx->save_for_backward({x, mean, var, weight.value_or(Tensor()), bias.value_or(Tensor())});
  ctx->saved_data["spec"] = std::make_tuple(s.eps, s.activation, s.slope, s.segments, s.act_first);
  ctx->saved_data["backend"] = s.backend;
}

// Gradients of (x, weight, bias), each where it is asked for.
Three gradients(AutogradContext* ctx, const Tensor& gradient, bool training) {
  const variable_list saved = ctx->get_saved_variables();
  const Tensor &x = saved[0], &mean = saved[1], &var = saved[2];
  const Optional weight = optional(saved[3]), bias = optional(saved[4]);
  const auto [eps, activation, slope, segments, act_first] =
      ctx->saved_data["spec"].to<std::tuple<double, int64_t, double, int64_t, bool>>();
  // Edges exist for the tensors that were given.
  const size_t after = weight.has_value() ? 2 : 1;
  const bool need_dx = ctx->needs_input_grad(0),
             need_dweight = weight.has_value() && ctx->needs_input_grad(1),
             need_dbias = bias.has_value() && ctx->needs_input_grad(after),
             need_dparams = need_dweight || need_dbias;
  const Tensor dz = dense_like(gradient, x);
  Three result;
  if (watched(dz)) {
    static const auto backward =
        find<Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&,
                   const Optional&, double, int64_t, double, int64_t, bool, bool, bool, bool,
                   std::string_view)>("fastgan::norm_act_backward", "");
    result = backward.call(dz, x, mean, var, weight, bias, eps, activation, slope, segments, act_first,
                           training, need_dx, need_dparams,
                           ctx->saved_data["backend"].toStringRef());
  } else {
    static const auto backward =
        find<Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&,
                   const Optional&, double, int64_t, double, int64_t, bool, bool, bool, bool)>(
            "fastgan::norm_act_backward");
    const at::AutoDispatchBelowADInplaceOrView raw;
    result = backward.call(dz, x, mean, var, weight, bias, eps, activation, slope, segments, act_first,
                           training, need_dx, need_dparams);
  }
  if (!need_dx) std::get<0>(result).reset();
  if (!need_dweight) std::get<1>(result).reset();
  if (!need_dbias) std::get<2>(result).reset();
  return result;
}

struct NormActTrain : Function<NormActTrain> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Optional& weight,
                        const Optional& bias, const Spec& spec, const Running& running) {
    auto [z, mean, var] = run_train(x, weight, bias, spec, running);
    save(ctx, x, mean, var, weight, bias, spec);
    return z;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dz) {
    const auto [dx, dweight, dbias] = gradients(ctx, dz[0], true);
    return {dx, dweight, dbias, Tensor(), Tensor()};
  }
};

struct NormActEval : Function<NormActEval> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Optional& weight,
                        const Optional& bias, const Spec& spec, const Running& running) {
    // Copies: a training pass may move the running statistics before this backward.
    save(ctx, x, running.mean->clone(), running.var->clone(), weight, bias, spec);
    return run_eval(x, *running.mean, *running.var, weight, bias, spec);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dz) {
    const auto [dx, dweight, dbias] = gradients(ctx, dz[0], false);
    return {dx, dweight, dbias, Tensor(), Tensor()};
  }
};

bool is_channels_last(const Tensor& t) {
  if (t.size(1) != 1 && t.stride(1) != 1) return false;
  int64_t next = t.size(1);
  for (int64_t d = t.dim() - 1; d >= 0; --d) {
    if (d == 1) continue;
    if (t.size(d) != 1 && t.stride(d) != next) return false;
    next *= t.size(d);
  }
  return true;
}

// Whether t is what the kernels take as x: dense, on the CPU, of a dtype of theirs.
bool is_plain_input(const Tensor& t) {
  const auto type = t.scalar_type();
  if (t.layout() != at::kStrided || !t.is_cpu() || t.dim() < 2 || t.dim() > 5 || t.numel() == 0 ||
      (type != at::kFloat && type != at::kBFloat16 && type != at::kHalf && type != at::kDouble)) {
    return false;
  }
  return t.is_contiguous() || is_channels_last(t);
}

// Whether moving t would write over u, too.
bool overlap(const Optional& t, const Optional& u) {
  if (!t.has_value() || !u.has_value()) return false;
  const auto status = at::get_overlap_status(*t, *u);
  return status == at::MemOverlapStatus::Full || status == at::MemOverlapStatus::Partial;
}

// Whether p is what they take as a parameter or statistic of x, or not there.
bool is_plain_parameter(const Optional& p, const Tensor& x) {
  if (!p.has_value()) return true;
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return p->layout() == at::kStrided && p->is_cpu() && p->scalar_type() == type && p->dim() == 1 &&
         p->size(0) == x.size(1) && p->is_contiguous();
}

// act(norm(x)), or nothing where an argument is wrong or has to be converted, which fastgan/ops/norm_act
// does: a call that is right as it stands is not looked at in Python, which takes longer.
Optional norm_act(const Tensor& x, const Optional& running_mean, const Optional& running_var,
                  const Optional& weight, const Optional& bias, bool training, double momentum,
                  double eps, int64_t activation, double slope, int64_t segments, bool act_first,
                  bool average, std::string_view backend) {
  if (!is_plain_input(x)) return std::nullopt;
  for (const Optional* p : {&running_mean, &running_var, &weight, &bias}) {
    if (!is_plain_parameter(*p, x)) return std::nullopt;
  }
  if (running_mean.has_value() != running_var.has_value()) return std::nullopt;
  if (needs_gradient(running_mean, running_var)) return std::nullopt;
  if (!training) {
    if (!running_mean.has_value()) return std::nullopt;
    const Spec spec{eps, activation, slope, 1, act_first, std::string(backend)};
    const Tensor mean = running_mean->unsqueeze(0), var = running_var->unsqueeze(0);
    if (!needs_gradient(x, weight, bias)) return run_eval(x, mean, var, weight, bias, spec);
    return NormActEval::apply(x, weight, bias, spec, Running{mean, var, 0.0, 0, false});
  }
  if (segments < 1 || x.size(0) % segments != 0) return std::nullopt;
  const int64_t count = x.numel() / x.size(1) / segments;
  if (count == 1 || overlap(running_mean, running_var)) return std::nullopt;
  for (const Optional* p : {&running_mean, &running_var}) {
    if (overlap(*p, x) || overlap(*p, weight) || overlap(*p, bias)) return std::nullopt;
  }
  const Spec spec{eps, activation, slope, segments, act_first, std::string(backend)};
  const Running running{running_mean, running_var, momentum, count, average};
  if (!needs_gradient(x, weight, bias)) {
    return std::get<0>(run_train(x, weight, bias, spec, running));
  }
  return NormActTrain::apply(x, weight, bias, spec, running);
}

Tensor run_bias_act(const Tensor& x, const Optional& bias, int64_t activation, double slope) {
  static const auto forward =
      find<Tensor(const Tensor&, const Optional&, int64_t, double)>("fastgan::bias_act");
  const at::AutoDispatchBelowADInplaceOrView raw;
  return forward.call(x, bias, activation, slope);
}

struct BiasAct : Function<BiasAct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Optional& bias,
                        int64_t activation, double slope, const std::string& backend) {
    Tensor z = run_bias_act(x, bias, activation, slope);
    ctx->save_for_backward({z});
    ctx->saved_data["spec"] = std::make_tuple(activation, slope, bias.has_value());
    ctx->saved_data["backend"] = backend;
    return z;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradient) {
    using Two = std::tuple<Tensor, Tensor>;
    const Tensor z = ctx->get_saved_variables()[0];
    const auto [activation, slope, has_bias] =
        ctx->saved_data["spec"].to<std::tuple<int64_t, double, bool>>();
    const bool need_dx = ctx->needs_input_grad(0), need_dbias = has_bias && ctx->needs_input_grad(1);
    const Tensor dz = dense_like(gradient[0], z);
    Two result;
    if (watched(dz)) {
      static const auto run =
          find<Two(const Tensor&, const Tensor&, int64_t, double, bool, std::string_view)>(
              "fastgan::bias_act_backward", "");
      result = run.call(dz, z, activation, slope, need_dbias,
                        ctx->saved_data["backend"].toStringRef());
    } else {
      static const auto run = find<Two(const Tensor&, const Tensor&, int64_t, double, bool)>(
          "fastgan::bias_act_backward");
      const at::AutoDispatchBelowADInplaceOrView raw;
      result = run.call(dz, z, activation, slope, need_dbias);
    }
    const auto& [dx, dbias] = result;
    return {need_dx ? dx : Tensor(), need_dbias ? dbias : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor bias_act(const Tensor& x, const Optional& bias, int64_t activation, double slope,
                std::string_view backend) {
  if (needs_gradient(x, bias)) {
    return BiasAct::apply(x, bias, activation, slope, std::string(backend));
  }
  return run_bias_act(x, bias, activation, slope);
}

}  // namespace
}  // namespace fastgan

TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "norm_act_eager(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight, "
      "Tensor? bias, bool training, float momentum, float eps, int activation, float "
      "negative_slope, "
      "int segments, bool act_first, bool average, str backend) -> Tensor?",
      &fastgan::norm_act);
  m.def(
      "bias_act_eager(Tensor x, Tensor? bias, int activation, float negative_slope, str backend) "
      "-> Tensor",
      &fastgan::bias_act);
}
