// What the functions of `fastgan._autograd` share: how they read their arguments.
//
// Python's stable ABI alone: a build serves every Python from 3.10 on that has a GIL.
#pragma once

#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <torch/csrc/Export.h>

#include <string_view>

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

// Of calls that were like earlier ones (`python_repeated.cpp`).
PyObject* py_kind(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_apart(PyObject*, PyObject* const* given, Py_ssize_t n);
PyObject* py_empties(PyObject*, PyObject* const* given, Py_ssize_t n);

}  // namespace fastgan::eager
