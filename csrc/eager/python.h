// What the functions of `fastgan._autograd` share: how they read their arguments.
//
// Python's stable ABI alone: a build serves every Python from 3.10 on that has a GIL.
#pragma once

#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <torch/csrc/Export.h>

#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "eager/plain.h"

// Of torch/csrc/autograd/python_variable.h, which asks for more of Python than that.
TORCH_PYTHON_API extern PyObject *THPVariableClass, *ParameterClass;
TORCH_PYTHON_API PyObject* THPVariable_Wrap(const at::TensorBase& t);

namespace fastgan::eager {

// Where the tensor stands in its Python object: behind the head, or behind a flag.
extern size_t tensor_offset;

inline const Tensor& tensor_in(PyObject* o) {
  return *reinterpret_cast<const Tensor*>(reinterpret_cast<const char*>(o) + tensor_offset);
}

// Null for an object that is no plain tensor or parameter.
inline const Tensor* plain_tensor(PyObject* o) {
  const auto* type = reinterpret_cast<const PyObject*>(Py_TYPE(o));
  return type == THPVariableClass || type == ParameterClass ? &tensor_in(o) : nullptr;
}

// What a call gives for nothing.
inline PyObject* none() {
  Py_IncRef(Py_None);
  return Py_None;
}

inline PyObject* truth(bool value) {
  PyObject* const result = value ? Py_True : Py_False;
  Py_IncRef(result);
  return result;
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
    const Tensor* const t = plain_tensor(o);
    right = right && t != nullptr;
    return right ? t : nullptr;
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
  std::vector<int64_t> numbers() {
    PyObject* const o = *next_++;
    right = right && Py_TYPE(o) == &PyTuple_Type;
    std::vector<int64_t> found(right ? PyTuple_Size(o) : 0);
    for (size_t i = 0; i < found.size(); ++i) {
      PyObject* const number = PyTuple_GetItem(o, static_cast<Py_ssize_t>(i));
      Arguments one(&number);
      found[i] = one.whole();
      right = right && one.right;
    }
    return found;
  }
  PyObject* dictionary() {
    PyObject* const o = *next_++;
    right = right && PyDict_Check(o);
    return o;
  }
  // What a dictionary of `dictionary` has under a name.
  Optional entry(PyObject* held, PyObject* name) {
    PyObject* const o = right ? PyDict_GetItemWithError(held, name) : nullptr;
    right = right && o != nullptr;
    if (!right) return std::nullopt;
    Arguments one(&o);
    Optional found = one.optional();
    right = one.right;
    return found;
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

inline bool counts(Py_ssize_t given, Py_ssize_t expected) {
  if (given == expected) return true;
  PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, given);
  return false;
}

// Of calls that were like earlier ones (`python_repeated.cpp`).
PyObject* py_kind(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_call_kind(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_known(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_apart(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_empties(PyObject*, PyObject* const* given, Py_ssize_t n);

// Of layers of torch.nn (`python_layers.cpp`).
PyObject* py_norm_layer(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_convolution(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_count(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_unchanged(PyObject*, PyObject* const* given, Py_ssize_t n);

}  // namespace fastgan::eager
