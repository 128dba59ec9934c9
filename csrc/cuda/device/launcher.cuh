// Runs bodies on the device: knows its limits, holds the guard, the stream and the workspace of one
// op, launches and checks. Never waits for the device. Stable ABI only: no ATen.
#pragma once

// The CUDA half of the stable C API is declared under this macro.
#ifndef USE_CUDA
#define USE_CUDA
#endif

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <array>
#include <atomic>
#include <limits>
#include <mutex>
#include <vector>

#include "cuda/device/plan.h"
#include "cuda/device/tensor.h"

namespace fastgan {
namespace cuda {

// A body without barriers.
template <typename Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocksPerSm) map_kernel(const Body body) {
  body.run(blockIdx.x, threadIdx.x);
}

// The tree over lanes: `lanes` is the same in every thread of the block.
template <typename Body, typename Scratch>
__device__ __forceinline__ void fold_block(const Body& body, int lanes, Scratch& scratch) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    body.step(threadIdx.x, half, scratch);
  }
  __syncthreads();
}

// A body that reduces over its block.
template <typename Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocksPerSm) reduce_kernel(const Body body) {
  __shared__ typename Body::Scratch scratch;
  body.begin(blockIdx.x, threadIdx.x, scratch);
  if (body.reduces()) {
    fold_block(body, body.lanes(), scratch);
    body.finish(blockIdx.x, threadIdx.x, scratch);
  }
}

// The scratch of every block of the cluster, by rank.
template <typename Scratch>
struct ClusterPeers {
  Scratch* own;

  __device__ __forceinline__ const Scratch& operator()(int rank) const {
#if __CUDA_ARCH__ >= 900
    return *cooperative_groups::this_cluster().map_shared_rank(own, rank);
#else
    return *own;
#endif
  }
};

// A barrier over the cluster, or over the block where it stands alone. Code for devices before
// sm_90 has no cluster barrier, and the host then asks for no cluster (Executor::cluster_limit).
__device__ __forceinline__ void cluster_barrier(std::int64_t blocks) {
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) {
    cooperative_groups::this_cluster().sync();
    return;
  }
#endif
  __syncthreads();
}

// A cluster keeps a tile of columns in its shared memory between the statistics and their use.
template <typename Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocksPerSm) onchip_kernel(const Body body) {
  extern __shared__ __align__(16) unsigned char stash[];
  __shared__ typename Body::Scratch scratch;
  const auto kept = body.stash_of(stash);
  const std::int64_t blocks = body.plan().chunks;
  body.begin(blockIdx.x, threadIdx.x, scratch, kept);
  fold_block(body, body.plan().lanes(), scratch);
  cluster_barrier(blocks);  // every block's totals are in place
  body.gather(blockIdx.x, threadIdx.x, scratch, ClusterPeers<typename Body::Scratch>{&scratch});
  cluster_barrier(blocks);  // read by all: a block may end, and its shared memory go
  body.finish(blockIdx.x, threadIdx.x, scratch, kept);
}

// A body that works through shared memory in steps; see cuda/small_channels/kernel.h.
template <typename Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocksPerSm) staged_kernel(const Body body) {
  __shared__ typename Body::Shared shared;
  typename Body::State state;
  body.begin(blockIdx.x, threadIdx.x, state);
  const int steps = body.steps();
  for (int step = 0; step < steps; ++step) {
    body.stage(blockIdx.x, threadIdx.x, step, shared);
    __syncthreads();
    body.absorb(blockIdx.x, threadIdx.x, step, shared, state);
    __syncthreads();
  }
  body.publish(threadIdx.x, shared, state);
  __syncthreads();
  body.finish(blockIdx.x, threadIdx.x, shared, state);
}

constexpr int kMaxDevices = 64;

struct DeviceInfo {
  int sms;
  int shared_per_block;
  bool clusters;
};

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Queried once for each device.
inline const DeviceInfo& device_info(int device) {
  static std::array<DeviceInfo, kMaxDevices> infos;
  static std::array<std::once_flag, kMaxDevices> known;
  STD_TORCH_CHECK(device >= 0 && device < kMaxDevices, "device index ", device,
                  " is outside [0, ", kMaxDevices, ")");
  std::call_once(known[device], [device] {
    infos[device] = {device_attribute(cudaDevAttrMultiProcessorCount, device),
                     device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                     device_attribute(cudaDevAttrClusterLaunch, device) != 0};
  });
  return infos[device];
}

