// What Python asks of a call that may be like an earlier one: how its arguments lie, as one value to
// compare, and its outputs, all at once.
#include <ATen/TracerMode.h>
#include <ATen/autocast_mode.h>

#include <array>
#include <cstring>
#include <vector>

#include "eager/python.h"

namespace fastgan::eager {
namespace {

// What is known of one tensor, but for its sizes and strides, which follow it.
struct Head {
  char tag;  // 'T' of a tensor, 'P' of a parameter, 'S' of one beside that before it in its memory
  int8_t dtype, device_type, device_index;
  bool requires_grad;
  uint8_t dim;
};

constexpr size_t kMostDims = 8, kMost = 4096;  // of a tensor, and bytes of a kind
constexpr size_t kMostTensors = 16;             // to tell apart

// Null for an object that is no plain tensor with sizes and strides. A nested one says that it is
// strided, and throws where it is asked how.
const Tensor* strided_tensor(PyObject* o) {
  const Tensor* const t = plain_tensor(o);
  const bool has_both = t != nullptr && t->layout() == at::kStrided && !t->is_nested() &&
                        !t->unsafeGetTensorImpl()->has_symbolic_sizes_strides();
  return has_both ? t : nullptr;
}

class Description {
 public:
  // False where o is nothing that this can tell apart from all others.
  bool add(PyObject* o, bool with_gradient) {
    if (o == Py_None) return put('N');
    if (o == Py_True || o == Py_False) return put(o == Py_True ? 't' : 'f');
    if (Py_TYPE(o) == &PyFloat_Type) return put('d') && put(PyFloat_AsDouble(o));
    if (Py_TYPE(o) == &PyLong_Type) {
      int overflow = 0;
      const int64_t value = PyLong_AsLongLongAndOverflow(o, &overflow);
      return overflow == 0 && put('i') && put(value);
    }
    if (Py_TYPE(o) == &PyTuple_Type) {
      const Py_ssize_t n = PyTuple_Size(o);
      bool right = true;
      for (Py_ssize_t i = 0; right && i < n; ++i) right = add(PyTuple_GetItem(o, i), i ? 'S' : 'T');
      return right;
    }
    const bool is_parameter = reinterpret_cast<PyObject*>(Py_TYPE(o)) == ParameterClass;
    return add(o, is_parameter ? 'P' : 'T', with_gradient);
  }

  // All that the choice of a form may depend on beside the tensors.
  bool add_modes() {
    bool right = put(at::GradMode::is_enabled());
    for (const auto device : {at::kCPU, at::kCUDA}) {
      const bool casts = at::autocast::is_autocast_enabled(device);
      right = right && put(casts) && (!casts || put(at::autocast::get_autocast_dtype(device)));
    }
    return right;
  }

  PyObject* bytes() const {
    return PyBytes_FromStringAndSize(bytes_.data(), static_cast<Py_ssize_t>(size_));
  }

 private:
  bool add(PyObject* o, char tag, bool with_gradient = false) {
    const Tensor* const t = strided_tensor(o);
    if (t == nullptr) return false;
    const auto sizes = t->sizes(), strides = t->strides();
    const c10::Device device = t->device();
    const Head head{tag, static_cast<int8_t>(t->scalar_type()), static_cast<int8_t>(device.type()),
                    device.index(), with_gradient && t->requires_grad(),
                    static_cast<uint8_t>(sizes.size())};
    return sizes.size() <= kMostDims && put(head) && put(sizes) && put(strides);
  }

  template <typename Value>
  bool put(const Value& value) {
    return put(&value, sizeof(value));
  }
  bool put(at::IntArrayRef values) { return put(values.data(), values.size() * sizeof(int64_t)); }
  bool put(const void* from, size_t bytes) {
    if (size_ + bytes > kMost) return false;
    std::memcpy(bytes_.data() + size_, from, bytes);
    size_ += bytes;
    return true;
  }

