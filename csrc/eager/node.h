// An op's node in the graph of plain calls.
//
// torch's own C++ functions keep their settings in a dictionary by name, wrap every output and check
// every result, which takes as long as a small kernel. This one holds them as they are. What the
// compiled autograd wants of a node is made when it asks.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <array>
#include <memory>
#include <type_traits>

#include "eager/plain.h"

namespace fastgan::eager {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Which gradients of (x, weight, bias) are asked for, and they.
using Needs = std::array<bool, 3>;
using Gradients = std::array<Tensor, 3>;

// Rule has
//   Settings                                  what is no tensor of a call, with pack() and unpack(IValue)
//   gradients(dz, saved, settings, needs)     those asked for
template <typename Rule>
struct Derivative {
  static constexpr bool is_traceable = false;
  static variable_list backward(AutogradContext* ctx, const variable_list& dz) {
    const auto settings = Rule::Settings::unpack(ctx->saved_data["settings"]);
    const Needs needs{ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    Gradients found = Rule::gradients(dz[0], ctx->get_saved_variables(), settings, needs);
    return {found[0], found[1], found[2]};
  }
};

template <typename Rule>
struct Node final : torch::autograd::CppNode<Derivative<Rule>> {
  using Base = torch::autograd::CppNode<Derivative<Rule>>;
  typename Rule::Settings settings;

  std::string name() const override { return Rule::name; }

  variable_list apply(variable_list&& dz) override {
    const std::lock_guard<std::mutex> lock(this->mutex_);
    Needs needs;
    for (size_t i = 0; i < needs.size(); ++i) needs[i] = this->task_should_compute_output(i);
    const Tensor given = dz[0].defined() ? std::move(dz[0]) : this->input_metadata(0).zeros_like();
    Gradients found = Rule::gradients(given, this->ctx_.get_saved_variables(), settings, needs);
    variable_list results;
    results.reserve(found.size());
    for (Tensor& t : found) results.push_back(std::move(t));
    return results;
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    const_cast<Node*>(this)->describe();
    Base::compiled_args(args);
  }

  variable_list apply_with_saved(const variable_list& dz,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    describe();
    return Base::apply_with_saved(dz, saved);
  }

 private:
  void describe() {
    if (!this->is_variable_input_.empty()) return;
    this->is_variable_input_.assign(Needs{}.size(), true);
    this->output_info_.emplace_back(this->input_metadata(0).zeros_like());
    this->ctx_.saved_data["settings"] = settings.pack();
  }
};

template <typename N, typename Pointer = decltype(torch::autograd::Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {  // of earlier versions
    return std::shared_ptr<N>(new N, [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<N>();
  }
}

// Makes z the output of an op of x, weight and bias, which saves tensors.
template <typename Rule>
void record(const Tensor& z, const Tensor& x, const Optional& weight, const Optional& bias,
            typename Rule::Settings settings, variable_list saved) {
  const auto node = make_node<Node<Rule>>();
  node->set_ctx_grad_fn(node);
  node->set_next_edges(torch::autograd::collect_next_edges(x, weight, bias));
  node->settings = std::move(settings);
  torch::autograd::set_history(z, node);
  node->ctx_.save_for_backward(std::move(saved));
  node->save_variables_to_ctx();
}

// Whether the derivative of a backward is recorded or its operators are watched, so that it is to be the
// operator that chooses a backend, which has a derivative: also where its gradient is no plain tensor or
// one with a tangent.
inline bool is_watched(const Tensor& dz) {
  return at::GradMode::is_enabled() || !is_plain(dz) || dz._fw_grad(0).defined() || is_watched();
}

}  // namespace fastgan::eager
