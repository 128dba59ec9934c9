// What the loops of every op share, being compiled once for each instruction set: the name of the
// copy, and the choice of a storage type. In an unnamed namespace, as cpu/simd/vec.h and for the same reason.
#pragma once

#include "cpu/simd/vec.h"

#ifndef FASTGAN_ISA
#define FASTGAN_ISA baseline
#endif
#define FASTGAN_JOIN2(a, b) a##b
#define FASTGAN_JOIN(a, b) FASTGAN_JOIN2(a, b)
// name_avx512 and so on: the table of loops that cpu/simd/dispatch.cpp chooses.
#define FASTGAN_OF_ISA(name) FASTGAN_JOIN(name##_, FASTGAN_ISA)

namespace fastgan {
namespace {

// function(a value of the storage type); float64 has no such loops.
template <typename Function>
void with_type(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::kBFloat16: return function(BFloat16{});
    case Dtype::kFloat16: return function(Half{});
    default: return function(float{});
  }
}

template <typename T>
const T* as(const T&, const void* p) {
  return static_cast<const T*>(p);
}
template <typename T>
T* as(const T&, void* p) {
  return static_cast<T*>(p);
}

}  // namespace
}  // namespace fastgan
