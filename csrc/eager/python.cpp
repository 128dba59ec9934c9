// The way in from Python, `fastgan._autograd`: torch's own for operators boxes each argument by its
// schema, which takes as long as a small kernel.
#include "eager/python.h"

#include "eager/ops.h"

namespace fastgan::eager {

size_t tensor_offset = 0;

namespace {

// Looks for it in an object made here; false where it is elsewhere.
bool find_tensor_offset() {
  const Tensor t = empty({1}, at::kFloat);
  PyObject* const o = THPVariable_Wrap(t);
  if (o == nullptr) return false;
  bool found = false;
  for (const size_t offset : {sizeof(PyObject), sizeof(PyObject) + alignof(Tensor)}) {
    tensor_offset = offset;
    found = tensor_in(o).unsafeGetTensorImpl() == t.unsafeGetTensorImpl();
    if (found) break;
  }
  Py_DecRef(o);
  return found;
}

PyObject* py_norm_act(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 14)) return nullptr;
  Arguments a(given);
  const Tensor* x = a.tensor();
  const Optional mean = a.optional(), var = a.optional(), weight = a.optional(), bias = a.optional();
  const bool training = a.flag();
  const double momentum = a.real(), eps = a.real();
  const int64_t activation = a.whole();
  const double slope = a.real();
  const int64_t segments = a.whole();
  const bool act_first = a.flag(), average = a.flag();
  const std::string_view backend = a.text();
  if (!a.right || x == nullptr) return none();
  return call([&] {
    return norm_act(*x, mean, var, weight, bias, training, momentum, eps, activation, slope,
                    segments, act_first, average, backend);
  });
}

PyObject* py_bias_act(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 5)) return nullptr;
  Arguments a(given);
  const Tensor* x = a.tensor();
  const Optional bias = a.optional();
  const int64_t activation = a.whole();
  const double slope = a.real();
  const std::string_view backend = a.text();
  if (!a.right || x == nullptr) return none();
  return call([&] { return bias_act(*x, bias, activation, slope, backend); });
}

PyMethodDef method(const char* name,
                   PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  const auto any = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
  return {name, any, METH_FASTCALL, nullptr};
}

}  // namespace
}  // namespace fastgan::eager

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__autograd() {
  using namespace fastgan::eager;
  static PyMethodDef methods[] = {method("norm_act", py_norm_act), method("bias_act", py_bias_act),
                                  method("count", py_count), method("kind", py_kind),
                                  method("call_kind", py_call_kind), method("known", py_known),
                                  method("empties", py_empties), method("apart", py_apart),
                                  method("norm_layer", py_norm_layer),
                                  method("convolution", py_convolution),
                                  method("unchanged", py_unchanged), {}};
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, methods,
                               nullptr, nullptr, nullptr, nullptr};
  if (!find_tensor_offset()) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "torch keeps tensors elsewhere");
    return nullptr;
  }
  return PyModule_Create(&module);
}
