// A launcher of csrc/cuda's launch sequences on the host: every thread of every block runs the
// kernel that the device runs, one after another between barriers. Workspace, scratch and shared
// memory start as NaN, so that a read of what nobody wrote shows.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "cuda/device/plan.h"

namespace fastgan {
namespace cuda {

template <typename Scratch>
void poison(Scratch& scratch) {
  std::memset(&scratch, 0xff, sizeof(scratch));  // a NaN in every float
}

template <typename Scratch>
struct HostPeers {
  const std::vector<std::unique_ptr<Scratch>>& blocks;
  const Scratch& operator()(int rank) const { return *blocks[rank]; }
};

class HostExecutor {
 public:
  HostExecutor(int sms, int shared_per_block, int max_cluster)
      : sms_(sms), shared_per_block_(shared_per_block), max_cluster_(max_cluster) {}

  template <typename Kernel>
  int wave() const {
    return sms_ * Kernel::kBlocksPerSm;
  }

  template <typename Kernel>
  DeviceLimits limits() const {
    return {sms_, shared_per_block_ - int(sizeof(typename Kernel::Scratch)), max_cluster_};
  }

  float* floats(std::int64_t count) {
    workspace_.emplace_back(count, std::numeric_limits<float>::quiet_NaN());
    return workspace_.back().data();
  }

  template <typename Kernel>
  void map(const Kernel& kernel, std::int64_t blocks) {
    ++launches_;
    for (std::int64_t block = 0; block < blocks; ++block) {
      for (int thread = 0; thread < kThreads; ++thread) {
        kernel.run(block, thread);
      }
    }
  }

  template <typename Kernel>
  void reduce(const Kernel& kernel, std::int64_t blocks) {
    ++launches_;
    const auto scratch = std::make_unique<typename Kernel::Scratch>();
    for (std::int64_t block = 0; block < blocks; ++block) {
      poison(*scratch);
      for (int thread = 0; thread < kThreads; ++thread) {
        kernel.begin(block, thread, *scratch);
      }
      if (kernel.reduces()) {
        fold(kernel, kernel.lanes(), *scratch);
        for (int thread = 0; thread < kThreads; ++thread) {
          kernel.finish(block, thread, *scratch);
        }
      }
    }
  }

  template <typename Kernel>
  void staged(const Kernel& kernel, std::int64_t blocks) {
    ++launches_;
    const auto shared = std::make_unique<typename Kernel::Shared>();
    std::vector<typename Kernel::State> state(kThreads);
    const auto threads = [](const auto& f) {
      for (int thread = kThreads - 1; thread >= 0; --thread) {
        f(thread);
      }
    };
    for (std::int64_t block = 0; block < blocks; ++block) {
      poison(*shared);
      threads([&](int t) { kernel.begin(block, t, state[t]); });
      for (int step = 0; step < kernel.steps(); ++step) {
        threads([&](int t) { kernel.stage(block, t, step, *shared); });
        threads([&](int t) { kernel.absorb(block, t, step, *shared, state[t]); });
        poison(*shared);
      }
      threads([&](int t) { kernel.publish(t, *shared, state[t]); });
      threads([&](int t) { kernel.finish(block, t, *shared, state[t]); });
    }
  }

  template <typename Kernel>
  void single_pass(const Kernel& kernel, int shared_bytes) {
    ++launches_;
    using Scratch = typename Kernel::Scratch;
    const int ranks = int(kernel.plan().chunks);
    cluster_ = ranks;
    for (std::int64_t tile = 0; tile < kernel.plan().tiles; ++tile) {
      const std::int64_t first = tile * ranks;
      std::vector<std::unique_ptr<Scratch>> scratch;
      std::vector<std::vector<Line>> shared_tile;
      for (int rank = 0; rank < ranks; ++rank) {
        scratch.push_back(std::make_unique<Scratch>());
        poison(*scratch.back());
        Line line;
        poison(line);
        shared_tile.emplace_back(shared_bytes / sizeof(Line), line);
        const auto kept = kernel.shared_tile_of(shared_tile[rank].data());
        for (int thread = 0; thread < kThreads; ++thread) {
          kernel.begin(first + rank, thread, *scratch[rank], kept);
        }
        fold(kernel, kernel.plan().lanes(), *scratch[rank]);
      }
      for (int rank = 0; rank < ranks; ++rank) {
        for (int thread = 0; thread < kThreads; ++thread) {
          kernel.gather(first + rank, thread, *scratch[rank], HostPeers<Scratch>{scratch});
        }
      }
      for (int rank = 0; rank < ranks; ++rank) {
        const auto kept = kernel.shared_tile_of(shared_tile[rank].data());
        for (int thread = 0; thread < kThreads; ++thread) {
          kernel.finish(first + rank, thread, *scratch[rank], kept);
        }
      }
    }
  }

  // How the last op ran: launches, and blocks of a cluster (0: not in a single pass).
  int launches() const { return launches_; }
  int cluster() const { return cluster_; }

 private:
  struct alignas(16) Line {
    unsigned char bytes[16];
  };

  // Within one step of the tree no thread reads what another writes, so their order is free; here
  // it is last to first, the opposite of everywhere else.
  template <typename Kernel, typename Scratch>
  void fold(const Kernel& kernel, int lanes, Scratch& scratch) {
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int thread = kThreads - 1; thread >= 0; --thread) {
        kernel.step(thread, half, scratch);
      }
    }
  }

  int sms_, shared_per_block_, max_cluster_;
  int launches_ = 0;
  int cluster_ = 0;
  std::vector<std::vector<float>> workspace_;
};

}  // namespace cuda
}  // namespace fastgan
