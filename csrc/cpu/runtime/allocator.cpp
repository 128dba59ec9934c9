#include "cpu/runtime/allocator.h"

#include <sys/mman.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <optional>
#include <vector>

namespace fastgan {
namespace {

constexpr size_t kHugePage = 2 * 1024 * 1024;
constexpr size_t kGranule = 64 * 1024;  // a multiple of every page size in use

// Stands before the memory handed out.
struct alignas(64) Block {
  size_t bytes;  // of the mapping; 0 if the block is the C library's
};

Block* map(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t slack = huge ? kHugePage : 0;
  void* mapped = ::mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  char* start = static_cast<char*>(mapped);
  if (huge) {
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
    if (before) ::munmap(start, before);
    start += before;
    if (slack - before) ::munmap(start + bytes, slack - before);
#ifdef MADV_HUGEPAGE
    ::madvise(start, bytes, MADV_HUGEPAGE);  // a hint: without huge pages all works, slower
#endif
  }
  return new (start) Block{bytes};
}

void unmap(Block* block) { ::munmap(block, block->bytes); }

// Freed blocks, the latest last. A lock that another thread holds is not waited for: that thread may
// not exist in this process, after a fork.
class Kept {
 public:
  Block* find(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    for (size_t i = blocks_.size(); i-- > 0;) {
      Block* block = blocks_[i];
      if (block->bytes < bytes || block->bytes > bytes + bytes / 4) continue;
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(i));
      held_ -= block->bytes;
      return block;
    }
    return nullptr;
  }

  void add(Block* block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || block->bytes > limit_) return unmap(block);
    blocks_.push_back(block);
    held_ += block->bytes;
    trim();
  }

  // The bytes held, after setting the limit if one is given.
  int64_t held(std::optional<int64_t> limit) {
    const std::unique_lock<std::mutex> lock(mutex_);
    if (limit.has_value()) limit_ = static_cast<size_t>(std::max<int64_t>(0, *limit));
    trim();
    return static_cast<int64_t>(held_);
  }

 private:
  void trim() {
    size_t oldest = 0;
    for (; held_ > limit_; ++oldest) {
      held_ -= blocks_[oldest]->bytes;
      unmap(blocks_[oldest]);
    }
    blocks_.erase(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(oldest));
  }

  std::mutex mutex_;
  std::vector<Block*> blocks_;
  size_t held_ = 0, limit_ = size_t{512} << 20;
};

// Never destroyed: tensors may be freed after everything else.
Kept& kept() {
  static Kept& kept = *new Kept;
  return kept;
}

int64_t cached_memory(std::optional<int64_t> limit) {
  return kept().held(limit);
}

}  // namespace

void* take(size_t bytes) {
  bytes += sizeof(Block);
  Block* block;
  if (bytes < kLargeBlock) {
    block = new (::operator new(bytes, std::align_val_t{alignof(Block)})) Block{0};
  } else {
    bytes = (bytes + kGranule - 1) / kGranule * kGranule;
    block = kept().find(bytes);
    if (block == nullptr) block = map(bytes);
  }
  return block + 1;
}

void give(void* taken) noexcept {
  if (taken == nullptr) return;
  Block* block = static_cast<Block*>(taken) - 1;
  if (block->bytes == 0) return ::operator delete(block, std::align_val_t{alignof(Block)});
  kept().add(block);
}

}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan, CompositeExplicitAutograd, m) {
  m.impl("cached_memory", TORCH_BOX(&fastgan::cached_memory));
}
