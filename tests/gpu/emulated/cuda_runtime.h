// CUDA's runtime and language on the host, as far as csrc/cuda uses them, for machines without a GPU. Blocks come one
// after another.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>

#include "scheduler.h"

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

inline dim3 blockIdx(0, 0, 0);

inline const struct {
  const unsigned& x;
} threadIdx = {emulated::current_thread};

namespace emulated {

// Neighbours in the grid have different colours, 0 to 7. Blocks of one colour are run, or of all: -1.
inline int chosen_colour = -1;
inline bool is_chosen() {
  const unsigned colour = blockIdx.x % 2 + 2 * (blockIdx.y % 2) + 4 * (blockIdx.z % 2);
  return chosen_colour < 0 || static_cast<unsigned>(chosen_colour) == colour;
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait_for_block(); }
inline void __syncwarp() { emulated::wait_for_warp(); }
inline bool __all_sync(unsigned, bool vote) {
  static bool votes[emulated::kMaxThreads];
  votes[threadIdx.x] = vote;
  emulated::wait_for_warp();
  const bool* warp = votes + threadIdx.x / emulated::kWarp * emulated::kWarp;
  const bool is_unanimous = std::all_of(warp, warp + emulated::kWarp, [](bool one) { return one; });
  emulated::wait_for_warp();
  return is_unanimous;
}

// Relaxed, as CUDA's: they order nothing else.
template <class Better>
void replace_if(int32_t* target, int32_t value, Better is_better) {
  std::atomic_ref<int32_t> shared(*target);
  if (is_better(value, shared.load(std::memory_order_relaxed))) shared.store(value, std::memory_order_relaxed);
}
inline void atomicMin(int32_t* target, int32_t value) { replace_if(target, value, std::less<>()); }
inline void atomicMax(int32_t* target, int32_t value) { replace_if(target, value, std::greater<>()); }
inline int __ffs(uint32_t value) { return __builtin_ffs(static_cast<int>(value)); }
inline int __clz(uint32_t value) { return value == 0 ? 32 : __builtin_clz(value); }
using std::max;
using std::min;

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 n_threads, void** arguments, size_t,
                             cudaStream_t) {
  const bool is_empty = grid.x == 0 || grid.y == 0 || grid.z == 0;
  if (is_empty || grid.y > 65535 || grid.z > 65535 || n_threads.x > 1024) return cudaErrorInvalidConfiguration;
  const struct {
    void (*kernel)(Argument);
    Argument argument;
  } call = {kernel, *static_cast<const Argument*>(arguments[0])};
  const auto body = [](const void* one) {
    const auto& [run, with] = *static_cast<decltype(&call)>(one);
    run(with);
  };
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        if (emulated::is_chosen()) emulated::run_block(n_threads.x, body, &call);
      }
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