  std::array<char, kMost> bytes_;
  size_t size_ = 0;
};

// Reads a description of tensors alone.
class Tensors {
 public:
  struct One {
    Head head;
    std::array<int64_t, 2 * kMostDims> numbers;

    at::IntArrayRef sizes() const { return {numbers.data(), head.dim}; }
    at::IntArrayRef strides() const { return {numbers.data() + head.dim, head.dim}; }
    at::ScalarType dtype() const { return static_cast<at::ScalarType>(head.dtype); }
    // Elements from the first to the last, and on to where another tensor may begin.
    int64_t extent() const {
      int64_t last = 0, any = 1;
      for (size_t d = 0; d < head.dim; ++d) {
        last += (sizes()[d] - 1) * strides()[d];
        any *= sizes()[d];
      }
      return any == 0 ? 0 : (last + kApart) / kApart * kApart;
    }
  };

  Tensors(const char* at, size_t bytes) : at_(at), end_(at + bytes) {}

  bool left() const { return at_ < end_; }
  // False where what follows is something else.
  bool next(One& one) {
    return get(&one.head, sizeof(Head)) && one.head.dim <= kMostDims &&
           (one.head.tag == 'T' || one.head.tag == 'S') &&
           get(one.numbers.data(), 2 * one.head.dim * sizeof(int64_t));
  }

 private:
  // A tensor in another's memory begins at a multiple of so many elements: vector loads and TMA ask
  // for 16 bytes, a line of the cache has 128.
  static constexpr int64_t kApart = 128;

  bool get(void* to, size_t bytes) {
    if (static_cast<size_t>(end_ - at_) < bytes) return false;
    std::memcpy(to, at_, bytes);
    at_ += bytes;
    return true;
  }

  const char *at_, *const end_;
};

// A tensor in memory of another of its dtype, no view of it to autograd.
Tensor beside(const Tensor& memory, const Tensors::One& one, int64_t offset) {
  Tensor t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(memory.storage()),
                                                      memory.key_set(), memory.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(one.sizes(), one.strides(), offset);
  return t;
}

// Makes them on another's device; false where the description is of something else.
bool make(Tensors described, const Tensor& like, std::vector<Tensor>& made) {
  std::vector<Tensors::One> group;
  Tensors::One one;
  bool more = described.left() && described.next(one);
  while (more) {
    int64_t extent = 0;
    group.clear();
    do {
      if (!group.empty() && one.dtype() != group[0].dtype()) return false;
      extent += one.extent();
      group.push_back(one);
      more = described.left();
      if (more && !described.next(one)) return false;
    } while (more && one.head.tag == 'S');
    const auto options = like.options().dtype(group[0].dtype());
    if (group.size() == 1) {
      made.push_back(at::empty_strided(group[0].sizes(), group[0].strides(), options));
      continue;
    }
    const Tensor memory = at::empty_strided({extent}, {1}, options);
    int64_t offset = 0;
    for (const auto& each : group) {
      made.push_back(beside(memory, each, offset));
      offset += each.extent();
    }
  }
  return !described.left();
}

}  // namespace

// Bytes that are the same for arguments alike: tensors by class, dtype, device, sizes and strides,
// numbers, flags and None by value; a tuple of tensors as those that share memory (`empties`). None
// where another object is among them. The first argument is how many of the last ones are told apart by
// whether they require a gradient, too.
PyObject* py_kind(PyObject*, PyObject* const* given, Py_ssize_t n) {
  Arguments a(given);
  const int64_t last = n > 0 ? a.whole() : 0;
  if (n == 0 || !a.right) return none();
  Description kind;
  for (Py_ssize_t i = 1; i < n; ++i) {
    if (!kind.add(given[i], i >= n - last)) return none();
  }
  return kind.bytes();
}

namespace {

// Of a call in a mode of training, with the number of all settings, of a tuple of tensors on the CPU;
// null where another object is among them (on a GPU the form also depends on the precision of float32
// products, which Python asks for), and under torch.jit.trace, for which every call is a new one.
PyObject* kind_of_call(PyObject* training, PyObject* settings, PyObject* args) {
  if (at::tracer::impl::is_dispatch_enabled()) return nullptr;
  Description kind;
  bool right = PyTuple_Check(args) && kind.add(training, false) && kind.add(settings, false) &&
               kind.add_modes();
  const Py_ssize_t n = right ? PyTuple_Size(args) : 0;
  for (Py_ssize_t i = 0; right && i < n; ++i) {
    PyObject* const x = PyTuple_GetItem(args, i);
    const Tensor* const t = plain_tensor(x);
    right = t != nullptr && t->is_cpu() && kind.add(x, true);
  }
  return right ? kind.bytes() : nullptr;
}

}  // namespace

// The kind of a call, as of `kind_of_call`, or None.
PyObject* py_call_kind(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 3)) return nullptr;
  PyObject* const kind = kind_of_call(given[0], given[1], given[2]);
  return kind != nullptr || PyErr_Occurred() ? kind : none();
}

