// Single machine instructions that C++ has no name for. Each gives the bits of the portable branch at its end, which is
// what any other compiler sees.
#pragma once

#include "../ct_slices.h"

namespace rsna {

// The load extends the sign, because converting 32 bits to float is faster than converting 16.
__device__ __forceinline__ float load_hu(const int16_t* address) {
#ifdef __CUDA_ARCH__
  int32_t hu;
  asm("ld.global.nc.s16 %0, [%1];" : "=r"(hu) : "l"(address));
  return static_cast<float>(hu);
#else
  return static_cast<float>(*address);
#endif
}

// Two neighbours in memory: the first is in the lower half.
__device__ __forceinline__ uint32_t to_float16_pair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#elif defined(__CUDA_ARCH__)
  uint16_t low, high;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low) : "f"(first));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high) : "f"(second));
  return static_cast<uint32_t>(high) << 16 | low;
#else
  return static_cast<uint32_t>(to_float16(second)) << 16 | to_float16(first);
#endif
}

__device__ __forceinline__ uint32_t to_bfloat16_pair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return static_cast<uint32_t>(to_bfloat16(second)) << 16 | to_bfloat16(first);
#endif
}

}  // namespace rsna
