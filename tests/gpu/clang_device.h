// What the device code needs of CUDA's headers, in clang's own words: so that clang reads it without them, whatever
// their version.
#pragma once

#define __CUDACC__
#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))

#define RSNA_BOTH static __forceinline__ __host__ __device__
RSNA_BOTH float fminf(float a, float b) { return __builtin_fminf(a, b); }
RSNA_BOTH float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
RSNA_BOTH double fmin(double a, double b) { return __builtin_fmin(a, b); }
RSNA_BOTH double fmax(double a, double b) { return __builtin_fmax(a, b); }
RSNA_BOTH float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RSNA_BOTH float floorf(float a) { return __builtin_floorf(a); }
RSNA_BOTH float fabsf(float a) { return __builtin_fabsf(a); }
RSNA_BOTH int min(int a, int b) { return a < b ? a : b; }
RSNA_BOTH int max(int a, int b) { return a > b ? a : b; }
#undef RSNA_BOTH

#define RSNA_DEVICE static __forceinline__ __device__
RSNA_DEVICE unsigned __float_as_uint(float a) { return __builtin_bit_cast(unsigned, a); }
RSNA_DEVICE float __uint_as_float(unsigned a) { return __builtin_bit_cast(float, a); }
RSNA_DEVICE int __ffs(int a) { return __builtin_ffs(a); }
RSNA_DEVICE int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
RSNA_DEVICE void __syncwarp() { __nvvm_bar_warp_sync(0xffffffffu); }
RSNA_DEVICE bool __all_sync(unsigned mask, bool vote) { return __nvvm_vote_all_sync(mask, vote); }
RSNA_DEVICE void atomicMin(int* target, int value) { __nvvm_atom_min_gen_i(target, value); }
RSNA_DEVICE void atomicMax(int* target, int value) { __nvvm_atom_max_gen_i(target, value); }
#undef RSNA_DEVICE

#include <__clang_cuda_builtin_vars.h>
