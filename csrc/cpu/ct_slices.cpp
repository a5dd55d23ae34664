// The CPU kernel. Compiled once per instruction set, with RSNA_CPU_KERNEL naming the function that comes out.
// All its functions are internal, and it uses no templates of the standard library: of a function that several objects
// share, the linker keeps one, which may be the one that this CPU cannot run.
#include "../ct_slices.h"

namespace rsna {
namespace {

constexpr int32_t kBlock = 256;  // pixels of a row that are worked on at once; all arrays stay in the L1 cache
constexpr int32_t kStep = 32;    // pixels about which one decision is made

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
  alignas(64) PixelPair upper[kBlock];
  alignas(64) PixelPair lower[kBlock];
  alignas(64) float weight[4][kBlock];
};

// Pixels [begin, end) of a block.
struct Range {
  int32_t begin, end;
};

// Takes steps off both ends of a range for as long as they are idle: is_idle(first pixel, last pixel).
template <class Predicate>
RSNA_INLINE Range trim(Range range, const Predicate& is_idle) {
  while (range.begin < range.end) {
    const int32_t next = range.begin + kStep < range.end ? range.begin + kStep : range.end;
    if (!is_idle(range.begin, next - 1)) break;
    range.begin = next;
  }
  while (range.begin < range.end) {
    const int32_t next = range.end - kStep > range.begin ? range.end - kStep : range.begin;
    if (!is_idle(next, range.end - 1)) break;
    range.end = next;
  }
  return range;
}

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

// A pair's pixels in HU times 65536, which costs less to unpack.
constexpr float kPerHu = 65536.0f;
RSNA_INLINE float left_of(PixelPair pair) {
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(pair) << 16));
}
RSNA_INLINE float right_of(PixelPair pair) { return static_cast<float>(static_cast<int32_t>(pair & 0xffff0000u)); }

template <int kChannels, bool kIsGrey>
void add_samples(const Slice& slice, const Channel* channels_in_memory, const Block& __restrict block, Range range,
                 float* __restrict sums) {
  Channel channels[kChannels];
  double darkest[kChannels];
  for (int c = 0; c < kChannels; ++c) {
    channels[c] = channels_in_memory[c];
    darkest[c] = kIsGrey ? window_exactly(channels[c], slice.lowest_hu) : 0.0;
    if (!kIsGrey) channels[c].inv_width *= 1.0f / kPerHu;
  }
  const float scale = kIsGrey ? 1.0f / kPerHu : 1.0f;
  for (int32_t i = range.begin; i < range.end; ++i) {
    const Taps taps = {0, block.weight[0][i], block.weight[1][i], block.weight[2][i], block.weight[3][i]};
    const Quad hu = {left_of(block.upper[i]) * scale, right_of(block.upper[i]) * scale, left_of(block.lower[i]) * scale,
                     right_of(block.lower[i]) * scale};
#pragma GCC unroll 3
    for (int c = 0; c < kChannels; ++c) {
      sums[c * kBlock + i] += kIsGrey ? sample_grey(channels[c], darkest[c], taps, hu) : sample(channels[c], taps, hu);
    }
  }
}

// Sums of the samples of n pixels of output row y: [n_channels, kBlock]. positions: of the first pixel's samples in x;
// those of the next sample of every pixel are `size` further.
void sum_samples(const Transform& transform, const Slice& slice, const float* positions, int32_t n, int32_t y,
                 Block& block, float* sums) {
  const bool is_grey = transform.output_type == OutputType::kUInt8;
  for (int32_t c = 0; c < transform.n_channels; ++c) __builtin_memset(sums + c * kBlock, 0, n * sizeof(float));
  for (int32_t sub_y = 0; sub_y < transform.sampling.n_sub; ++sub_y) {
    const float sample_y = sample_position(transform.sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < transform.sampling.n_sub; ++sub_x) {
      const float* x = positions + sub_x * transform.size;
      const Range seen = trim({0, n}, [&](int32_t first, int32_t last) {
        const int32_t side_x = side_of(slice.x, source_coordinate(slice.to_x, x[first], sample_y));
        const int32_t side_y = side_of(slice.y, source_coordinate(slice.to_y, x[first], sample_y));
        return (side_x != 0 && side_x == side_of(slice.x, source_coordinate(slice.to_x, x[last], sample_y))) ||
               (side_y != 0 && side_y == side_of(slice.y, source_coordinate(slice.to_y, x[last], sample_y)));
      });
      const Range inside = trim(seen, [&](int32_t first, int32_t last) {
        return !(is_inside(slice, x[first], sample_y) && is_inside(slice, x[last], sample_y));
      });
      if (seen.begin < inside.begin) read_taps<false>(slice, x, sample_y, {seen.begin, inside.begin}, block);
      if (inside.begin < inside.end) read_taps<true>(slice, x, sample_y, inside, block);
      if (inside.end < seen.end) read_taps<false>(slice, x, sample_y, {inside.end, seen.end}, block);
      for (int32_t c = 0; c < transform.n_channels;) {
        const bool is_group = c + 3 <= transform.n_channels;
        const auto add = is_group ? (is_grey ? add_samples<3, true> : add_samples<3, false>)
                                  : (is_grey ? add_samples<1, true> : add_samples<1, false>);
        add(slice, transform.channels + c, block, seen, sums + c * kBlock);
        c += is_group ? 3 : 1;
      }
    }
  }
}

