// Layers of torch.nn by what they hold, and whether they are still what they were.
#include <ATen/PythonTorchFunctionTLS.h>

#include "eager/ops.h"
#include "eager/python.h"

namespace fastgan::eager {
namespace {

// The names of what a layer holds.
struct Names {
  PyObject* weight = PyUnicode_InternFromString("weight");
  PyObject* bias = PyUnicode_InternFromString("bias");
  PyObject* mean = PyUnicode_InternFromString("running_mean");
  PyObject* var = PyUnicode_InternFromString("running_var");
  PyObject* batches = PyUnicode_InternFromString("num_batches_tracked");
};

const Names& names() {
  static const Names interned;
  return interned;
}

// Whether someone in this thread wants to see the functions of torch that a layer calls.
bool is_overridden() { return at::impl::torch_function_mode_enabled(); }

// Whether a value is the one that was there, or a constant equal to it.
bool same(PyObject* now, PyObject* old) {
  if (now == old) return true;
  const PyTypeObject* const type = Py_TYPE(old);
  if (Py_TYPE(now) != type) return false;
  if (type == &PyTuple_Type) {
    const Py_ssize_t n = PyTuple_Size(old);
    bool equal = PyTuple_Size(now) == n;
    for (Py_ssize_t i = 0; equal && i < n; ++i) {
      equal = same(PyTuple_GetItem(now, i), PyTuple_GetItem(old, i));
    }
    return equal;
  }
  const bool is_constant = type == &PyLong_Type || type == &PyFloat_Type || type == &PyUnicode_Type ||
                           type == &PyComplex_Type || type == &PyBytes_Type ||
                           type == &PyFrozenSet_Type;
  return is_constant && PyObject_RichCompareBool(now, old, Py_EQ) == 1;
}

// Whether a dictionary holds the very objects that another holds, and no more.
bool holds_all(PyObject* o, PyObject* expected) {
  if (!PyDict_Check(o) || PyDict_Size(o) != PyDict_Size(expected)) return false;
  Py_ssize_t at = 0;
  PyObject *key = nullptr, *value = nullptr;
  while (PyDict_Next(expected, &at, &key, &value)) {
    if (PyDict_GetItemWithError(o, key) != value) return false;
  }
  return true;
}

// Whether an object is as it was: of the type `expected`, where key is None; a dictionary that holds what
// `expected` does, where key is Ellipsis; else a dictionary that has, under the key, `expected`: the same
// value, any (Ellipsis), any but None (NoneType), none (NotImplemented), or a dictionary with nothing in
// it.
bool holds(PyObject* o, PyObject* key, PyObject* expected) {
  if (key == Py_None) return reinterpret_cast<PyObject*>(Py_TYPE(o)) == expected;
  if (key == Py_Ellipsis) return holds_all(o, expected);
  PyObject* const now = PyDict_GetItemWithError(o, key);
  if (now == nullptr) return expected == Py_NotImplemented;
  if (expected == Py_Ellipsis) return true;
  if (expected == reinterpret_cast<PyObject*>(Py_TYPE(Py_None))) return now != Py_None;
  if (PyDict_Check(expected) && PyDict_Size(expected) == 0) {
    return PyDict_Check(now) && PyDict_Size(now) == 0;
  }
  return same(now, expected);
}

}  // namespace

// x, a layer's parameters and buffers, and the rest of NormLayer and of norm_layer; counts: whether its
// batches are to be counted.
PyObject* py_norm_layer(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 13)) return nullptr;
  Arguments a(given);
  const Tensor* x = a.tensor();
  PyObject *const parameters = a.dictionary(), *const buffers = a.dictionary();
  NormLayer layer;
  layer.weight = a.entry(parameters, names().weight);
  layer.bias = a.entry(parameters, names().bias);
  layer.mean = a.entry(buffers, names().mean);
  layer.var = a.entry(buffers, names().var);
  if (a.flag()) layer.batches = a.entry(buffers, names().batches);
  layer.instances = a.flag();
  layer.training = a.flag();
  layer.tracks = a.flag();
  layer.momentum = a.real();
  layer.eps = a.real();
  const int64_t activation = a.whole();
  const double slope = a.real();
  const bool act_first = a.flag();
  const std::string_view backend = a.text();
  if (!a.right || x == nullptr || is_overridden()) return none();
  return call([&] { return norm_layer(*x, layer, activation, slope, act_first, backend); });
}

// x, the layer's parameters, and its settings as of Convolution.
PyObject* py_convolution(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 8)) return nullptr;
  Arguments a(given);
  const Tensor* x = a.tensor();
  PyObject* const parameters = a.dictionary();
  const Optional weight = a.entry(parameters, names().weight);
  const Optional bias = a.entry(parameters, names().bias);
  Convolution settings;
  settings.stride = a.numbers();
  settings.padding = a.numbers();
  settings.dilation = a.numbers();
  settings.output_padding = a.numbers();
  settings.transposed = a.flag();
  settings.groups = a.whole();
  if (!a.right || x == nullptr || !weight.has_value() || is_overridden()) return none();
  PyObject* const y = call([&] { return convolution(*x, *weight, bias, settings); });
  if (y != nullptr) return y;
  PyErr_Clear();  // the layer itself raises it, as the error that it is
  return none();
}

// count += passes, of a layer's plain number; false where it is none.
PyObject* py_count(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 2)) return nullptr;
  Arguments a(given);
  const Tensor* batches = a.tensor();
  const int64_t passes = a.whole();
  const bool serves = a.right && batches != nullptr && is_countable(*batches);
  if (serves) count(*batches, passes);
  return truth(serves);
}

// Whether all that a tuple speaks of, three entries each, is as it was.
PyObject* py_unchanged(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 1)) return nullptr;
  PyObject* const entries = given[0];
  bool unchanged = true;
  const Py_ssize_t size = PyTuple_Size(entries);
  for (Py_ssize_t i = 0; unchanged && i + 2 < size; i += 3) {
    unchanged = holds(PyTuple_GetItem(entries, i), PyTuple_GetItem(entries, i + 1),
                      PyTuple_GetItem(entries, i + 2));
  }
  if (PyErr_Occurred()) PyErr_Clear();  // of a comparison that failed
  return truth(unchanged);
}

}  // namespace fastgan::eager
