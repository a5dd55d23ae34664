#include "ct_params.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

namespace rsna {
namespace {

constexpr int32_t kMaxExtent = 32767;  // height * width stays within int32, the kernels' index inside a slice
constexpr int64_t kMaxSize = 16384;
constexpr int64_t kMaxSupersample = 16;
constexpr double kMaxCoordinate = 1e9;  // far from overflow in fp32
constexpr double kMaxWidth = 1e9;       // of a window; its reciprocal stays far from fp32's subnormals
constexpr double kSingular = 1e-6;      // |determinant| over the size of its terms; fp32 resolves 1e-7

void check(bool is_good, const char* what, int64_t index, const char* problem) {
  if (!is_good) throw std::invalid_argument(std::string(what) + " " + std::to_string(index) + ": " + problem);
}

// What may be seen of this axis is the square [square_low, square_high] as far as the slice reaches; not empty.
// All results are counted from the anchor.
Axis make_axis(int64_t extent, int64_t anchor, Border border, int64_t square_low, int64_t square_high) {
  const int64_t low = std::max<int64_t>(square_low, 0);
  const int64_t high = std::min<int64_t>(square_high, extent - 1);
  // One pixel beyond what may be seen every weight is 0, so there is no need to go further.
  const bool replicate = border == Border::kReplicate;
  const int64_t clamp_low = replicate ? std::max(square_low, low - 1) : low - 1;
  const int64_t clamp_high = replicate ? std::min(square_high, high + 1) : high + 1;
  const bool is_single = low == high;
  const bool is_second = is_single && high == extent - 1;
  const int64_t pair_low = is_second ? low - 1 : low;
  const int64_t pair_high = is_single ? pair_low : high - 1;
  return {static_cast<float>(clamp_low - anchor),
          static_cast<float>(clamp_high - anchor),
          static_cast<float>(pair_low - anchor),
          static_cast<float>(pair_high - anchor),
          is_second ? 0.0f : 1.0f,
          is_single && !is_second ? 0.0f : 1.0f};
}

// Moves the origin of a matrix row to the output's centre and to a pixel of the slice, the anchor, which it returns.
int64_t move_origin(const float* row, double centre, int64_t extent, float* to_axis) {
  const double middle = row[0] * centre + row[1] * centre + row[2];
  const int64_t anchor = std::clamp<int64_t>(std::llround(middle), 0, extent - 1);
  to_axis[0] = row[0];
  to_axis[1] = row[1];
  to_axis[2] = static_cast<float>(middle - static_cast<double>(anchor));
  return anchor;
}

void check_extent(int64_t height, int64_t width, int64_t n) {
  check(std::min(height, width) >= 1 && std::max(height, width) >= 2 && std::max(height, width) <= kMaxExtent, "slice",
        n, "height and width must be 1 to 32767 pixels, and one of them at least 2");
}

// Samples read 2 x 2 pixels. A single row is read twice, at a distance of 0; a single column is a row that was turned.
// What lies outside has no weight.
void read_single_row_twice(Slice& slice, int64_t height) {
  if (height > 1 && slice.width > 1) return;
  if (height > 1) {
    std::swap(slice.to_x, slice.to_y);
    std::swap(slice.x, slice.y);
  }
  slice.width = 0;
}

void check_matrix(const float* matrix, int32_t size, int64_t n) {
  for (int i = 0; i < 6; ++i) check(std::isfinite(matrix[i]), "slice", n, "its affine matrix is not finite");
  for (int row = 0; row < 2; ++row) {
    const double reach = (std::abs(double(matrix[3 * row])) + std::abs(double(matrix[3 * row + 1]))) * size +
                         std::abs(double(matrix[3 * row + 2]));
    check(reach < kMaxCoordinate, "slice", n, "its affine matrix leads more than 1e9 pixels away");
  }
  const double main = double(matrix[0]) * matrix[4];
  const double cross = double(matrix[1]) * matrix[3];
  check(std::abs(main - cross) > kSingular * (std::abs(main) + std::abs(cross)), "slice", n,
        "its affine matrix is singular");
}

}  // namespace

Border border_of(const char* name) {
  const std::string border = name;
  if (border == "zero") return Border::kZero;
  if (border == "replicate") return Border::kReplicate;
  throw std::invalid_argument("border is \"" + border + "\"; it must be \"zero\" or \"replicate\"");
}

Sampling make_sampling(int64_t size, int64_t n_sub) {
  if (size < 1 || size > kMaxSize) throw std::invalid_argument("size must be 1 to 16384");
  if (n_sub < 1 || n_sub > kMaxSupersample) throw std::invalid_argument("supersample must be 1 to 16");
  return {static_cast<int32_t>(n_sub), 0.5f / static_cast<float>(n_sub), 0.5f * static_cast<float>(size - 1)};
}

std::vector<Pixels> make_pixels(const int16_t* values, int64_t n_values, int64_t n_slices, const int64_t* offsets,
                                const int32_t* heights, const int32_t* widths) {
  std::vector<Pixels> pixels(n_slices);
  for (int64_t n = 0; n < n_slices; ++n) {
    const int64_t height = heights[n], width = widths[n], offset = offsets[n];
    check_extent(height, width, n);
    check(offset >= 0 && offset <= n_values - height * width, "slice", n, "its offset and size lie outside the values");
    pixels[n] = {values + offset, height, width};
  }
  return pixels;
}

void check_extents(int64_t n_slices, const Pixels* pixels) {
  for (int64_t n = 0; n < n_slices; ++n) check_extent(pixels[n].height, pixels[n].width, n);
}

std::vector<Slice> make_slices(const SliceParams& params) {
  std::vector<Slice> slices(params.n_slices);
  const double centre = make_sampling(params.size, 1).centre;
  for (int64_t n = 0; n < params.n_slices; ++n) {
    const auto [values, height, width] = params.pixels[n];
    check_extent(height, width, n);
    const float* matrix = params.affine + 6 * n;
    check_matrix(matrix, params.size, n);

    int64_t x0 = 0, y0 = 0, x1 = width, y1 = height;
    if (params.source_box != nullptr) {
      const int32_t* box = params.source_box + 3 * n;
      check(box[2] >= 1, "slice", n, "the side of its source box must be at least 1");
      x0 = box[0], y0 = box[1], x1 = x0 + box[2], y1 = y0 + box[2];
      check(x0 < width && y0 < height && x1 > 0 && y1 > 0, "slice", n, "its source box lies outside the slice");
    }
    Slice& slice = slices[n];
    const int64_t anchor_x = move_origin(matrix, centre, width, slice.to_x);
    const int64_t anchor_y = move_origin(matrix + 3, centre, height, slice.to_y);
    slice.anchor = values + anchor_y * width + anchor_x;
    slice.width = static_cast<int32_t>(width);
    slice.x = make_axis(width, anchor_x, params.border, x0, x1 - 1);
    slice.y = make_axis(height, anchor_y, params.border, y0, y1 - 1);
    read_single_row_twice(slice, height);
    slice.lowest_hu = kNoLowestHu;
    if (params.lowest_hu != nullptr) {
      const int32_t lowest_hu = params.lowest_hu[n];
      check(lowest_hu == static_cast<int16_t>(lowest_hu), "slice", n, "its lowest HU must be -32768 to 32767");
      slice.lowest_hu = static_cast<float>(lowest_hu);
    }
  }
  return slices;
}

std::vector<Channel> make_channels(int32_t n_channels, const float* windows, const float* mean, const float* std,
                                   int32_t n_sub) {
  std::vector<Channel> channels(n_channels);
  for (int32_t c = 0; c < n_channels; ++c) {
    const double center = windows[2 * c], width = windows[2 * c + 1];
    const double channel_mean = mean == nullptr ? 0.0 : mean[c], channel_std = std == nullptr ? 1.0 : std[c];
    Channel& channel = channels[c];
    // PS3.3 C.11.2.1.3.2 (LINEAR_EXACT): the window begins at center - width / 2. The sum of n_sub^2 samples becomes
    // their mean in the same multiplication that normalises it. 0.0f + x turns -0 into 0.
    channel.lower = center - width / 2.0;
    channel.width = width;
    channel.inv_width = static_cast<float>(1.0 / width);
    channel.bias = static_cast<float>(-channel.lower * channel.inv_width);
    channel.scale = static_cast<float>(1.0 / (channel_std * n_sub * n_sub));
    channel.shift = 0.0f + static_cast<float>(-channel_mean / channel_std);
    check(width > 0.0 && width <= kMaxWidth && std::isfinite(channel.inv_width), "window", c,
          "its width must be above 0 and at most 1e9");
    check(std::isfinite(channel.bias), "window", c, "its center must be finite and not absurdly far for its width");
    check(channel_std > 0.0 && std::isfinite(channel.scale) && channel.scale > 0.0f, "channel", c,
          "its std must be finite and above 0");
    check(std::isfinite(channel.shift), "channel", c, "its mean must be finite");
  }
  return channels;
}

void check_mode(OutputType output_type, bool has_mean_or_std, bool has_lowest_hu) {
  const bool is_grey = output_type == OutputType::kUInt8;
  if (is_grey && has_mean_or_std) throw std::invalid_argument("mean and std must be left out with dtype uint8");
  if (!is_grey && has_lowest_hu) throw std::invalid_argument("lowest_hu is for dtype uint8 only; leave it out");
}

int32_t content_threshold_hu(int32_t n_channels, const float* windows) {
  double threshold = 32768.0;  // above every HU
  for (const Channel& channel : make_channels(n_channels, windows, nullptr, nullptr, 1)) {
    // Grey level floor(255 * (hu - lower) / width) is 1 from here on.
    threshold = std::min(threshold, std::ceil(channel.lower + channel.width / 255.0));
  }
  return static_cast<int32_t>(std::max(threshold, -32768.0));
}

}  // namespace rsna