struct AsFloat32 {
  using Type = float;
  static RSNA_INLINE float convert(float value) { return value; }
};
struct AsFloat16 {
  using Type = uint16_t;
  static RSNA_INLINE uint16_t convert(float value) { return to_float16(value); }
};
struct AsBFloat16 {
  using Type = uint16_t;
  static RSNA_INLINE uint16_t convert(float value) { return to_bfloat16(value); }
};

struct AsUInt8 {
  using Type = uint8_t;
  static RSNA_INLINE uint8_t convert(float value) { return to_uint8(value); }
};

// sums: [n_channels, kBlock]. output: the first channel of the block's first pixel.
template <class Output>
void store(const Transform& transform, const float* __restrict sums, int32_t n, int64_t first_pixel,
           int64_t slice_index) {
  using Type = typename Output::Type;
  const int64_t plane = static_cast<int64_t>(transform.size) * transform.size;
  const int32_t n_channels = transform.n_channels;
  Type* __restrict image = static_cast<Type*>(transform.output) + slice_index * n_channels * plane;
  const Channel* __restrict channels = transform.channels;
  if (transform.channels_last && n_channels == 3) {  // the usual case, in a form that compilers vectorise
    const Channel first = channels[0], second = channels[1], third = channels[2];
    Type* __restrict output = image + first_pixel * 3;
    for (int32_t i = 0; i < n; ++i) {
      output[3 * i] = Output::convert(normalise(first, sums[i]));
      output[3 * i + 1] = Output::convert(normalise(second, sums[kBlock + i]));
      output[3 * i + 2] = Output::convert(normalise(third, sums[2 * kBlock + i]));
    }
    return;
  }
  for (int32_t c = 0; c < n_channels; ++c) {
    const Channel channel = channels[c];
    const float* __restrict channel_sums = sums + c * kBlock;
    if (transform.channels_last) {
      Type* __restrict output = image + first_pixel * n_channels + c;
      for (int32_t i = 0; i < n; ++i)
        output[static_cast<int64_t>(i) * n_channels] = Output::convert(normalise(channel, channel_sums[i]));
    } else {
      Type* __restrict output = image + c * plane + first_pixel;
      for (int32_t i = 0; i < n; ++i) output[i] = Output::convert(normalise(channel, channel_sums[i]));
    }
  }
}

void store_as(const Transform& transform, const float* sums, int32_t n, int64_t first_pixel, int64_t slice_index) {
  switch (transform.output_type) {
    case OutputType::kFloat32:
      return store<AsFloat32>(transform, sums, n, first_pixel, slice_index);
    case OutputType::kFloat16:
      return store<AsFloat16>(transform, sums, n, first_pixel, slice_index);
    case OutputType::kBFloat16:
      return store<AsBFloat16>(transform, sums, n, first_pixel, slice_index);
    case OutputType::kUInt8:
      return store<AsUInt8>(transform, sums, n, first_pixel, slice_index);
  }
}

}  // namespace

void RSNA_CPU_KERNEL(const Transform& transform, int64_t begin, int64_t end) {
  const int32_t size = transform.size, n_sub = transform.sampling.n_sub;
  const Floats sums(static_cast<int64_t>(transform.n_channels) * kBlock);
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
      store_as(transform, sums.data, n, static_cast<int64_t>(y) * size + x, slice_index);
    }
  }
}

}  // namespace rsna
