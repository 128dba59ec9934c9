// The interface between the driver of transpose (compiled once, knowing torch) and its loops
// (compiled once for each instruction set).
#pragma once

#include <cstdint>

namespace fastgan {

// A rectangle of a matrix of `rows` x `columns` values of `bytes` (2 or 4) each, which is split in
// one direction at most: out[column][row] = x[row][column]. `end` is that of x's memory.
struct Rectangle {
  int64_t bytes;
  const void *x, *end;
  void* out;
  int64_t rows, columns;
  int64_t first_row, last_row, first_column, last_column;
};

struct TransposeKernels {
  void (*transpose)(const Rectangle&);
};

// The widest set of kernels this processor runs.
const TransposeKernels& transpose_kernels();

}  // namespace fastgan
