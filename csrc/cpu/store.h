// Output of the CPU kernel: sums of samples normalised, converted, and written past the caches where that pays.
#pragma once

#include "../ct_slices.h"
#include "block.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace rsna {
namespace {

constexpr int64_t kStreamed = int64_t{4} << 20;  // bytes; less is still in a cache when it is read

int64_t bytes_of(OutputType type) { return type == OutputType::kFloat32 ? 4 : type == OutputType::kUInt8 ? 1 : 2; }

bool is_streamed(const Transform& transform) {
  const int64_t n_values = transform.n_slices * transform.n_channels * transform.size * transform.size;
  return n_values * bytes_of(transform.output_type) >= kStreamed;
}

void convert_to_float16(const float* __restrict values, int64_t n, uint16_t* __restrict output) {
  int64_t i = 0;
#ifdef __F16C__  // to_float16 in one instruction
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(output + i), halves);
  }
#endif
  for (; i < n; ++i) output[i] = to_float16(values[i]);
}

void convert_to_bfloat16(const float* __restrict values, int64_t n, uint16_t* __restrict output) {
  for (int64_t i = 0; i < n; ++i) output[i] = to_bfloat16(values[i]);
}

void convert_to_uint8(const float* __restrict values, int64_t n, uint8_t* __restrict output) {
  for (int64_t i = 0; i < n; ++i) output[i] = to_uint8(values[i]);
}

// Copies past the caches, which saves reading what is overwritten.
void stream_out(char* output, const char* bytes, int64_t n_bytes) {
#if defined(__AVX512F__)
  using Vector = __m512i;
  const auto stream = [](char* to, const char* from) {
    _mm512_stream_si512(reinterpret_cast<Vector*>(to), _mm512_loadu_si512(from));
  };
#elif defined(__AVX__)
  using Vector = __m256i;
  const auto stream = [](char* to, const char* from) {
    _mm256_stream_si256(reinterpret_cast<Vector*>(to), _mm256_loadu_si256(reinterpret_cast<const Vector*>(from)));
  };
#elif defined(__SSE2__)
  using Vector = __m128i;
  const auto stream = [](char* to, const char* from) {
    _mm_stream_si128(reinterpret_cast<Vector*>(to), _mm_loadu_si128(reinterpret_cast<const Vector*>(from)));
  };
#endif
#ifdef __SSE2__
  constexpr int64_t kLine = 64;
  const int64_t to_line = -reinterpret_cast<intptr_t>(output) & (kLine - 1);
  const int64_t head = to_line < n_bytes ? to_line : n_bytes;
  const int64_t body_end = head + (n_bytes - head) / kLine * kLine;
  if (head > 0) __builtin_memcpy(output, bytes, head);
  for (int64_t i = head; i < body_end; i += sizeof(Vector)) stream(output + i, bytes + i);
  if (body_end < n_bytes) __builtin_memcpy(output + body_end, bytes + body_end, n_bytes - body_end);
#else
  __builtin_memcpy(output, bytes, n_bytes);
#endif
}

// Writes n values that are in their final order.
void write_out(const Transform& transform, const float* values, int64_t n, char* scratch, int64_t first_value) {
  const int64_t value_bytes = bytes_of(transform.output_type);
  char* output = static_cast<char*>(transform.output) + first_value * value_bytes;
  const char* bytes = scratch;
  switch (transform.output_type) {
    case OutputType::kFloat32:
      bytes = reinterpret_cast<const char*>(values);
      break;
    case OutputType::kFloat16:
      convert_to_float16(values, n, reinterpret_cast<uint16_t*>(scratch));
      break;
    case OutputType::kBFloat16:
      convert_to_bfloat16(values, n, reinterpret_cast<uint16_t*>(scratch));
      break;
    case OutputType::kUInt8:
      convert_to_uint8(values, n, reinterpret_cast<uint8_t*>(scratch));
      break;
  }
  if (is_streamed(transform)) {
    stream_out(output, bytes, n * value_bytes);
  } else {
    __builtin_memcpy(output, bytes, n * value_bytes);
  }
}

// sums: [n_channels, kBlock]. values: [n_channels, n] or [n, n_channels]. Inlined, compilers forget that the two do not
// overlap, and store the usual case value by value.
__attribute__((noinline)) void normalise_block(const Transform& transform, const float* __restrict sums, int32_t n,
                                               float* __restrict values) {
  const Channel* __restrict channels = transform.channels;
  const int32_t n_channels = transform.n_channels;
  if (transform.channels_last && n_channels == 3) {  // the usual case, in a form that compilers vectorise
    const Channel first = channels[0], second = channels[1], third = channels[2];
    for (int32_t i = 0; i < n; ++i) {
      values[3 * i] = normalise(first, sums[i]);
      values[3 * i + 1] = normalise(second, sums[kBlock + i]);
      values[3 * i + 2] = normalise(third, sums[2 * kBlock + i]);
    }
    return;
  }
  const int32_t stride = transform.channels_last ? n_channels : 1;
  for (int32_t c = 0; c < n_channels; ++c) {
    const Channel channel = channels[c];
    float* __restrict output = values + (transform.channels_last ? c : c * n);
    if (stride == 1) {
      for (int32_t i = 0; i < n; ++i) output[i] = normalise(channel, sums[c * kBlock + i]);
    } else {
      for (int32_t i = 0; i < n; ++i) output[i * stride] = normalise(channel, sums[c * kBlock + i]);
    }
  }
}

// values: normalised. first_pixel: of the block, in its slice.
void store(const Transform& transform, const float* values, int32_t n, int64_t first_pixel, int64_t slice_index,
           char* scratch) {
  const int64_t plane = static_cast<int64_t>(transform.size) * transform.size;
  const int64_t n_channels = transform.n_channels, image = slice_index * n_channels * plane;
  if (transform.channels_last) {
    write_out(transform, values, n * n_channels, scratch, image + first_pixel * n_channels);
  } else {
    for (int64_t c = 0; c < n_channels; ++c) {
      write_out(transform, values + c * n, n, scratch, image + c * plane + first_pixel);
    }
  }
}

}  // namespace
}  // namespace rsna
