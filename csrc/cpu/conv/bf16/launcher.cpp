// Convolutions of bfloat16 tensors by AMX or AVX512-BF16 (cpu/conv/bf16/kernel.h), on the CPU:
// validation of what the kernels rely on, allocation, and the cut into blocks of outputs.
//
// Every output is summed by one thread in an order that the shapes fix: results are the same bits
// on any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "cpu/conv/bf16/axis.h"
#include "cpu/conv/bf16/kernel.h"
#include "cpu/runtime/parallel.h"

namespace fastgan {
namespace {

using Sizes = std::vector<int64_t>;

// Outputs at once: as many as make reading a panel of weights cheap beside multiplying with it.
constexpr int64_t kBlockOutputs = 128;
// Fewer samples leave register tiles empty if the outputs at a border are summed by themselves.
constexpr int64_t kMinSamples = 16;

void check_layout(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": expected (N, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(layout_of(x).columns, name, ": expected a channels-last tensor");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(1) % kBf16Channels == 0, name,
                  ": expected a multiple of ", kBf16Channels, " channels, got ", x.size(1));
  STD_TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0, name, ": expected positive sizes, got ", x.size(2),
                  " x ", x.size(3));
}

void check_tensor(const Tensor& x, const char* name) {
  check_layout(x, name);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, name, ": expected bfloat16");
}

Dtype weight_type(ScalarType type) {
  STD_TORCH_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Float,
                  "weight: expected bfloat16 or float32");
  return type == ScalarType::Float ? Dtype::kFloat32 : Dtype::kBFloat16;
}

void check_pair(const Sizes& pair, const char* name, int64_t least) {
  constexpr int64_t most = 1 << 30;  // places are products with them
  STD_TORCH_CHECK(pair.size() == 2 && std::min(pair[0], pair[1]) >= least &&
                      std::max(pair[0], pair[1]) <= most,
                  name, ": expected two numbers of ", least, " to ", most);
}

Bf16Shape shape_of(ScalarType weight, int64_t batch, const Sizes& image, const Sizes& strided,
                   const Sizes& kernel, const Sizes& stride, const Sizes& padding) {
  check_pair(kernel, "kernel", 1);
  check_pair(stride, "stride", 1);
  check_pair(padding, "padding", 0);
  Bf16Shape s{};
  s.weight = weight_type(weight);
  s.batch = batch;
  s.image = image[0];
  s.height = image[1];
  s.width = image[2];
  s.strided = strided[0];
  s.rows = strided[1];
  s.columns = strided[2];
  for (int d = 0; d < 2; ++d) {
    s.kernel[d] = kernel[d];
    s.stride[d] = stride[d];
    s.padding[d] = padding[d];
  }
  return s;
}

void check_weight(const Tensor& weight, const Tensor& x, int64_t own) {
  check_layout(weight, "weight");
  STD_TORCH_CHECK(weight.size(own) == x.size(1) && weight.size(0) % kBf16Channels == 0,
                  "weight: expected (strided, image, *k) with x's channels, multiples of ",
                  kBf16Channels);
}

const uint32_t* pack(const Bf16Shape& s, bool transposed, const Tensor& weight) {
  thread_local KeptScratch<uint32_t> kept;
  const int64_t pairs = bf16_kernels().packed_pairs(s, transposed);
  uint32_t* const packed = kept.at_least(pairs);
  const int64_t panels = s.across(transposed ? s.image : s.strided);
  torch::stable::parallel_for(0, panels, grain(pairs / panels), [&](int64_t begin, int64_t end) {
    bf16_kernels().pack(s, transposed, weight.data_ptr(), begin, end, packed);
  });
  return packed;
}

// The outputs of a direction, by the taps at which they meet the source.
std::vector<Bf16Span> spans(const Bf16Shape& s, const Bf16Axis& axis) {
  if (s.batch < kMinSamples) return {axis.all()};
  std::vector<Bf16Span> found;
  for (int64_t o = 0; o < axis.outputs; ++o) {
    const Bf16Span one = axis.one(o);
    if (!found.empty() && found.back().tap == one.tap && found.back().taps == one.taps) {
      ++found.back().outputs;
    } else {
      found.push_back(one);
    }
  }
  return found;
}

// Outputs of one piece, and the work of all blocks before.
struct Block {
  Bf16Piece piece;
  int64_t first, last, before;

  int64_t each() const { return piece.taps() + 1; }
  // The first output that lies behind so much work.
  int64_t behind(int64_t work) const {
    return std::clamp(first + ceil_div(work - before, each()), first, last);
  }
  int64_t end() const { return before + (last - first) * each(); }
};

