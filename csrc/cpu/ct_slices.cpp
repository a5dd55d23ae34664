// The CPU kernel. Compiled once per instruction set, with RSNA_CPU_KERNEL naming the function that comes out.
#include "../ct_slices.h"

#include <memory>

namespace rsna {
namespace {

constexpr int32_t kBlock = 256;  // pixels of a row that are worked on at once; all arrays stay in the L1 cache

// Two neighbouring int16 values, read in one load from an address that is a multiple of 2.
typedef int32_t Pair __attribute__((aligned(2), may_alias));

// What the samples of one block read: per pixel the four taps' weights and HU.
struct Block {
  alignas(64) float weight[4][kBlock];
  alignas(64) float hu[4][kBlock];
};

void gather(const Transform& transform, const Slice& slice, int32_t x_begin, int32_t n, int32_t sub_x, float y,
            Block& block) {
  const int16_t* __restrict pixels = transform.values + slice.offset;
  const int32_t width = slice.width;
  for (int32_t i = 0; i < n; ++i) {
    const float x = sample_position(x_begin + i, sub_x, transform.n_sub, transform.half_step);
    const Taps taps = locate(slice, x, y);
    const int32_t index = taps.y * width + taps.x;
    const int32_t top = *reinterpret_cast<const Pair*>(pixels + index);
    const int32_t bottom = *reinterpret_cast<const Pair*>(pixels + index + width);
    block.weight[0][i] = taps.top_left;
    block.weight[1][i] = taps.top_right;
    block.weight[2][i] = taps.bottom_left;
    block.weight[3][i] = taps.bottom_right;
    block.hu[0][i] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(top) << 16) >> 16);
    block.hu[1][i] = static_cast<float>(top >> 16);
    block.hu[2][i] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(bottom) << 16) >> 16);
    block.hu[3][i] = static_cast<float>(bottom >> 16);
  }
}

void add_samples(const Channel& channel, const Block& block, int32_t n, float* __restrict sums) {
  const Channel constants = channel;
  for (int32_t i = 0; i < n; ++i) {
    const Taps taps = {0, 0, block.weight[0][i], block.weight[1][i], block.weight[2][i], block.weight[3][i]};
    const Quad hu = {block.hu[0][i], block.hu[1][i], block.hu[2][i], block.hu[3][i]};
    sums[i] += sample(constants, taps, hu);
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
    const Channel red = channels[0], green = channels[1], blue = channels[2];
    Type* __restrict output = image + first_pixel * 3;
    for (int32_t i = 0; i < n; ++i) {
      output[3 * i] = Output::convert(normalise(red, sums[i]));
      output[3 * i + 1] = Output::convert(normalise(green, sums[kBlock + i]));
      output[3 * i + 2] = Output::convert(normalise(blue, sums[2 * kBlock + i]));
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
  }
}

}  // namespace

void RSNA_CPU_KERNEL(const Transform& transform, int64_t begin, int64_t end) {
  const int64_t size = transform.size;
  const int64_t n_sums = static_cast<int64_t>(transform.n_channels) * kBlock;
  const std::unique_ptr<float[]> sums(new float[n_sums]);
  Block block;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t slice_index = row / size;
    const int32_t y = static_cast<int32_t>(row % size);
    const Slice slice = transform.slices[slice_index];
    for (int32_t x = 0; x < transform.size; x += kBlock) {
      const int32_t n = transform.size - x < kBlock ? transform.size - x : kBlock;
      for (int64_t i = 0; i < n_sums; ++i) sums[i] = 0.0f;
      for (int32_t sub_y = 0; sub_y < transform.n_sub; ++sub_y) {
        const float sample_y = sample_position(y, sub_y, transform.n_sub, transform.half_step);
        for (int32_t sub_x = 0; sub_x < transform.n_sub; ++sub_x) {
          gather(transform, slice, x, n, sub_x, sample_y, block);
          for (int32_t c = 0; c < transform.n_channels; ++c) {
            add_samples(transform.channels[c], block, n, sums.get() + c * kBlock);
          }
        }
      }
      store_as(transform, sums.get(), n, y * size + x, slice_index);
    }
  }
}

}  // namespace rsna
