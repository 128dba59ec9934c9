// Schemas only. Every device registers its kernels itself (csrc/cpu, csrc/cuda). Where the operator
// of a name chooses a backend and has a derivative (fastgan/ops), its overload `kernel` is the
// compiled kernel alone.
//
// x is N x C x spatial, dense, contiguous or channels-last; z and dx have its layout. Statistics
// are (segments, C), float32 (float64 for float64); `var` is biased. What is not needed comes back
// empty.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "norm_act_train.kernel(Tensor x, Tensor? weight, Tensor? bias, float eps, int activation, "
      "float negative_slope, int segments, bool act_first) -> (Tensor z, Tensor mean, Tensor var)");
  m.def(
      "norm_act_eval.kernel(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "float eps, int activation, float negative_slope, int segments, bool act_first) -> Tensor z");
  m.def(
      "norm_act_backward.kernel(Tensor dz, Tensor x, Tensor mean, Tensor var, Tensor? weight, "
      "Tensor? bias, float eps, int activation, float negative_slope, int segments, "
      "bool act_first, bool training, bool need_dx, bool need_dparams) "
      "-> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "update_running_stats_.kernel(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, "
      "Tensor var, float momentum, int count, bool average) -> ()");
  m.def("bias_act.kernel(Tensor x, Tensor? bias, int activation, float negative_slope) -> Tensor");
  m.def(
      "bias_act_backward.kernel(Tensor dz, Tensor z, int activation, float negative_slope, "
      "bool need_dbias) -> (Tensor dx, Tensor dbias)");
  // Bytes of freed blocks that the caching CPU allocator holds; with limit, at most so many.
  m.def("cached_memory(int? limit) -> int");
  // The address of a table: csrc/cpu/runtime/entries.h.
  m.def("cpu_entries() -> int");
  // uint8 (N, H, W, C) to (B, H, W, C) of dtype, x / 127.5 - 1, mirrored along W where flips says so.
  m.def(
      "gather_images.kernel(Tensor images, Tensor index, Tensor? flips, ScalarType dtype) "
      "-> Tensor");
  // Contiguous (B, R, C) to (B, C, R), of 16- or 32-bit values: one memory format to the other.
  m.def("transpose(Tensor x) -> Tensor");
  // Convolutions between an image of at most four channels and a wide, channels-last tensor; weight
  // is (wide channels, image channels, kernel). small_channel_conv reads the image and
  // small_channel_conv_transpose writes it, of `size`; each is the other's data gradient.
  // small_channel_conv_weight is the gradient of the weight of both, in float32.
  m.def(
      "small_channel_conv(Tensor image, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
      "int[] size, int activation, float negative_slope) -> Tensor");
  m.def(
      "small_channel_conv_transpose(Tensor wide, Tensor weight, Tensor? bias, int[] stride, "
      "int[] padding, int[] size, int activation, float negative_slope, bool channels_last) "
      "-> Tensor");
  m.def(
      "small_channel_conv_weight(Tensor image, Tensor wide, int[] kernel, int[] stride, "
      "int[] padding) -> Tensor");
  // Convolutions with a kernel of 4, stride 2 and padding 1 between an image and a strided map,
  // half as many in each direction, both channels-last with multiples of 16 channels; weight is
  // (strided map, image, 4, 4), channels-last. winograd_conv_weight is the gradient of the weight
  // of both. bias is float32, and added before the sum is rounded.
  m.def("winograd_conv(Tensor image, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("winograd_conv_transpose(Tensor strided, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("winograd_conv_weight(Tensor image, Tensor strided) -> Tensor");
  // The same three for any kernel, in bfloat16; weight is (strided map, image, *k), channels-last,
  // bfloat16 or float32 as its gradient by dtype, and size that of the result.
  // bf16_by_amx: whether they run by the processor's matrix unit.
  m.def("bf16_by_amx() -> bool");
  m.def(
      "bf16_conv(Tensor image, Tensor weight, int[] stride, int[] padding, int[] size, "
      "Tensor? bias=None) -> Tensor");
  m.def(
      "bf16_conv_transpose(Tensor strided, Tensor weight, int[] stride, int[] padding, int[] size, "
      "Tensor? bias=None) -> Tensor");
  m.def(
      "bf16_conv_weight(Tensor image, Tensor strided, int[] kernel, int[] stride, int[] padding, "
      "ScalarType dtype) -> Tensor");
}
