#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>

#include <string>
#include <tuple>

#include "eager/node.h"
#include "eager/ops.h"

namespace fastgan::eager {
namespace {

struct Settings {
  int64_t activation;
  double slope;
  std::string backend;

  c10::IValue pack() const { return std::make_tuple(activation, slope, backend); }
  static Settings unpack(const c10::IValue& packed) {
    const auto [activation, slope, backend] =
        packed.to<std::tuple<int64_t, double, std::string>>();
    return {activation, slope, backend};
  }
};

struct Rule {
  using Settings = eager::Settings;
  static constexpr const char* name = "fastgan::BiasActBackward";

  // saved: the output.
  static Gradients gradients(const Tensor& gradient, const variable_list& saved,
                             const Settings& settings, const Needs& needs) {
    const Tensor& z = saved[0];
    const Tensor dz = dense_like(gradient, z);
    Gradients found = is_watched(dz) ? by_operator(dz, z, settings, needs[2])
                                     : by_kernel(dz, z, settings, needs[2]);
    if (!needs[0]) found[0].reset();
    if (!needs[2]) found[2].reset();
    return found;
  }

 private:
  static Gradients by_operator(const Tensor& dz, const Tensor& z, const Settings& s,
                               bool need_dbias) {
    using Run = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, double, bool,
                                           std::string_view);
    static const auto run = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("fastgan::bias_act_backward", "")
                                .typed<Run>();
    auto [dx, dbias] = run.call(dz, z, s.activation, s.slope, need_dbias, s.backend);
    return {dx, Tensor(), dbias};
  }

  static Gradients by_kernel(const Tensor& dz, const Tensor& z, const Settings& s,
                             bool need_dbias) {
    const std::optional<Kind> kind = kind_of(z);
    TORCH_CHECK(kind.has_value(),
                "bias_act: the output saved for backward came back in another dtype or layout");
    TORCH_CHECK(dz.sizes() == z.sizes(), "bias_act: expected a gradient of shape ", z.sizes(),
                ", got ", dz.sizes());
    Gradients found{output_like(z), Tensor(), Tensor()};
    if (need_dbias) found[2] = empty({kind->layout.channels}, stat_type(kind->dtype));
    kernels().bias_backward({kind->dtype, kind->layout, static_cast<int>(s.activation), s.slope,
                             dz.const_data_ptr(), z.const_data_ptr(), found[0].mutable_data_ptr(),
                             need_dbias ? found[2].mutable_data_ptr() : nullptr});
    return found;
  }
};

}  // namespace

Optional bias_act(const Tensor& x, const Optional& bias, int64_t activation, double slope,
                  std::string_view backend) {
  const std::optional<Kind> kind = kind_of(x);
  if (!kind.has_value() || !is_parameter(bias, *kind) || is_watched()) return std::nullopt;
  RECORD_FUNCTION("fastgan::bias_act", c10::ArrayRef<const c10::IValue>{});
  const Tensor z = output_like(x);
  kernels().bias_forward({kind->dtype, kind->layout, static_cast<int>(activation), slope,
                          x.const_data_ptr(), pointer(bias), z.mutable_data_ptr()});
  if (needs_gradient(x, bias)) {
    record<Rule>(z, x, std::nullopt, bias, Settings{activation, slope, std::string(backend)}, {z});
  }
  return z;
}

}  // namespace fastgan::eager
