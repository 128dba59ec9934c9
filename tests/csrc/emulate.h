// An executor of csrc/cuda's steps on the host: every thread of every block runs the body that the
// device runs, one after another between barriers. Workspace, scratch and stash start as NaN, so
// that a read of what nobody wrote shows.
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
      : limits_{sms, shared_per_block, max_cluster} {}

  template <typename Body>
  int wave() const {
    return limits_.sms * Body::kBlocksPerSm;
  }

  template <typename Body>
  DeviceLimits limits() const {
    return limits_;
  }

  float* floats(std::int64_t count) {
    workspace_.emplace_back(count, std::numeric_limits<float>::quiet_NaN());
    return workspace_.back().data();
  }

  template <typename Body>
  void map(const Body& body, std::int64_t blocks) {
    ++launches_;
    for (std::int64_t block = 0; block < blocks; ++block) {
      for (int thread = 0; thread < kThreads; ++thread) {
        body.run(block, thread);
      }
    }
  }

  template <typename Body>
  void reduce(const Body& body, std::int64_t blocks) {
    ++launches_;
    const auto scratch = std::make_unique<typename Body::Scratch>();
    for (std::int64_t block = 0; block < blocks; ++block) {
      poison(*scratch);
      for (int thread = 0; thread < kThreads; ++thread) {
        body.begin(block, thread, *scratch);
      }
      if (body.reduces()) {
        fold(body, body.lanes(), *scratch);
        for (int thread = 0; thread < kThreads; ++thread) {
          body.finish(block, thread, *scratch);
        }
      }
    }
  }

  template <typename Body>
  void staged(const Body& body, std::int64_t blocks) {
    ++launches_;
    const auto shared = std::make_unique<typename Body::Shared>();
    std::vector<typename Body::State> state(kThreads);
    const auto threads = [](const auto& f) {
      for (int thread = kThreads - 1; thread >= 0; --thread) {
        f(thread);
      }
    };
    for (std::int64_t block = 0; block < blocks; ++block) {
      poison(*shared);
      threads([&](int t) { body.begin(block, t, state[t]); });
      for (int step = 0; step < body.steps(); ++step) {
        threads([&](int t) { body.stage(block, t, step, *shared); });
        threads([&](int t) { body.absorb(block, t, step, *shared, state[t]); });
        poison(*shared);
      }
      threads([&](int t) { body.publish(t, *shared, state[t]); });
      threads([&](int t) { body.finish(block, t, *shared, state[t]); });
    }
  }

  template <typename Body>
  void onchip(const Body& body, int stash_bytes) {
    ++launches_;
    using Scratch = typename Body::Scratch;
    const int ranks = int(body.plan().chunks);
    cluster_ = ranks;
    for (std::int64_t tile = 0; tile < body.plan().tiles; ++tile) {
      const std::int64_t first = tile * ranks;
      std::vector<std::unique_ptr<Scratch>> scratch;
      std::vector<std::vector<Line>> stash;
      for (int rank = 0; rank < ranks; ++rank) {
        scratch.push_back(std::make_unique<Scratch>());
        poison(*scratch.back());
        Line line;
        poison(line);
        stash.emplace_back(stash_bytes / sizeof(Line), line);
        const auto kept = body.stash_of(stash[rank].data());
        for (int thread = 0; thread < kThreads; ++thread) {
          body.begin(first + rank, thread, *scratch[rank], kept);
        }
        fold(body, body.plan().lanes(), *scratch[rank]);
      }
      for (int rank = 0; rank < ranks; ++rank) {
        for (int thread = 0; thread < kThreads; ++thread) {
          body.gather(first + rank, thread, *scratch[rank], HostPeers<Scratch>{scratch});
        }
      }
      for (int rank = 0; rank < ranks; ++rank) {
        const auto kept = body.stash_of(stash[rank].data());
        for (int thread = 0; thread < kThreads; ++thread) {
          body.finish(first + rank, thread, *scratch[rank], kept);
        }
      }
    }
  }

  // How the last op ran: launches, and blocks of a cluster (0: not on chip).
  int launches() const { return launches_; }
  int cluster() const { return cluster_; }

 private:
  struct alignas(16) Line {
    unsigned char bytes[16];
  };

  // Within one step of the tree no thread reads what another writes, so their order is free; here
  // it is last to first, the opposite of everywhere else.
  template <typename Body, typename Scratch>
  void fold(const Body& body, int lanes, Scratch& scratch) {
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int thread = kThreads - 1; thread >= 0; --thread) {
        body.step(thread, half, scratch);
      }
    }
  }

  DeviceLimits limits_;
  int launches_ = 0;
  int cluster_ = 0;
  std::vector<std::vector<float>> workspace_;
};

}  // namespace cuda
}  // namespace fastgan
