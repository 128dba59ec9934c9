#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>

#include <cstring>
#include <string>
#include <tuple>

#include "eager/node.h"
#include "eager/ops.h"

namespace fastgan::eager {
namespace {

struct Settings {
  NormSpec spec;
  bool training;
  std::string backend;

  c10::IValue pack() const {
    return std::make_tuple(spec.eps, static_cast<int64_t>(spec.activation), spec.slope,
                           spec.segments, spec.act_first, training, backend);
  }
  static Settings unpack(const c10::IValue& packed) {
    const auto [eps, activation, slope, segments, act_first, training, backend] =
        packed.to<std::tuple<double, int64_t, double, int64_t, bool, bool, std::string>>();
    return {{eps, static_cast<int>(activation), slope, segments, act_first}, training, backend};
  }
};

struct Rule {
  using Settings = eager::Settings;
  static constexpr const char* name = "fastgan::NormActBackward";

  // saved: x, mean and variance as one, weight, bias.
  static Gradients gradients(const Tensor& gradient, const variable_list& saved,
                             const Settings& settings, const Needs& needs) {
    const Tensor &x = saved[0], &stats = saved[1];
    const Optional weight = optional(saved[2]), bias = optional(saved[3]);
    const bool need_dparams = needs[1] || needs[2];
    const Tensor dz = dense_like(gradient, x);
    const auto run = is_watched(dz) ? by_operator : by_kernel;
    Gradients found = run(dz, x, stats, weight, bias, settings, needs[0], need_dparams);
    for (size_t i = 0; i < needs.size(); ++i) {
      if (!needs[i]) found[i].reset();
    }
    return found;
  }

 private:
  static Optional optional(const Tensor& t) { return t.defined() ? Optional(t) : std::nullopt; }

  static Gradients by_operator(const Tensor& dz, const Tensor& x, const Tensor& stats,
                               const Optional& weight, const Optional& bias, const Settings& s,
                               bool need_dx, bool need_dparams) {
    using Run = std::tuple<Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&,
        const Optional&, double, int64_t, double, int64_t, bool, bool, bool, bool,
        std::string_view);
    static const auto run = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("fastgan::norm_act_backward", "")
                                .typed<Run>();
    auto [dx, dweight, dbias] =
        run.call(dz, x, stats.select(0, 0), stats.select(0, 1), weight, bias, s.spec.eps,
                 s.spec.activation, s.spec.slope, s.spec.segments, s.spec.act_first, s.training,
                 need_dx, need_dparams, s.backend);
    return {dx, dweight, dbias};
  }

