// The CPU kernel. Compiled once per instruction set, with RSNA_CPU_KERNEL naming the function that comes out.
// All its functions are internal, and it uses no templates of the standard library: of a function that several objects
// share, the linker keeps one, which may be the one that this CPU cannot run.
#include "../ct_slices.h"

namespace rsna {
namespace {

constexpr int32_t kBlock = 256;  // pixels of a row that are worked on at once; all arrays stay in the L1 cache

// Two neighbouring int16 values, read in one load from an address that is a multiple of 2.
typedef int32_t Pair __attribute__((aligned(2), may_alias));

// What one sample of each pixel of a block reads: where, and per tap its weight and HU.
struct Block {
  alignas(64) int32_t index[kBlock];  // of the top left tap, from the anchor
  alignas(64) float weight[4][kBlock];
  alignas(64) float hu[4][kBlock];
};

// An array that lives as long as its variable.
struct Floats {
  explicit Floats(int64_t n) : data(new float[static_cast<size_t>(n)]) {}
  ~Floats() { delete[] data; }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* const data;
};

// Constants are copied to local variables before each loop: compilers then see that no store changes them.

// x: the n samples' positions in the output, which all have the same y.
void locate_taps(const Slice& slice_in_memory, const float* __restrict x, int32_t n, float y, Block& __restrict block) {
  const Slice slice = slice_in_memory;
  for (int32_t i = 0; i < n; ++i) {
    const Taps taps = locate(slice, x[i], y);
    block.index[i] = taps.y * slice.width + taps.x;
    block.weight[0][i] = taps.top_left;
    block.weight[1][i] = taps.top_right;
    block.weight[2][i] = taps.bottom_left;
    block.weight[3][i] = taps.bottom_right;
  }
}

void read_pairs(const int16_t* pixels, const int32_t* __restrict index, int32_t n, float* __restrict left,
                float* __restrict right) {
  for (int32_t i = 0; i < n; ++i) {
    const int32_t pair = *reinterpret_cast<const Pair*>(pixels + index[i]);
    left[i] = static_cast<float>(static_cast<int16_t>(pair));
    right[i] = static_cast<float>(pair >> 16);
  }
}

template <bool kIsGrey, bool kIsFirst>
void add_samples(const Slice& slice, const Channel& channel_in_memory, const Block& __restrict block, int32_t n,
                 float* __restrict sums) {
  const Channel channel = channel_in_memory;
  const double darkest = kIsGrey ? window_exactly(channel, slice.lowest_hu) : 0.0;
  for (int32_t i = 0; i < n; ++i) {
    const Taps taps = {0, 0, block.weight[0][i], block.weight[1][i], block.weight[2][i], block.weight[3][i]};
    const Quad hu = {block.hu[0][i], block.hu[1][i], block.hu[2][i], block.hu[3][i]};
    const float value = kIsGrey ? sample_grey(channel, darkest, taps, hu) : sample(channel, taps, hu);
    sums[i] = kIsFirst ? value : sums[i] + value;
  }
}

// Sums of the samples of n pixels of output row y: [n_channels, kBlock]. positions: of the first pixel's samples in x;
// those of the next sample of every pixel are `size` further.
void sum_samples(const Transform& transform, const Slice& slice, const float* positions, int32_t n, int32_t y,
                 Block& block, float* sums) {
  for (int32_t sub_y = 0; sub_y < transform.sampling.n_sub; ++sub_y) {
    const float sample_y = sample_position(transform.sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < transform.sampling.n_sub; ++sub_x) {
      locate_taps(slice, positions + sub_x * transform.size, n, sample_y, block);
      read_pairs(slice.anchor, block.index, n, block.hu[0], block.hu[1]);
      read_pairs(slice.anchor + slice.width, block.index, n, block.hu[2], block.hu[3]);
      const bool is_first = sub_y == 0 && sub_x == 0;
      const auto add = transform.output_type == OutputType::kUInt8
                           ? (is_first ? add_samples<true, true> : add_samples<true, false>)
                           : (is_first ? add_samples<false, true> : add_samples<false, false>);
      for (int32_t c = 0; c < transform.n_channels; ++c) {
        add(slice, transform.channels[c], block, n, sums + c * kBlock);
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
