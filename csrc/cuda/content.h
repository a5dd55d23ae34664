// The search for content: one block per slice, its warps take rows in turn.
#pragma once

#include "ptx.h"

namespace rsna {

constexpr int32_t kSearchThreads = 512;
constexpr int32_t kValuesPerVector = sizeof(Vector) / sizeof(int16_t);

// What one thread has found; x1 and y1 are exclusive, y1 is 0 as long as there is nothing.
struct Found {
  int32_t x0, y0, x1, y1;
};

__device__ inline void look_at(const Vector& vector, int32_t threshold_hu, int32_t x, int32_t y, Found& found) {
  uint32_t mask = 0;
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
    const int32_t pair = static_cast<int32_t>(vector.words[i]);
    mask |= static_cast<uint32_t>(static_cast<int16_t>(pair) >= threshold_hu) << (2 * i);
    mask |= static_cast<uint32_t>((pair >> 16) >= threshold_hu) << (2 * i + 1);
  }
  if (mask == 0) return;
  found.x0 = min(found.x0, x + __ffs(mask) - 1);
  found.x1 = max(found.x1, x + 32 - __clz(mask));
  found.y0 = min(found.y0, y);
  found.y1 = y + 1;  // a thread goes down
}

__device__ inline Found search_rows(const Pixels& slice, int32_t threshold_hu) {
  const int32_t height = static_cast<int32_t>(slice.height), width = static_cast<int32_t>(slice.width);
  const bool is_aligned =
      reinterpret_cast<unsigned long long>(slice.values) % sizeof(Vector) == 0 && width % kValuesPerVector == 0;
  const int32_t lane = threadIdx.x % 32;
  Found found = {width, height, 0, 0};
  for (int32_t y = threadIdx.x / 32; y < height; y += kSearchThreads / 32) {
    const int16_t* row = slice.values + static_cast<int64_t>(y) * width;
    if (is_aligned) {
      for (int32_t x = kValuesPerVector * lane; x < width; x += 32 * kValuesPerVector) {
        look_at(load_vector(row + x), threshold_hu, x, y, found);
      }
    } else {
      for (int32_t x = lane; x < width; x += 32) {
        if (load_hu(row + x) < threshold_hu) continue;
        found = {min(found.x0, x), min(found.y0, y), max(found.x1, x + 1), y + 1};
      }
    }
  }
  return found;
}

__global__ void __launch_bounds__(kSearchThreads) find_content(ContentSearch search) {
  __shared__ Found box;
  const Pixels slice = search.slices[blockIdx.x];
  if (threadIdx.x == 0) box = {static_cast<int32_t>(slice.width), static_cast<int32_t>(slice.height), 0, 0};
  __syncthreads();
  const Found found = search_rows(slice, search.threshold_hu);
  if (found.y1 > 0) {
    atomicMin(&box.x0, found.x0);
    atomicMin(&box.y0, found.y0);
    atomicMax(&box.x1, found.x1);
    atomicMax(&box.y1, found.y1);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  int32_t* result = search.boxes + 4 * static_cast<int64_t>(blockIdx.x);
  const Found whole = box.y1 > 0 ? box : Found{0, 0, 0, 0};
  result[0] = whole.x0;
  result[1] = whole.y0;
  result[2] = whole.x1;
  result[3] = whole.y1;
}

}  // namespace rsna
