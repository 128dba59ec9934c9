// A plain C interface to csrc/cuda's headers on the host, for ctypes. Every op returns
// launches * 32 + cluster, or -1 for arguments it does not know.
#include "emulate.h"

#include "cuda/bias_act/launches.h"
#include "cuda/norm_act/backward_launches.h"
#include "cuda/norm_act/forward_launches.h"

using namespace fastgan;
using namespace fastgan::cuda;

struct Problem {
  int dtype;  // 0 float32, 1 bfloat16, 2 float16
  int channels_last;
  int wide;
  long long segments, batch, channels, spatial;
  int kind, first;
  float slope;
  int sms, shared_per_block, max_cluster;
};

template <typename T_, int V_, Layout L_>
struct Case {
  using T = T_;
  static constexpr int V = V_;
  static constexpr Layout L = L_;
};

template <typename T, typename F>
void for_layout(const Problem& p, const F& f) {
  constexpr int wide = kWide<T>;
  if (p.channels_last) {
    p.wide ? f(Case<T, wide, Layout::kChannelsLast>()) : f(Case<T, 1, Layout::kChannelsLast>());
  } else {
    p.wide ? f(Case<T, wide, Layout::kContiguous>()) : f(Case<T, 1, Layout::kContiguous>());
  }
}

template <typename F>
int run(const Problem& p, const F& f) {
  HostExecutor launcher(p.sms, p.shared_per_block, p.max_cluster);
  const Act act{p.kind, p.first != 0, p.slope};
  const auto kernel = [&](auto kase) {
    using K = decltype(kase);
    const Geometry g = make_geometry(K::L, K::V, p.segments, p.batch, p.channels, p.spatial);
    f(kase, launcher, g, act);
  };
  switch (p.dtype) {
    case 0:
      for_layout<float>(p, kernel);
      break;
    case 1:
      for_layout<Bf16>(p, kernel);
      break;
    case 2:
      for_layout<Fp16>(p, kernel);
      break;
    default: return -1;
  }
  return launcher.launches() * 32 + launcher.cluster();
}

// Counts, for every element of memory, how often the tile iterator visits it, and notes the
// (segment, channel) that the iterator takes it for.
template <typename K>
void cover(const Geometry& g, const Plan& plan, int* visits, long long* stat) {
  constexpr int tile = kTile<K::V, 1>;
  for (std::int64_t block = 0; block < plan.blocks(); ++block) {
    for (int thread = 0; thread < kThreads; ++thread) {
      const TileIterator<K::L, K::V> iter(g, plan, block, thread);
      if (iter.idle(g)) {
        continue;
      }
      const Column<K::L, K::V> column(g, iter.column_index);
      for (std::int64_t step = 0; step < iter.template steps<tile>(); ++step) {
        for (int k = 0; k < tile; ++k) {
          const std::int64_t unit = iter.template unit<tile>(step, k);
          for (int v = 0; iter.holds(unit) && v < K::V; ++v) {
            const std::int64_t at = column.offset(g, unit) + v;
            visits[at] += 1;
            stat[at] = column.stat + v % kSlots<K::L, K::V>;
          }
        }
      }
    }
  }
}

