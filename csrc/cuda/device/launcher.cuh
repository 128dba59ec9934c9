// Runs kernels on the device: knows its limits, holds the guard, the stream and the workspace of one
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
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <limits>
#include <mutex>
#include <type_traits>
#include <vector>

#include "cuda/device/plan.h"
#include "cuda/device/tensor.h"

namespace fastgan {
namespace cuda {

template <typename Kernel, typename = void>
struct BlocksFromSm100 {
  static constexpr int value = Kernel::kBlocksPerSm;
};
template <typename Kernel>
struct BlocksFromSm100<Kernel, std::void_t<decltype(Kernel::kBlocksFromSm100)>> {
  static constexpr int value = Kernel::kBlocksFromSm100;
};

// Blocks of an SM that a kernel's launch bounds make room for.
template <typename Kernel>
constexpr int blocks_of(int major) {
  return major >= 10 ? BlocksFromSm100<Kernel>::value : Kernel::kBlocksPerSm;
}

#ifdef __CUDA_ARCH__
constexpr int kMajor = __CUDA_ARCH__ / 100;
#else
constexpr int kMajor = 0;
#endif

// A kernel without barriers.
template <typename Kernel>
__global__ void __launch_bounds__(kThreads, blocks_of<Kernel>(kMajor))
    map_kernel(const Kernel kernel) {
  kernel.run(blockIdx.x, threadIdx.x);
}

// The tree over lanes: `lanes` is the same in every thread of the block.
template <typename Kernel, typename Scratch>
__device__ __forceinline__ void fold_block(const Kernel& kernel, int lanes, Scratch& scratch) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    kernel.step(threadIdx.x, half, scratch);
  }
  __syncthreads();
}

// A kernel that reduces over its block.
template <typename Kernel>
__global__ void __launch_bounds__(kThreads, blocks_of<Kernel>(kMajor))
    reduce_kernel(const Kernel kernel) {
  __shared__ typename Kernel::Scratch scratch;
  kernel.begin(blockIdx.x, threadIdx.x, scratch);
  if (kernel.reduces()) {
    fold_block(kernel, kernel.lanes(), scratch);
    kernel.finish(blockIdx.x, threadIdx.x, scratch);
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
// sm_90 has no cluster barrier, and the host then asks for no cluster (Launcher::cluster_limit).
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
template <typename Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kBlocksPerSm) single_pass_kernel(const Kernel kernel) {
  extern __shared__ __align__(16) unsigned char shared_tile[];
  __shared__ typename Kernel::Scratch scratch;
  const auto kept = kernel.shared_tile_of(shared_tile);
  const std::int64_t blocks = kernel.plan().chunks;
  kernel.begin(blockIdx.x, threadIdx.x, scratch, kept);
  fold_block(kernel, kernel.plan().lanes(), scratch);
  cluster_barrier(blocks);  // every block's totals are in place
  kernel.gather(blockIdx.x, threadIdx.x, scratch, ClusterPeers<typename Kernel::Scratch>{&scratch});
  cluster_barrier(blocks);  // read by all: a block may end, and its shared memory go
  kernel.finish(blockIdx.x, threadIdx.x, scratch, kept);
}

// A kernel that works through shared memory in steps; see cuda/small_channels/kernel.h.
template <typename Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kBlocksPerSm) staged_kernel(const Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  typename Kernel::State state;
  kernel.begin(blockIdx.x, threadIdx.x, state);
  const int steps = kernel.steps();
  for (int step = 0; step < steps; ++step) {
    kernel.stage(blockIdx.x, threadIdx.x, step, shared);
    __syncthreads();
    kernel.absorb(blockIdx.x, threadIdx.x, step, shared, state);
    __syncthreads();
  }
  kernel.publish(threadIdx.x, shared, state);
  __syncthreads();
  kernel.finish(blockIdx.x, threadIdx.x, shared, state);
}

// Throws torch's message of an error. Forgets it, too: the library has a CUDA runtime of its own,
// which would tell it again after the next launch, as that one's.
inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
  }
  STD_CUDA_CHECK(error);
}

constexpr int kMaxDevices = 64;

struct DeviceInfo {
  int sms;
  int major;
  int shared_per_block;
  bool clusters;
};

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device));
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
                     device_attribute(cudaDevAttrComputeCapabilityMajor, device),
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