inline unsigned grid_of(std::int64_t blocks) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), "x: needs ", blocks,
                  " blocks, more than a launch can hold");
  return static_cast<unsigned>(blocks);
}

// The CUDA executor of the steps in */launches.h.
class Executor {
 public:
  explicit Executor(const Tensor& like)
      : like_(like),
        device_(like.get_device_index()),
        guard_(device_),
        info_(device_info(device_)) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // Blocks of a body that run at once: its launch bounds make room for kBlocksPerSm on each SM.
  template <typename Body>
  int wave() const {
    return info_.sms * Body::kBlocksPerSm;
  }

  template <typename Body>
  DeviceLimits limits() const {
    return {info_.sms, info_.shared_per_block, cluster_limit<Body>()};
  }

  // Float32 workspace that lives as long as the op; the allocator orders its reuse by stream.
  float* floats(std::int64_t count) {
    workspace_.push_back(new_floats(like_, {count}));
    return float_out(workspace_.back());
  }

  template <typename Body>
  void map(const Body& body, std::int64_t blocks) const {
    map_kernel<Body><<<grid_of(blocks), kThreads, 0, stream_>>>(body);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  template <typename Body>
  void reduce(const Body& body, std::int64_t blocks) const {
    reduce_kernel<Body><<<grid_of(blocks), kThreads, 0, stream_>>>(body);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  template <typename Body>
  void staged(const Body& body, std::int64_t blocks) const {
    staged_kernel<Body><<<grid_of(blocks), kThreads, 0, stream_>>>(body);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  template <typename Body>
  void onchip(const Body& body, int stash_bytes) const {
    const Plan& plan = body.plan();
    cudaLaunchAttribute cluster = cluster_of(plan.chunks);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid_of(plan.blocks()));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<std::size_t>(stash_bytes);
    config.stream = stream_;
    config.attrs = &cluster;
    config.numAttrs = plan.chunks > 1 ? 1 : 0;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, onchip_kernel<Body>, body));
  }

 private:
  // How large a cluster this kernel may be launched with: clusters need the hardware and a kernel
  // compiled for sm_90 or later (code for sm_80 that the driver translates for a newer device has
  // no cluster barrier in it). Also lets the kernel use all of the shared memory. Asked once for
  // each device.
  template <typename Body>
  int cluster_limit() const {
    static std::array<std::atomic<int>, kMaxDevices> limits;  // 0: not yet known
    std::atomic<int>& limit = limits[device_];
    int known = limit.load(std::memory_order_acquire);
    if (known == 0) {
      cudaFuncAttributes attributes{};
      STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, onchip_kernel<Body>));
      const int dynamic = info_.shared_per_block - int(attributes.sharedSizeBytes);
      STD_CUDA_CHECK(cudaFuncSetAttribute(onchip_kernel<Body>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
      const bool may = info_.clusters && attributes.ptxVersion >= 90;
      known = may ? largest_cluster<Body>(dynamic) : 1;
      limit.store(known, std::memory_order_release);
    }
    return known;
  }

  // Up to 8 blocks (the portable maximum), if the device can hold that many at once, each with
  // `dynamic` bytes: a slice of a device may not.
  template <typename Body>
  static int largest_cluster(int dynamic) {
    int blocks = 8;
    for (; blocks > 1; blocks /= 2) {
      cudaLaunchAttribute cluster = cluster_of(blocks);
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(blocks));
      config.blockDim = dim3(kThreads);
      config.dynamicSmemBytes = static_cast<std::size_t>(dynamic);
      config.attrs = &cluster;
      config.numAttrs = 1;
      int active = 0;
      STD_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&active, onchip_kernel<Body>, &config));
      if (active > 0) {
        break;
      }
    }
    return blocks;
  }

  static cudaLaunchAttribute cluster_of(std::int64_t blocks) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    return cluster;
  }

  const Tensor& like_;
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  const DeviceInfo& info_;
  cudaStream_t stream_;
  std::vector<Tensor> workspace_;
};

}  // namespace cuda
}  // namespace fastgan
