// Matrices transposed on the CPU: a tensor from one memory format to the other.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "cpu/runtime/allocator.h"
#include "cpu/runtime/parallel.h"
#include "cpu/transpose/kernel.h"

namespace fastgan {
namespace {

constexpr int64_t kPiece = 64;  // rows or columns: those of an image's channels stay in the cache

Tensor transpose(Tensor x) {
  const int64_t bytes = x.element_size();
  STD_TORCH_CHECK(x.dim() == 3 && x.is_contiguous(), "x: expected a contiguous (B, R, C)");
  STD_TORCH_CHECK(bytes == 2 || bytes == 4, "x: expected values of 2 or 4 bytes, got ", bytes);
  const int64_t batch = x.size(0), rows = x.size(1), columns = x.size(2);
  Tensor out = empty_contiguous(x, {batch, columns, rows});
  if (x.numel() == 0) return out;
  const char* from = static_cast<const char*>(x.data_ptr());
  char* to = static_cast<char*>(out.data_ptr());
  const int64_t matrix = rows * columns * bytes, longer = std::max(rows, columns);
  const int64_t pieces = ceil_div(longer, kPiece);
  const int64_t work = std::min(longer, kPiece) * std::min(rows, columns);
  parallel_for(batch * pieces, grain(work), [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const int64_t b = begin / pieces, first = begin % pieces * kPiece;
      const int64_t last = std::min(first + kPiece, longer);
      Rectangle r{bytes, from + b * matrix, from + batch * matrix, to + b * matrix,
                  rows,  columns,           0,                     rows,
                  0,     columns};
      (rows >= columns ? r.first_row : r.first_column) = first;
      (rows >= columns ? r.last_row : r.last_column) = last;
      transpose_kernels().transpose(r);
    }
  });
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("transpose", TORCH_BOX(&fastgan::transpose));
}
