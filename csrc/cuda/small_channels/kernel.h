// Convolutions from and to an image of few channels, and their weight gradient, as seen by one
// thread. Between barriers the launcher runs, for every step,
//
//   stage(block, thread, step, shared) | absorb(block, thread, step, shared, state) |
//
// and then publish(thread, shared, state) | finish(block, thread, shared, state).
#pragma once

#include "cuda/small_channels/shape.h"

namespace fastgan {
namespace cuda {

// What follows the sums: a bias of each output channel (null: none) and the activation.
struct SmallChannelEpilogue {
  const float* bias;
  Act act;

  FASTGAN_HD float operator()(float sum, int channel) const {
    float y = bias ? sum + bias[channel] : sum;
    with_kind<false>(act.kind, [&](auto tag) {
      y = fastgan::act<decltype(tag)::kind>(y, act.slope);
    });
    return y;
  }
};

// wide = act(conv(image) + bias). A block makes 128 positions by 64 channels, in steps of 32 taps
// whose image values and weights it lays out in shared memory.
template <typename T_, int V>
struct SmallChannelConvKernel {
  using T = T_;
  using Place = SmallChannelPlace<V>;
  using State = SmallChannelTile<V>;
  static constexpr int kTaps = 32;
  static constexpr int kBlocksPerSm = 2;
  struct Shared {
    alignas(16) float patch[kTaps][kBlockRows];
    alignas(16) float weight[kTaps][kWideChannels];
  };

  SmallChannelShape shape;
  SmallChannelEpilogue epilogue;
  const T* image;
  const T* weight;
  T* wide;

  FASTGAN_HD int steps() const { return (shape.taps() + kTaps - 1) / kTaps; }
  FASTGAN_HD std::int64_t first_position(std::int64_t block) const {
    return std::int64_t(int(block) / shape.wide_chunks()) * kBlockRows;
  }
  FASTGAN_HD int first_channel(std::int64_t block) const {
    return int(block) % shape.wide_chunks() * kWideChannels;
  }

  FASTGAN_HD void begin(std::int64_t, int, State& state) const { state.clear(); }

  FASTGAN_HD void stage(std::int64_t block, int thread, int step, Shared& shared) const {
    const int taps = shape.taps();
    const int row = thread % kBlockRows;
    const Corner corner(shape, first_position(block) + row);
    for (int t = thread / kBlockRows; t < kTaps; t += kThreads / kBlockRows) {
      const int tap = step * kTaps + t;
      shared.patch[t][row] = tap < taps ? image_value(shape, image, corner, Tap(shape, tap)) : 0.0f;
    }
    const int lane = thread % kWideChannels;
    const int k = first_channel(block) + lane;
    for (int t = thread / kWideChannels; t < kTaps; t += kThreads / kWideChannels) {
      const int tap = step * kTaps + t;
      const bool held = tap < taps && k < shape.wide;
      shared.weight[t][lane] = held ? weight_value(shape, weight, k, Tap(shape, tap)) : 0.0f;
    }
  }

  FASTGAN_HD void absorb(std::int64_t, int thread, int step, const Shared& shared,
                         State& state) const {
    const Place place(thread);
    const int left = shape.taps() - step * kTaps;
    for (int t = 0; t < (left < kTaps ? left : kTaps); ++t) {
      state.absorb(&shared.patch[t][place.group * kRows<V>], &shared.weight[t][place.channel()]);
    }
  }

  FASTGAN_HD void publish(int, Shared&, const State&) const {}