  static Gradients by_kernel(const Tensor& dz, const Tensor& x, const Tensor& stats,
                             const Optional& weight, const Optional& bias, const Settings& s,
                             bool need_dx, bool need_dparams) {
    const std::optional<Kind> kind = kind_of(x);
    // Hooks on saved tensors may have given back others.
    TORCH_CHECK(kind.has_value() && is_parameter(weight, *kind) && is_parameter(bias, *kind) &&
                    is_plain(stats) && stats.is_contiguous() &&
                    stats.scalar_type() == stat_type(kind->dtype) &&
                    stats.numel() == 2 * s.spec.segments * kind->layout.channels,
                "norm_act: a tensor saved for backward came back in another dtype or layout");
    TORCH_CHECK(dz.sizes() == x.sizes(), "norm_act: expected a gradient of shape ", x.sizes(),
                ", got ", dz.sizes());
    Gradients found;
    NormBackward call{{kind->dtype, kind->layout, s.spec, s.training, x.const_data_ptr(),
                       pointer(weight), pointer(bias)}};
    call.dz = dz.const_data_ptr();
    const char* moments = static_cast<const char*>(stats.const_data_ptr());
    call.mean = moments;
    call.var = moments + stats.nbytes() / 2;
    if (need_dx) {
      found[0] = output_like(x);
      call.dx = found[0].mutable_data_ptr();
    }
    if (need_dparams) {
      for (size_t i : {1, 2}) found[i] = empty({kind->layout.channels}, stats.scalar_type());
      call.dweight = found[1].mutable_data_ptr();
      call.dbias = found[2].mutable_data_ptr();
    }
    kernels().norm_backward(call);
    return found;
  }
};

bool overlap(const Tensor& t, const Optional& u) {
  if (!u.has_value()) return false;
  const auto *start = static_cast<const char*>(t.const_data_ptr()),
             *other = static_cast<const char*>(u->const_data_ptr());
  return start < other + u->nbytes() && other < start + t.nbytes();
}

// Whether moving the running statistics would write over another argument.
bool overlaps(const Tensor& mean, const Tensor& var, const Tensor& x, const Optional& weight,
              const Optional& bias) {
  if (overlap(mean, var)) return true;
  for (const Tensor* t : {&mean, &var}) {
    if (overlap(*t, x) || overlap(*t, weight) || overlap(*t, bias)) return true;
  }
  return false;
}

void move(const Tensor& mean, const Tensor& var, const NormForward& by, double momentum,
          int64_t count, bool average, bool raises) {
  kernels().update_running_stats({by.dtype == Dtype::kFloat64, mean.mutable_data_ptr(),
                                  var.mutable_data_ptr(), by.mean, by.var, by.spec.segments,
                                  by.layout.channels, momentum, count, average});
  if (!raises) return;
  // The kernel stands below the key that would raise their versions.
  for (const Tensor* t : {&mean, &var}) t->unsafeGetTensorImpl()->bump_version();
}

// norm_act. raises: the versions of running statistics that move.
Optional run(const Tensor& x, const Optional& running_mean, const Optional& running_var,
             const Optional& weight, const Optional& bias, bool training, double momentum,
             double eps, int64_t activation, double slope, int64_t segments, bool act_first,
             bool average, bool raises, std::string_view backend) {
  const std::optional<Kind> kind = kind_of(x);
  if (!kind.has_value() || is_watched()) return std::nullopt;
  for (const Optional* p : {&running_mean, &running_var, &weight, &bias}) {
    if (!is_parameter(*p, *kind)) return std::nullopt;
  }
  const bool tracked = running_mean.has_value();
  if (tracked != running_var.has_value() || needs_gradient(running_mean, running_var)) {
    return std::nullopt;
  }
  const auto& [dtype, layout] = *kind;
  int64_t count = 0;
  if (training) {
    if (segments < 1 || layout.batch % segments != 0) return std::nullopt;
    count = layout.batch / segments * layout.size;
    if (count == 1) return std::nullopt;
    if (tracked && overlaps(*running_mean, *running_var, x, weight, bias)) return std::nullopt;
  } else {
    if (!tracked) return std::nullopt;
    segments = 1;
  }
  RECORD_FUNCTION("fastgan::norm_act", c10::ArrayRef<const c10::IValue>{});
  const NormSpec spec{eps, static_cast<int>(activation), slope, segments, act_first};
  const bool differentiable = needs_gradient(x, weight, bias);
  NormForward call{{dtype, layout, spec, training, x.const_data_ptr(), pointer(weight),
                    pointer(bias)}};
  Tensor stats;
  if (training || differentiable) {
    stats = empty({2, segments, layout.channels}, stat_type(dtype));
    call.mean = stats.mutable_data_ptr();
    call.var = static_cast<char*>(call.mean) + stats.nbytes() / 2;
  } else {
    call.mean = const_cast<void*>(running_mean->const_data_ptr());
    call.var = const_cast<void*>(running_var->const_data_ptr());
  }
  if (!training && differentiable) {
    // Copies: a training pass may move the running statistics before this backward.
    std::memcpy(call.mean, running_mean->const_data_ptr(), stats.nbytes() / 2);
    std::memcpy(call.var, running_var->const_data_ptr(), stats.nbytes() / 2);
  }
  const Tensor z = output_like(x);
  call.z = z.mutable_data_ptr();
  kernels().norm_forward(call);
  if (training && tracked) {
    move(*running_mean, *running_var, call, momentum, count, average, raises);
  }
  if (differentiable) {
    record<Rule>(z, x, weight, bias, Settings{spec, training, std::string(backend)},
                 {x, stats, weight.value_or(Tensor()), bias.value_or(Tensor())});
  }
  return z;
}

}  // namespace

Optional norm_act(const Tensor& x, const Optional& running_mean, const Optional& running_var,
                  const Optional& weight, const Optional& bias, bool training, double momentum,
                  double eps, int64_t activation, double slope, int64_t segments, bool act_first,
                  bool average, std::string_view backend) {
  return run(x, running_mean, running_var, weight, bias, training, momentum, eps, activation, slope,
             segments, act_first, average, true, backend);
}

Optional norm_layer(const Tensor& x, const NormLayer& layer, int64_t activation, double slope,
                    bool act_first, std::string_view backend) {
  const Optional none;
  const bool tracked = layer.mean.has_value();
  // torch.nn's: an instance norm goes by what it is told, a batch norm by what it has.
  const bool by_batch = layer.training || !(layer.instances ? layer.tracks : tracked);
  const bool moves = layer.training && layer.tracks && tracked;
  const bool counts = layer.training && layer.tracks && layer.batches.has_value();
  if (counts && !is_countable(*layer.batches)) return std::nullopt;
  const bool given = moves || !by_batch;
  const int64_t segments = layer.instances && x.dim() > 0 ? x.size(0) : 1;
  // A batch norm of torch.nn raises no versions: its own backward, which may follow, asks that none
  // was.
  Optional z = run(x, given ? layer.mean : none, given ? layer.var : none, layer.weight, layer.bias,
                   by_batch, layer.momentum, layer.eps, activation, slope, segments, act_first,
                   layer.instances, layer.instances, backend);
  if (z.has_value() && counts) count(*layer.batches, 1);
  return z;
}

bool is_countable(const Tensor& batches) {
  return is_plain(batches) && batches.scalar_type() == at::kLong && batches.numel() == 1 &&
         !batches.is_inference() && !is_watched();
}

void count(const Tensor& batches, int64_t passes) {
  *batches.mutable_data_ptr<int64_t>() += passes;
  batches.unsafeGetTensorImpl()->bump_version();
}

}  // namespace fastgan::eager