extern "C" {

// `single_pass`: 1 for the single-launch plan. Returns the chunks of a column; 0: does not fit on
// chip.
int emulate_cover(const Problem* p, int single_pass, int tensors, int* visits, long long* stat) {
  int chunks = 0;
  run(*p, [&](auto kase, HostExecutor&, const Geometry& g, const Act&) {
    using K = decltype(kase);
    constexpr int tile = kTile<K::V, 1>;
    Plan plan = plan_stream(K::L, g, tile, p->sms * 3);
    if (single_pass) {
      const DeviceLimits limits{p->sms, p->shared_per_block - 20000, p->max_cluster};
      const SinglePassPlan fitted = plan_single_pass(K::L, g, tile, tensors, limits);
      if (!fitted.fits) {
        return;
      }
      plan = fitted.plan;
    }
    chunks = int(plan.chunks);
    cover<K>(g, plan, visits, stat);
  });
  return chunks;
}

// The values that the merge of statistics weighs each chunk with.
void emulate_chunk_counts(const Problem* p, long long capacity, float* counts) {
  run(*p, [&](auto kase, HostExecutor&, const Geometry& g, const Act&) {
    using K = decltype(kase);
    const Plan plan = plan_stream(K::L, g, kTile<K::V, 1>, p->sms * 3);
    for (std::int64_t chunk = 0; chunk < plan.chunks && chunk < capacity; ++chunk) {
      counts[chunk] = chunk_count(g, plan, chunk);
    }
  });
}

// 64-bit offsets: where the iterator puts one (segment, channel, sample of it, position).
long long emulate_offset(const Problem* p, long long segment, long long channel, long long run_,
                         long long position) {
  long long offset = -1;
  run(*p, [&](auto kase, HostExecutor&, const Geometry& g, const Act&) {
    using K = decltype(kase);
    constexpr int slots = kSlots<K::L, K::V>;
    constexpr bool last = K::L == Layout::kChannelsLast;
    const Column<K::L, K::V> column(g, segment * g.seg_columns + channel / slots);
    const long long unit = run_ * g.spatial_units + (last ? position : position / K::V);
    offset = column.offset(g, unit) + (last ? channel % slots : position % K::V);
  });
  return offset;
}

unsigned emulate_fast_div(unsigned n, unsigned divisor) { return make_fast_div(divisor)(n); }

float emulate_to_float(int dtype, unsigned short bits) {
  return dtype == 1 ? to_float(Bf16{bits}) : to_float(Fp16{bits});
}

unsigned short emulate_from_float(int dtype, float value) {
  return dtype == 1 ? Convert<Bf16>::from(value).bits : Convert<Fp16>::from(value).bits;
}

int emulate_train(const Problem* p, const void* x, const float* weight, const float* bias,
                  float eps, void* z, float* mean, float* var) {
  return run(*p, [&](auto kase, HostExecutor& launcher, const Geometry& g, const Act& act) {
    using K = decltype(kase);
    using T = typename K::T;
    for_act<K::V>(act, [&](const auto& known) {
      run_train<T, K::V, K::L>(launcher, g, known, ChannelStats{mean, var, weight, bias, eps},
                               static_cast<const T*>(x), mean, var, static_cast<T*>(z));
    });
  });
}

int emulate_eval(const Problem* p, const void* x, const float* mean, const float* var,
                 const float* weight, const float* bias, float eps, void* z) {
  return run(*p, [&](auto kase, HostExecutor& launcher, const Geometry& g, const Act& act) {
    using K = decltype(kase);
    using T = typename K::T;
    for_act<K::V>(act, [&](const auto& known) {
      run_normalise<T, K::V, K::L>(launcher, g, known, ChannelStats{mean, var, weight, bias, eps},
                                   static_cast<const T*>(x), static_cast<T*>(z));
    });
  });
}

int emulate_backward(const Problem* p, const void* dz, const void* x, const float* mean,
                     const float* var, const float* weight, const float* bias, float eps,
                     int training, void* dx, float* dweight, float* dbias) {
  return run(*p, [&](auto kase, HostExecutor& launcher, const Geometry& g, const Act& act) {
    using K = decltype(kase);
    using T = typename K::T;
    for_act<K::V>(act, [&](const auto& known) {
      using A = std::decay_t<decltype(known)>;
      run_backward<T, K::V, K::L>(
          launcher, Backward<T, A>{g, known, ChannelStats{mean, var, weight, bias, eps},
                                   training != 0, static_cast<const T*>(dz),
                                   static_cast<const T*>(x), static_cast<T*>(dx), dweight, dbias});
    });
  });
}

int emulate_running(long long segments, long long channels, float momentum, long long count,
                    int average, const float* mean, const float* var, float* running_mean,
                    float* running_var) {
  HostExecutor launcher(1, 0, 1);
  launcher.map(RunningKernel{segments, channels, momentum, float(double(count) / double(count - 1)),
                             average != 0, mean, var, running_mean, running_var},
               ceil_div(channels, kThreads));
  return launcher.launches() * 32;
}

int emulate_bias_forward(const Problem* p, const void* x, const float* bias, void* z) {
  return run(*p, [&](auto kase, HostExecutor& launcher, const Geometry& g, const Act& act) {
    using K = decltype(kase);
    using T = typename K::T;
    run_bias_forward<T, K::V, K::L>(launcher, g, act, bias, static_cast<const T*>(x),
                                    static_cast<T*>(z));
  });
}

int emulate_bias_backward(const Problem* p, const void* dz, const void* z, void* dx,
                          float* dbias) {
  return run(*p, [&](auto kase, HostExecutor& launcher, const Geometry& g, const Act& act) {
    using K = decltype(kase);
    using T = typename K::T;
    run_bias_backward<T, K::V, K::L>(launcher, g, act, static_cast<const T*>(dz),
                                     static_cast<const T*>(z), static_cast<T*>(dx), dbias);
  });
}

}  // extern "C"
