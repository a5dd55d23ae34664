// The CUDA kernel: one thread per output pixel. Compiled with --fmad=false, so that its bits are those of the CPU.
// Only what is outside __CUDACC_RTC__ needs the host's headers; nothing here needs more than sm_70.
#include "../ct_slices.h"

namespace rsna {

struct AsFloat32 {
  using Type = float;
  static __device__ float convert(float value) { return value; }
};
struct AsFloat16 {
  using Type = uint16_t;
  static __device__ uint16_t convert(float value) { return to_float16(value); }
};
struct AsBFloat16 {
  using Type = uint16_t;
  static __device__ uint16_t convert(float value) { return to_bfloat16(value); }
};
struct AsUInt8 {
  using Type = uint8_t;
  static __device__ uint8_t convert(float value) { return to_uint8(value); }
};

namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kGroup = 4;  // channels whose sums are held in registers at once

__device__ Quad read_quad(const int16_t* anchor, int32_t width, const Taps& taps) {
  const int16_t* top = anchor + taps.index;
  const int16_t* bottom = top + width;
  return {static_cast<float>(top[0]), static_cast<float>(top[1]), static_cast<float>(bottom[0]),
          static_cast<float>(bottom[1])};
}

// Adds up the samples of pixel (x, y) for channels [first, first + kGroup), as far as there are any.
template <bool kIsGrey>
__device__ void sum_samples(const Transform& transform, const Slice& slice, int32_t x, int32_t y, int32_t first,
                            float (&sums)[kGroup]) {
  const Sampling sampling = transform.sampling;
  for (int32_t sub_y = 0; sub_y < sampling.n_sub; ++sub_y) {
    const float sample_y = sample_position(sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < sampling.n_sub; ++sub_x) {
      const Taps taps = locate(slice, sample_position(sampling, x, sub_x), sample_y);
      const Quad hu = read_quad(slice.anchor, slice.width, taps);
#pragma unroll
      for (int32_t k = 0; k < kGroup; ++k) {
        if (first + k >= transform.n_channels) continue;
        const Channel& channel = transform.channels[first + k];
        sums[k] += kIsGrey ? sample_grey(channel, window_exactly(channel, slice.lowest_hu), taps, hu)
                           : sample(channel, taps, hu);
      }
    }
  }
}

}  // namespace

template <class Output, bool kIsGrey = false>
__global__ void __launch_bounds__(kThreads) transform_slices(Transform transform, int32_t blocks_per_slice) {
  using Type = typename Output::Type;
  const int32_t slice_index = blockIdx.x / blocks_per_slice;
  const int32_t pixel = (blockIdx.x % blocks_per_slice) * kThreads + threadIdx.x;
  const int32_t plane = transform.size * transform.size;
  if (pixel >= plane) return;
  const int32_t n_channels = transform.n_channels;
  const int64_t stride = transform.channels_last ? 1 : plane;
  const int64_t image = static_cast<int64_t>(slice_index) * n_channels * plane;
  const int64_t offset = transform.channels_last ? static_cast<int64_t>(pixel) * n_channels : pixel;
  Type* output = static_cast<Type*>(transform.output) + image + offset;
  for (int32_t first = 0; first < n_channels; first += kGroup) {
    float sums[kGroup] = {0.0f, 0.0f, 0.0f, 0.0f};
    sum_samples<kIsGrey>(transform, transform.slices[slice_index], pixel % transform.size, pixel / transform.size,
                         first, sums);
#pragma unroll
    for (int32_t k = 0; k < kGroup; ++k) {
      const int32_t c = first + k;
      if (c < n_channels) output[c * stride] = Output::convert(normalise(transform.channels[c], sums[k]));
    }
  }
}

// Named here so that NVRTC, which compiles no launcher, compiles every variant of the kernel.
template __global__ void transform_slices<AsFloat32>(Transform, int32_t);
template __global__ void transform_slices<AsFloat16>(Transform, int32_t);
template __global__ void transform_slices<AsBFloat16>(Transform, int32_t);
template __global__ void transform_slices<AsUInt8, true>(Transform, int32_t);

// One block per slice. The first thread sets the block's box up, the last one writes it out.
__global__ void __launch_bounds__(kThreads) find_content(ContentSearch search) {
  __shared__ int32_t box[4];
  const Pixels slice = search.slices[blockIdx.x];
  if (threadIdx.x == 0) {
    box[0] = static_cast<int32_t>(slice.width);
    box[1] = static_cast<int32_t>(slice.height);
    box[2] = box[3] = 0;
  }
  __syncthreads();
  const int32_t width = static_cast<int32_t>(slice.width);
  const int32_t n_pixels = static_cast<int32_t>(slice.height) * width;
  for (int32_t i = threadIdx.x; i < n_pixels; i += kThreads) {
    if (slice.values[i] < search.threshold_hu) continue;
    atomicMin(box, i % width);
    atomicMin(box + 1, i / width);
    atomicMax(box + 2, i % width + 1);
    atomicMax(box + 3, i / width + 1);
  }
  __syncthreads();
  if (threadIdx.x != kThreads - 1) return;
  const bool is_empty = box[3] == 0;
  for (int32_t k = 0; k < 4; ++k) search.boxes[4 * static_cast<int64_t>(blockIdx.x) + k] = is_empty ? 0 : box[k];
}

}  // namespace rsna

#ifndef __CUDACC_RTC__
#include <cuda_runtime.h>

#include <limits>

namespace rsna {

int launch_cuda(const Transform& transform, void* stream_handle) {
  if (transform.n_slices == 0) return cudaSuccess;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int32_t blocks_per_slice = (transform.size * transform.size + kThreads - 1) / kThreads;
  const int64_t n_blocks = transform.n_slices * blocks_per_slice;
  if (n_blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(n_blocks));
  switch (transform.output_type) {
    case OutputType::kFloat32:
      transform_slices<AsFloat32><<<grid, kThreads, 0, stream>>>(transform, blocks_per_slice);
      break;
    case OutputType::kFloat16:
      transform_slices<AsFloat16><<<grid, kThreads, 0, stream>>>(transform, blocks_per_slice);
      break;
    case OutputType::kBFloat16:
      transform_slices<AsBFloat16><<<grid, kThreads, 0, stream>>>(transform, blocks_per_slice);
      break;
    case OutputType::kUInt8:
      transform_slices<AsUInt8, true><<<grid, kThreads, 0, stream>>>(transform, blocks_per_slice);
      break;
  }
  return cudaGetLastError();
}

int launch_content_cuda(const ContentSearch& search, void* stream) {
  if (search.n_slices > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidValue;
  find_content<<<static_cast<unsigned>(search.n_slices), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(search);
  return cudaGetLastError();
}

int upload_cuda(void* destination, const void* source, int64_t n_bytes, void* stream) {
  return cudaMemcpyAsync(destination, source, static_cast<size_t>(n_bytes), cudaMemcpyHostToDevice,
                         static_cast<cudaStream_t>(stream));
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace rsna
#endif