// The CUDA launcher of the launch sequences in */launches.h.
class Launcher {
 public:
  explicit Launcher(const Tensor& like)
      : like_(like),
        device_(like.get_device_index()),
        guard_(device_),
        info_(device_info(device_)) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // Blocks of a kernel that run at once.
  template <typename Kernel>
  int wave() const {
    return info_.sms * blocks_of<Kernel>(info_.major);
  }

  // Of a single-pass kernel. Clusters need the hardware and a kernel compiled for sm_90 or
  // later: code for sm_80 that the driver translates for a newer device has no cluster barrier in
  // it. The kernel is given all of the shared memory that plans may fill. Asked once for each device.
  template <typename Kernel>
  const DeviceLimits& limits() const {
    static std::array<DeviceLimits, kMaxDevices> limits;
    static std::array<std::once_flag, kMaxDevices> known;
    std::call_once(known[device_], [this] {
      cudaFuncAttributes attributes{};
      check_cuda(cudaFuncGetAttributes(&attributes, single_pass_kernel<Kernel>));
      const int dynamic = info_.shared_per_block - int(attributes.sharedSizeBytes);
      check_cuda(cudaFuncSetAttribute(single_pass_kernel<Kernel>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
      const bool may = info_.clusters && attributes.ptxVersion >= 90;
      if (may) {  // more than 8 blocks, which not every device has
        check_cuda(cudaFuncSetAttribute(single_pass_kernel<Kernel>,
                                        cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
      }
      limits[device_] = {info_.sms, dynamic, may ? largest_cluster<Kernel>(dynamic) : 1};
    });
    return limits[device_];
  }

  // Float32 workspace that lives as long as the op; the allocator orders its reuse by stream.
  float* floats(std::int64_t count) {
    workspace_.push_back(new_floats(like_, {count}));
    return float_out(workspace_.back());
  }

  // `from`, or a copy where it is not aligned to 16 bytes; null stays null.
  const float* aligned_floats(const float* from, std::int64_t count) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16 == 0) {
      return from;
    }
    float* const to = floats(count);
    check_cuda(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyDeviceToDevice, stream_));
    return to;
  }

  template <typename Kernel>
  void map(const Kernel& kernel, std::int64_t blocks) const {
    map_kernel<Kernel><<<grid_of(blocks), kThreads, 0, stream_>>>(kernel);
    check_cuda(cudaGetLastError());
  }

  template <typename Kernel>
  void reduce(const Kernel& kernel, std::int64_t blocks) const {
    reduce_kernel<Kernel><<<grid_of(blocks), kThreads, 0, stream_>>>(kernel);
    check_cuda(cudaGetLastError());
  }

  template <typename Kernel>
  void staged(const Kernel& kernel, std::int64_t blocks) const {
    staged_kernel<Kernel><<<grid_of(blocks), kThreads, 0, stream_>>>(kernel);
    check_cuda(cudaGetLastError());
  }

  template <typename Kernel>
  void single_pass(const Kernel& kernel, int shared_bytes) const {
    const Plan& plan = kernel.plan();
    cudaLaunchAttribute cluster = cluster_of(plan.chunks);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid_of(plan.blocks()));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.stream = stream_;
    config.attrs = &cluster;
    config.numAttrs = plan.chunks > 1 ? 1 : 0;
    check_cuda(cudaLaunchKernelEx(&config, single_pass_kernel<Kernel>, kernel));
  }

 private:
  // Up to kMaxCluster blocks, if the device can hold that many at once, each with
  // `dynamic` bytes: a slice of a device may not.
  template <typename Kernel>
  static int largest_cluster(int dynamic) {
    int blocks = kMaxCluster;
    for (; blocks > 1; blocks /= 2) {
      cudaLaunchAttribute cluster = cluster_of(blocks);
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(blocks));
      config.blockDim = dim3(kThreads);
      config.dynamicSmemBytes = static_cast<std::size_t>(dynamic);
      config.attrs = &cluster;
      config.numAttrs = 1;
      int active = 0;
      // An error is a size that the device does not know.
      if (cudaOccupancyMaxActiveClusters(&active, single_pass_kernel<Kernel>, &config) !=
          cudaSuccess) {
        static_cast<void>(cudaGetLastError());
      } else if (active > 0) {
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
