// The CPU kernels of norm_act and bias_act by pointers and sizes: what csrc/eager calls past torch's
// dispatcher, which boxes every argument.
//
// Nothing is checked here. The two libraries are always built together: the address of the table, which
// the operator `fastgan::cpu_entries` gives, is all that passes between them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/runtime/tiles.h"

namespace fastgan {

// Memory of x as N x C x S: `columns` where channels are innermost (or S is 1).
struct Layout {
  int64_t batch, channels, size;
  bool columns;
};

struct NormSpec {
  double eps;
  int activation;
  double slope;
  int64_t segments;
  bool act_first;
};

// What both passes of norm_act are of. weight and bias may be null; they and the statistics, (segments,
// channels), are float, or double where dtype is kFloat64.
struct NormCall {
  Dtype dtype;
  Layout layout;
  NormSpec spec;
  bool training;  // the statistics are those of x
  const void *x, *weight, *bias;
};

struct NormForward : NormCall {
  void *mean, *var;  // written in training
  void* z;
};

struct NormBackward : NormCall {
  const void *dz, *mean, *var;
  void *dx, *dweight, *dbias;  // null where not asked for; the last two together
};

struct RunningStats {
  bool wide;  // double
  void *running_mean, *running_var;
  const void *mean, *var;
  int64_t segments, channels;
  double momentum;
  int64_t count;  // values that each mean and variance are of
  bool average;
};

struct BiasForward {
  Dtype dtype;
  Layout layout;
  int activation;
  double slope;
  const void *x, *bias;  // bias may be null
  void* z;
};

struct BiasBackward {
  Dtype dtype;
  Layout layout;
  int activation;
  double slope;
  const void *dz, *z;
  void *dx, *dbias;  // dbias may be null
};

struct CpuEntries {
  void (*norm_forward)(const NormForward&);
  void (*norm_backward)(const NormBackward&);
  void (*update_running_stats)(const RunningStats&);
  void (*bias_forward)(const BiasForward&);
  void (*bias_backward)(const BiasBackward&);
  // As in cpu/runtime/allocator.h: outputs from `large_block` bytes on.
  void* (*take)(size_t bytes);
  void (*give)(void* taken);
  size_t large_block;
};

void norm_forward(const NormForward&);
void norm_backward(const NormBackward&);
void update_running_stats(const RunningStats&);
void bias_forward(const BiasForward&);
void bias_backward(const BiasBackward&);

}  // namespace fastgan