// What a dictionary holds for the kind of a call; None, too, where it holds nothing.
PyObject* py_known(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (!counts(n, 4)) return nullptr;
  PyObject* const kind = kind_of_call(given[1], given[2], given[3]);
  if (kind == nullptr) return PyErr_Occurred() ? nullptr : none();
  PyObject* const found = PyDict_GetItemWithError(given[0], kind);
  Py_DecRef(kind);
  if (found == nullptr) return PyErr_Occurred() ? nullptr : none();
  Py_IncRef(found);
  return found;
}

// Whether tensors, some of which may be None, each fill a memory of their own. False, too, where another
// object is among them, or where Python has to look closer.
PyObject* py_apart(PyObject*, PyObject* const* given, Py_ssize_t n) {
  std::array<const void*, kMostTensors> begins;
  size_t count = 0;
  bool apart = true;
  for (Py_ssize_t i = 0; apart && i < n; ++i) {
    if (given[i] == Py_None) continue;
    const Tensor* const t = strided_tensor(given[i]);
    apart = count < begins.size() && t != nullptr && t->has_storage() &&
            t->is_non_overlapping_and_dense();
    if (!apart) break;
    const void* const begin = t->storage().data();
    for (size_t j = 0; j < count; ++j) apart = apart && begins[j] != begin;
    begins[count++] = begin;
  }
  return truth(apart);
}

// A tuple of uninitialised tensors on the first argument's device, of dtypes, sizes and strides by the
// second, the `kind` of tensors. None where an argument is another, or there is no memory: Python then
// makes them, or says so.
PyObject* py_empties(PyObject*, PyObject* const* given, Py_ssize_t n) {
  if (n != 2 || Py_TYPE(given[1]) != &PyBytes_Type) return none();
  const Tensor* const like = plain_tensor(given[0]);
  if (like == nullptr) return none();
  char* at = nullptr;
  Py_ssize_t bytes = 0;
  if (PyBytes_AsStringAndSize(given[1], &at, &bytes) != 0) return nullptr;
  std::vector<Tensor> made;
  made.reserve(8);
  bool right = false;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    right = make({at, static_cast<size_t>(bytes)}, *like, made);
  } catch (const std::exception&) {
  }
  PyEval_RestoreThread(state);
  if (!right) return none();
  PyObject* const found = PyTuple_New(static_cast<Py_ssize_t>(made.size()));
  for (size_t i = 0; found != nullptr && i < made.size(); ++i) {
    PyObject* const t = THPVariable_Wrap(made[i]);
    if (t == nullptr || PyTuple_SetItem(found, static_cast<Py_ssize_t>(i), t) != 0) {
      Py_DecRef(found);
      return nullptr;
    }
  }
  return found;
}

}  // namespace fastgan::eager
