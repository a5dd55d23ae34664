// The CPU kernel. Compiled once per instruction set, with RSNA_CPU_KERNEL naming the function that comes out.
// All its functions are internal, and it uses no templates of the standard library: of a function that several objects
// share, the linker keeps one, which may be the one that this CPU cannot run.
#include "../ct_slices.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace rsna {
namespace {

constexpr int32_t kBlock = 256;  // pixels of a row that are worked on at once; all arrays stay in the L1 cache
constexpr int32_t kStep = 16;    // pixels about which find_inside decides at once

// Two neighbouring int16 values, read in one load from an address that is a multiple of 2.
typedef int32_t PixelPair __attribute__((aligned(2), may_alias));

// An array that lives as long as its variable.
struct Floats {
  explicit Floats(int64_t n) : data(new float[static_cast<size_t>(n)]) {}
  ~Floats() { delete[] data; }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* const data;
};

// What one sample of each pixel of a block reads: the upper and the lower pair of pixels, and the taps' weights.
struct Block {
  alignas(64) int32_t upper[kBlock];
  alignas(64) int32_t lower[kBlock];
  alignas(64) float weight[4][kBlock];
};

// Pixels [begin, end) of a block.
struct Range {
  int32_t begin, end;
};

// Constants are copied to local variables before each loop: compilers then see that no store changes them.

// x: the samples' positions in the output, which all have the same y.
template <bool kIsInside>
void read_taps(const Slice& slice_in_memory, const float* __restrict x, float y, Range range, Block& __restrict block) {
  const Slice slice = slice_in_memory;
  const int16_t* const upper = slice.anchor;
  const int16_t* const lower = upper + slice.width;
  for (int32_t i = range.begin; i < range.end; ++i) {
    const Taps taps = locate<kIsInside>(slice, x[i], y);
    block.upper[i] = *reinterpret_cast<const PixelPair*>(upper + taps.index);
    block.lower[i] = *reinterpret_cast<const PixelPair*>(lower + taps.index);
    block.weight[0][i] = taps.top_left;
    block.weight[1][i] = taps.top_right;
    block.weight[2][i] = taps.bottom_left;
    block.weight[3][i] = taps.bottom_right;
  }
}

// A pair's pixels in HU times 65536, which costs less to unpack. Windows are scaled to that, which is exact.
constexpr float kPerHu = 65536.0f;

RSNA_INLINE float left_of(int32_t pair) {
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(pair) << 16));
}
RSNA_INLINE float right_of(int32_t pair) { return static_cast<float>(static_cast<int32_t>(pair & 0xffff0000u)); }

// Adds a sample to each of n pixels, or begins their sums with it, for kChannels channels; sums: kBlock apart.
template <int kChannels, bool kIsGrey, bool kIsFirst>
void add_samples(const Slice& slice, const Channel* channels_in_memory, const Block& __restrict block, int32_t n,
                 float* __restrict sums) {
  Channel channels[kChannels];
  double darkest[kChannels];
  for (int c = 0; c < kChannels; ++c) {
    channels[c] = channels_in_memory[c];
    darkest[c] = kIsGrey ? window_exactly(channels[c], slice.lowest_hu) : 0.0;
    if (!kIsGrey) channels[c].inv_width *= 1.0f / kPerHu;
  }
  const float scale = kIsGrey ? 1.0f / kPerHu : 1.0f;
  for (int32_t i = 0; i < n; ++i) {
    const Taps taps = {0, block.weight[0][i], block.weight[1][i], block.weight[2][i], block.weight[3][i]};
    const Quad hu = {left_of(block.upper[i]) * scale, right_of(block.upper[i]) * scale, left_of(block.lower[i]) * scale,
                     right_of(block.lower[i]) * scale};
#pragma GCC unroll 3
    for (int c = 0; c < kChannels; ++c) {
      const float value = kIsGrey ? sample_grey(channels[c], darkest[c], taps, hu) : sample(channels[c], taps, hu);
      sums[c * kBlock + i] = kIsFirst ? value : sums[c * kBlock + i] + value;
    }
  }
}

