// The way in from Python, `fastgan._autograd`: torch's own for operators boxes each argument by its
// schema, which takes as long as a small kernel.
//
// Python's stable ABI alone: a build serves every Python from 3.10 on that has a GIL.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <torch/csrc/Export.h>

#include <exception>
#include <string>
#include <string_view>

#include "eager/ops.h"

// Of torch/csrc/autograd/python_variable.h, which asks for more of Python than that.
TORCH_PYTHON_API extern PyObject *THPVariableClass, *ParameterClass;
TORCH_PYTHON_API PyObject* THPVariable_Wrap(const at::TensorBase& t);

namespace fastgan::eager {
namespace {

// Where the tensor stands in its Python object: behind the head, or behind a flag.
size_t tensor_offset = 0;

const Tensor& tensor_in(PyObject* o) {
  return *reinterpret_cast<const Tensor*>(reinterpret_cast<const char*>(o) + tensor_offset);
}

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

// What a call gives for nothing.
PyObject* none() {
  Py_IncRef(Py_None);
  return Py_None;
}

// Reads arguments one after another; `right` is false from the first that is not of its type on, which
// is then for Python to look at.
class Arguments {
 public:
  explicit Arguments(PyObject* const* next) : next_(next) {}

  // Null for None.
  const Tensor* tensor() {
    PyObject* const o = *next_++;
    if (o == Py_None) return nullptr;
    const auto* type = reinterpret_cast<const PyObject*>(Py_TYPE(o));
    right = right && (type == THPVariableClass || type == ParameterClass);
    return right ? &tensor_in(o) : nullptr;
  }
  Optional optional() {
    const Tensor* t = tensor();
    return t ? Optional(*t) : std::nullopt;
  }
  bool flag() {
    PyObject* const o = *next_++;
    right = right && (o == Py_True || o == Py_False);
    return o == Py_True;
  }
  double real() {
    PyObject* const o = *next_++;
    right = right && Py_TYPE(o) == &PyFloat_Type;
    return right ? PyFloat_AsDouble(o) : 0.0;
  }
  int64_t whole() {
    PyObject* const o = *next_++;
    right = right && Py_TYPE(o) == &PyLong_Type;
    if (!right) return 0;
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(o, &overflow);
    right = overflow == 0;
    return value;
  }
  std::string_view text() {
    PyObject* const o = *next_++;
    right = right && Py_TYPE(o) == &PyUnicode_Type;
    Py_ssize_t size = 0;
    const char* start = right ? PyUnicode_AsUTF8AndSize(o, &size) : nullptr;
    return {start ? start : "", static_cast<size_t>(size)};
  }

  bool right = true;

 private:
  PyObject* const* next_;
};

// Calls function() without the GIL; its tensor as a Python object, or None.
template <typename Function>
PyObject* call(const Function& function) {
  Optional found;
  std::string problem;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    found = function();
  } catch (const c10::Error& error) {
    problem = error.what_without_backtrace();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  PyEval_RestoreThread(state);
  if (!problem.empty()) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, problem.c_str());
    return nullptr;
  }
  return found.has_value() ? THPVariable_Wrap(*found) : none();
}

bool counts(Py_ssize_t given, Py_ssize_t expected) {
  if (given == expected) return true;
  PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, given);
  return false;
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

// count += passes, of a layer's plain number; false where it is none.
PyObject* py_count(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 2)) return nullptr;
  Arguments a(given);
  const Tensor* count = a.tensor();
  const int64_t passes = a.whole();
  const bool serves = a.right && count != nullptr && is_plain(*count) &&
                      count->scalar_type() == at::kLong && count->numel() == 1 &&
                      !count->is_inference() && !is_watched();
  if (serves) {
    *count->mutable_data_ptr<int64_t>() += passes;
    count->unsafeGetTensorImpl()->bump_version();
  }
  PyObject* const result = serves ? Py_True : Py_False;
  Py_IncRef(result);
  return result;
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
                                  method("count", py_count), {}};
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, methods,
                               nullptr, nullptr, nullptr, nullptr};
  if (!find_tensor_offset()) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "torch keeps tensors elsewhere");
    return nullptr;
  }
  return PyModule_Create(&module);
}