  FASTGAN_HD void finish(std::int64_t block, int thread, const Shared&, const State& state) const {
    const Place place(thread);
    const int k = first_channel(block) + place.channel();
    const std::int64_t position = first_position(block) + place.group * kRows<V>;
    if (k >= shape.wide) {
      return;
    }
    FASTGAN_UNROLL
    for (int r = 0; r < kRows<V>; ++r) {
      float value[V];
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        value[v] = epilogue(state.sum[r][v], k + v);
      }
      if (position + r < shape.positions()) {
        store<T, V>(wide + (position + r) * shape.wide + k, Pack<T, V>::pack(value));
      }
    }
  }
};

// image = act(transposed conv(wide) + bias). Pixels whose rows, and whose columns, leave the same
// rest by the stride meet the same taps. A block takes rows of one rest; a thread takes V wide
// channels and four pixels of one row and one rest by column, so that a weight serves four times.
// The threads that share pixels add up through shared memory, in order.
template <typename T_, int V>
struct SmallChannelTransposeKernel {
  using T = T_;
  using Place = SmallChannelPlace<V>;
  static constexpr int kPixels = 4;
  static constexpr int kBlocksPerSm = 2;
  // Four pixels, in coordinates that count from the padding's edge.
  struct Pixels {
    bool any;
    int sample;
    int row;
    int rest;    // of the columns by the stride
    int column;  // of the first pixel, divided by the stride
  };
  struct State {
    Pixels at;
    float sum[kPixels][kMaxSmallChannels];
  };
  struct Shared {
    alignas(16) float weight[kMaxSmallKernel][kMaxSmallChannels][kWideChannels];
    float sum[kPixels * kMaxSmallChannels][kThreads];
  };

  SmallChannelShape shape;
  SmallChannelEpilogue epilogue;
  const T* wide;
  const T* weight;
  T* image;

  // Rows of a rest, and groups of four pixels of a rest in a row: as many as any rest has.
  FASTGAN_HD int rest_rows() const { return (shape.height + shape.stride[0] - 1) / shape.stride[0]; }
  FASTGAN_HD int rest_groups() const {
    const int columns = (shape.width + shape.stride[1] - 1) / shape.stride[1];
    return (columns + kPixels - 1) / kPixels;
  }
  FASTGAN_HD std::int64_t groups() const {
    return std::int64_t(shape.batch) * rest_rows() * rest_groups() * shape.stride[1];
  }
  FASTGAN_HD std::int64_t blocks() const {
    return ceil_div(groups(), Place::kGroups) * shape.stride[0];
  }

  FASTGAN_HD Pixels pixels(std::int64_t block, int group) const {
    const int row_rest = int(block) % shape.stride[0];
    int g = int(block) / shape.stride[0] * Place::kGroups + group;
    Pixels at;
    at.any = g < groups();
    at.rest = g % shape.stride[1];
    g /= shape.stride[1];
    at.column = g % rest_groups() * kPixels;
    g /= rest_groups();
    at.row = g % rest_rows() * shape.stride[0] + row_rest;
    at.sample = g / rest_rows();
    // The image begins `padding` in: on to the first row and column of these rests within it.
    at.row += (shape.padding[0] - row_rest + shape.stride[0] - 1) / shape.stride[0] * shape.stride[0];
    at.column += (shape.padding[1] - at.rest + shape.stride[1] - 1) / shape.stride[1];
    at.any = at.any && at.row - shape.padding[0] < shape.height;
    return at;
  }

  FASTGAN_HD int tap_rows() const {
    return (shape.kernel[0] + shape.stride[0] - 1) / shape.stride[0];
  }
  FASTGAN_HD int steps() const { return tap_rows() * shape.wide_chunks(); }
  FASTGAN_HD int tap_row(std::int64_t block, int step) const {
    return int(block) % shape.stride[0] + step % tap_rows() * shape.stride[0];
  }
  FASTGAN_HD int first_channel(int step) const { return step / tap_rows() * kWideChannels; }

  FASTGAN_HD void begin(std::int64_t block, int thread, State& state) const {
    state.at = pixels(block, Place(thread).group);
    FASTGAN_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      FASTGAN_UNROLL
      for (int c = 0; c < kMaxSmallChannels; ++c) {
        state.sum[p][c] = 0.0f;
      }
    }
  }