// Pieces of the same place, which read the same source, one after the other.
std::vector<Block> blocks_of(const Bf16Shape& s, bool transposed) {
  std::vector<Bf16Piece> pieces;
  for (int64_t phase = 0; phase < (transposed ? s.phases() : 1); ++phase) {
    for (const Bf16Span& rows : spans(s, Bf16Axis::rows(s, transposed, phase))) {
      for (const Bf16Span& columns : spans(s, Bf16Axis::columns(s, transposed, phase))) {
        pieces.push_back({phase, rows, columns});
      }
    }
  }
  std::vector<Block> blocks;
  int64_t most = 0;
  for (const Bf16Piece& piece : pieces) most = std::max(most, s.batch * piece.outputs());
  for (int64_t first = 0, work = 0; first < most; first += kBlockOutputs) {
    for (const Bf16Piece& piece : pieces) {
      const int64_t last = std::min(s.batch * piece.outputs(), first + kBlockOutputs);
      if (first >= last) continue;
      blocks.push_back({piece, first, last, work});
      work = blocks.back().end();
    }
  }
  return blocks;
}

Tensor run(const Bf16Shape& s, bool transposed, const Tensor& from, const Tensor& weight,
           const std::optional<Tensor>& given) {
  const float* const bias = bias_or_null(given, transposed ? s.image : s.strided);
  Tensor out = transposed ? empty_channels_last(from, s.batch, s.image, s.height, s.width)
                          : empty_channels_last(from, s.batch, s.strided, s.rows, s.columns);
  const uint32_t* const packed = pack(s, transposed, weight);
  const std::vector<Block> blocks = blocks_of(s, transposed);
  if (blocks.empty()) return out;
  const int64_t floats = bf16_kernels().scratch_floats(s, transposed, kBlockOutputs);
  // Threads get equal work, which may cut a block in two.
  torch::stable::parallel_for(0, blocks.back().end(), kBlockOutputs, [&](int64_t begin, int64_t end) {
    const auto room = scratch<float>(floats);
    for (const Block& block : blocks) {
      const int64_t first = block.behind(begin), last = block.behind(end);
      if (first >= last) continue;
      bf16_kernels().conv(s, transposed, from.data_ptr(), packed, bias, block.piece, first, last,
                          out.data_ptr(), room.get());
    }
  });
  return out;
}

bool bf16_by_amx() { return bf16_kernels().by_amx; }

Tensor bf16_conv(Tensor image, Tensor weight, Sizes stride, Sizes padding, Sizes size,
                 std::optional<Tensor> bias) {
  check_tensor(image, "image");
  check_weight(weight, image, 1);
  check_pair(size, "size", 1);
  return run(shape_of(weight.scalar_type(), image.size(0),
                      {image.size(1), image.size(2), image.size(3)},
                      {weight.size(0), size[0], size[1]}, {weight.size(2), weight.size(3)}, stride,
                      padding),
             false, image, weight, bias);
}

Tensor bf16_conv_transpose(Tensor strided, Tensor weight, Sizes stride, Sizes padding, Sizes size,
                           std::optional<Tensor> bias) {
  check_tensor(strided, "strided");
  check_weight(weight, strided, 0);
  check_pair(size, "size", 1);
  return run(shape_of(weight.scalar_type(), strided.size(0), {weight.size(1), size[0], size[1]},
                      {strided.size(1), strided.size(2), strided.size(3)},
                      {weight.size(2), weight.size(3)}, stride, padding),
             true, strided, weight, bias);
}

Tensor bf16_conv_weight(Tensor image, Tensor strided, Sizes kernel, Sizes stride, Sizes padding,
                        ScalarType dtype) {
  check_tensor(image, "image");
  check_tensor(strided, "strided");
  STD_TORCH_CHECK(image.size(0) > 0, "image: expected at least one sample");
  STD_TORCH_CHECK(image.size(0) == strided.size(0), "strided: expected the batch of image");
  const Bf16Shape s =
      shape_of(dtype, image.size(0), {image.size(1), image.size(2), image.size(3)},
               {strided.size(1), strided.size(2), strided.size(3)}, kernel, stride, padding);
  Tensor out = empty_channels_last(image, dtype, s.strided, s.image, kernel[0], kernel[1]);
  torch::stable::parallel_for(0, s.output_tiles(), 1, [&](int64_t begin, int64_t end) {
    thread_local KeptScratch<float> kept;
    float* const room = kept.at_least(bf16_kernels().weight_scratch_floats(s, end - begin));
    bf16_kernels().weight(s, image.data_ptr(), strided.data_ptr(), begin, end, out.data_ptr(),
                          room);
  });
  return out;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("bf16_conv", TORCH_BOX(&fastgan::bf16_conv));
  m.impl("bf16_conv_transpose", TORCH_BOX(&fastgan::bf16_conv_transpose));
  m.impl("bf16_conv_weight", TORCH_BOX(&fastgan::bf16_conv_weight));
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CompositeExplicitAutograd, m) {
  m.impl("bf16_by_amx", TORCH_BOX(&fastgan::bf16_by_amx));
}
