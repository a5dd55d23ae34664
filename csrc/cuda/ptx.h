// Single machine instructions that C++ has no name for, beside portable code that gives the same bits, which is what
// other compilers see.
#pragma once

#include "../ct_slices.h"

namespace rsna {

// As much as one load or store can move.
struct alignas(16) Vector {
  uint32_t words[4];
};

// The load extends the sign: what converts the value then starts from 32 bits, which is faster than from 16.
__device__ __forceinline__ int32_t load_hu(const int16_t* address) {
#ifdef __CUDA_ARCH__
  int32_t hu;
  asm("ld.global.nc.s16 %0, [%1];" : "=r"(hu) : "l"(address));
  return hu;
#else
  return *address;
#endif
}

__device__ __forceinline__ Vector load_vector(const int16_t* address) {
#ifdef __CUDA_ARCH__
  Vector vector;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(vector.words[0]), "=r"(vector.words[1]), "=r"(vector.words[2]), "=r"(vector.words[3])
      : "l"(address));
  return vector;
#else
  return *reinterpret_cast<const Vector*>(address);
#endif
}

// The four pixels around a sample, in HU.
__device__ __forceinline__ Quad load_quad(const Slice& slice, const Taps& taps) {
  const int16_t* top = slice.anchor + taps.index;
  const int16_t* bottom = top + slice.width;
  return {static_cast<float>(load_hu(top)), static_cast<float>(load_hu(top + 1)), static_cast<float>(load_hu(bottom)),
          static_cast<float>(load_hu(bottom + 1))};
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