// The same for all channels. Three, the usual number, share one loop.
template <bool kIsGrey, bool kIsFirst>
void add_to_all(const Transform& transform, const Slice& slice, const Block& block, int32_t n, float* sums) {
  int32_t c = 0;
  for (; c + 3 <= transform.n_channels; c += 3) {
    add_samples<3, kIsGrey, kIsFirst>(slice, transform.channels + c, block, n, sums + c * kBlock);
  }
  for (; c < transform.n_channels; ++c) {
    add_samples<1, kIsGrey, kIsFirst>(slice, transform.channels + c, block, n, sums + c * kBlock);
  }
}

// The part of n pixels of output row y, up to a step at each end, where is_inside holds for all samples. first, last:
// positions of each pixel's first and last sample.
Range find_inside(const Sampling& sampling, const Slice& slice, const float* first, const float* last, int32_t n,
                  int32_t y) {
  const float first_y = sample_position(sampling, y, 0);
  const float last_y = sample_position(sampling, y, sampling.n_sub - 1);
  const auto is_column_inside = [&](float x) {
    return is_inside(slice, x, first_y) && (sampling.n_sub == 1 || is_inside(slice, x, last_y));
  };
  Range range = {0, n};
  while (range.begin < n && !is_column_inside(first[range.begin])) range.begin += kStep;
  while (range.end > range.begin && !is_column_inside(last[range.end - 1])) range.end -= kStep;
  return range.begin < range.end ? range : Range{n, n};
}

// Sums of the samples of n pixels of output row y: [n_channels, kBlock]. positions: of the first pixel's samples in x;
// those of the next sample of every pixel are `size` further.
void sum_samples(const Transform& transform, const Slice& slice, const float* positions, int32_t n, int32_t y,
                 Block& block, float* sums) {
  const int32_t n_sub = transform.sampling.n_sub;
  const bool is_grey = transform.output_type == OutputType::kUInt8;
  const Range inside =
      find_inside(transform.sampling, slice, positions, positions + (n_sub - 1) * transform.size, n, y);
  for (int32_t sub_y = 0; sub_y < n_sub; ++sub_y) {
    const float sample_y = sample_position(transform.sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < n_sub; ++sub_x) {
      const float* x = positions + sub_x * transform.size;
      if (0 < inside.begin) read_taps<false>(slice, x, sample_y, {0, inside.begin}, block);
      if (inside.begin < inside.end) read_taps<true>(slice, x, sample_y, inside, block);
      if (inside.end < n) read_taps<false>(slice, x, sample_y, {inside.end, n}, block);
      const bool is_first = sub_y == 0 && sub_x == 0;
      const auto add = is_grey ? (is_first ? add_to_all<true, true> : add_to_all<true, false>)
                               : (is_first ? add_to_all<false, true> : add_to_all<false, false>);
      add(transform, slice, block, n, sums);
    }
  }
}

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

// sums: [n_channels, kBlock]. values: [n_channels, n] or [n, n_channels].
void normalise_block(const Transform& transform, const float* __restrict sums, int32_t n, float* __restrict values) {
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

void RSNA_CPU_KERNEL(const Transform& transform, int64_t begin, int64_t end) {
  const int32_t size = transform.size, n_sub = transform.sampling.n_sub;
  const int64_t block_values = static_cast<int64_t>(transform.n_channels) * kBlock;
  const Floats sums(block_values), values(block_values), scratch(block_values);
  const Floats positions(static_cast<int64_t>(n_sub) * size);  // [n_sub, size]: the same for every row
  for (int32_t sub = 0; sub < n_sub; ++sub) {
    for (int32_t x = 0; x < size; ++x) positions.data[sub * size + x] = sample_position(transform.sampling, x, sub);
  }
  Block block;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t slice_index = row / size;
    const int32_t y = static_cast<int32_t>(row % size);
    for (int32_t x = 0; x < size; x += kBlock) {
      const int32_t n = size - x < kBlock ? size - x : kBlock;
      sum_samples(transform, transform.slices[slice_index], positions.data + x, n, y, block, sums.data);
      normalise_block(transform, sums.data, n, values.data);
      store(transform, values.data, n, static_cast<int64_t>(y) * size + x, slice_index,
            reinterpret_cast<char*>(scratch.data));
    }
  }
#ifdef __SSE2__
  _mm_sfence();  // streamed values are seen by whoever sees that this function has returned
#endif
}

}  // namespace rsna