  // One row of the kernel.
  FASTGAN_HD void stage(std::int64_t block, int thread, int step, Shared& shared) const {
    const int i = tap_row(block, step);
    const int lane = thread % kWideChannels;
    const int k = first_channel(step) + lane;
    for (int t = thread / kWideChannels; t < kMaxSmallKernel * kMaxSmallChannels;
         t += kThreads / kWideChannels) {
      const int j = t / kMaxSmallChannels;
      const int c = t % kMaxSmallChannels;
      const bool held = i < shape.kernel[0] && j < shape.kernel[1] && c < shape.channels &&
                        k < shape.wide;
      const std::int64_t at = k * shape.weight_stride[0] + c * shape.weight_stride[1] +
                              i * shape.weight_stride[2] + j * shape.weight_stride[3];
      shared.weight[j][c][lane] = held ? to_float(weight[at]) : 0.0f;
    }
  }

  FASTGAN_HD void absorb(std::int64_t block, int thread, int step, const Shared& shared,
                         State& state) const {
    const Place place(thread);
    const Pixels& at = state.at;
    const int i = tap_row(block, step);
    const int r = (at.row - i) / shape.stride[0];
    const int k = first_channel(step) + place.channel();
    if (!at.any || i >= shape.kernel[0] || at.row < i || r >= shape.rows || k >= shape.wide) {
      return;
    }
    const T* const line =
        wide + (std::int64_t(at.sample) * shape.rows + r) * shape.columns * shape.wide + k;
    for (int j = at.rest, m = 0; j < shape.kernel[1]; j += shape.stride[1], ++m) {
      float x[kPixels][V];
      FASTGAN_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        const int q = at.column + p - m;
        const bool held = std::uint32_t(q) < std::uint32_t(shape.columns);
        (held ? load<T, V>(line + std::int64_t(q) * shape.wide) : Pack<T, V>::zero()).unpack(x[p]);
      }
      FASTGAN_UNROLL
      for (int c = 0; c < kMaxSmallChannels; ++c) {
        if (c < shape.channels) {
          absorb_channel(&shared.weight[j][c][place.channel()], x, c, state);
        }
      }
    }
  }

  FASTGAN_HD void absorb_channel(const float* weights, const float (&x)[kPixels][V], int c,
                                 State& state) const {
    float w[V];
    FASTGAN_UNROLL
    for (int v = 0; v < V; ++v) {
      w[v] = weights[v];
    }
    FASTGAN_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      FASTGAN_UNROLL
      for (int v = 0; v < V; ++v) {
        state.sum[p][c] += x[p][v] * w[v];
      }
    }
  }

  FASTGAN_HD void publish(int thread, Shared& shared, const State& state) const {
    FASTGAN_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      FASTGAN_UNROLL
      for (int c = 0; c < kMaxSmallChannels; ++c) {
        shared.sum[p * kMaxSmallChannels + c][thread] = state.sum[p][c];
      }
    }
  }

  // A thread for each (group, pixel, channel).
  FASTGAN_HD void finish(std::int64_t block, int thread, const Shared& shared,
                         const State&) const {
    constexpr int kSlots = kPixels * kMaxSmallChannels;
    for (int slot = thread; slot < Place::kGroups * kSlots; slot += kThreads) {
      const int group = slot / kSlots;
      const int p = slot % kSlots / kMaxSmallChannels;
      const int c = slot % kMaxSmallChannels;
      const Pixels at = pixels(block, group);
      const int row = at.row - shape.padding[0];
      const int column = (at.column + p) * shape.stride[1] + at.rest - shape.padding[1];
      if (!at.any || c >= shape.channels || column >= shape.width) {
        continue;
      }
      float sum = 0.0f;
      for (int lane = 0; lane < Place::kLanes; ++lane) {
        sum += shared.sum[slot % kSlots][group * Place::kLanes + lane];
      }
      image[at.sample * shape.image_stride[0] + c * shape.image_stride[1] +
            row * shape.image_stride[2] + column * shape.image_stride[3]] =
          Convert<T>::from(epilogue(sum, c));
    }
  }
};

}  // namespace cuda
}  // namespace fastgan
