// CUDA's runtime and language on the host, as far as csrc/cuda uses them, for machines without a GPU: each thread of a
// block is a coroutine that runs up to the next barrier; blocks come one after another.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
using cudaStream_t = void*;

inline dim3 blockIdx(0, 0, 0), threadIdx(0, 0, 0);

namespace emulated {

constexpr size_t kStackBytes = 1 << 16;

struct Block {
  std::function<void()> kernel;
  std::vector<ucontext_t> threads;
  std::vector<char> stacks;
  std::vector<bool> is_done, votes;
  ucontext_t scheduler;
};
inline Block block;

inline void begin_thread() {
  block.kernel();
  block.is_done[threadIdx.x] = true;
}

inline void start(unsigned n_threads) {
  block.threads.resize(n_threads);
  block.stacks.resize(n_threads * kStackBytes);
  block.is_done.assign(n_threads, false);
  block.votes.assign(n_threads, false);
  for (unsigned i = 0; i < n_threads; ++i) {
    ucontext_t& thread = block.threads[i];
    getcontext(&thread);
    thread.uc_stack.ss_sp = block.stacks.data() + i * kStackBytes;
    thread.uc_stack.ss_size = kStackBytes;
    thread.uc_link = &block.scheduler;
    makecontext(&thread, begin_thread, 0);
  }
}

// In each round every thread runs to its next barrier; a warp whose threads have all ended sits the rest out.
inline void run(unsigned n_threads) {
  start(n_threads);
  for (bool is_running = true; is_running;) {
    is_running = false;
    for (unsigned i = 0; i < n_threads; ++i) {
      if (block.is_done[i]) continue;
      threadIdx.x = i;
      swapcontext(&block.scheduler, &block.threads[i]);
      is_running = is_running || !block.is_done[i];
    }
  }
}

inline void wait() { swapcontext(&block.threads[threadIdx.x], &block.scheduler); }

}  // namespace emulated

inline void __syncthreads() { emulated::wait(); }
inline void __syncwarp() { emulated::wait(); }
inline bool __all_sync(unsigned, bool vote) {
  auto& votes = emulated::block.votes;
  votes[threadIdx.x] = vote;
  emulated::wait();
  const auto warp = votes.begin() + threadIdx.x / 32 * 32;
  const bool is_unanimous = std::all_of(warp, warp + 32, [](bool one) { return one; });
  emulated::wait();
  return is_unanimous;
}

inline void atomicMin(int32_t* target, int32_t value) { *target = std::min(*target, value); }
inline void atomicMax(int32_t* target, int32_t value) { *target = std::max(*target, value); }
inline int __ffs(uint32_t value) { return __builtin_ffs(static_cast<int>(value)); }
inline int __clz(uint32_t value) { return value == 0 ? 32 : __builtin_clz(value); }
using std::max;
using std::min;

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 n_threads, void** arguments, size_t,
                             cudaStream_t) {
  const bool is_empty = grid.x == 0 || grid.y == 0 || grid.z == 0;
  if (is_empty || grid.y > 65535 || grid.z > 65535 || n_threads.x > 1024) return cudaErrorInvalidConfiguration;
  const Argument argument = *static_cast<const Argument*>(arguments[0]);
  emulated::block.kernel = [=] { kernel(argument); };
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) emulated::run(n_threads.x);
    }
  }
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t n_bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(destination, source, n_bytes);
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated runtime"; }
