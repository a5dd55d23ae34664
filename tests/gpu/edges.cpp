// Compares the two forms of locate, bit by bit, where is_inside says that they agree: at coordinates that are, to
// within some units in the last place, at the edges of what may be read, and where an index just fits into fp32. Usage:
// edges SEED N_SLICES   prints how many samples were compared and how many of them lay within a pixel of an edge; or
// the first that differs, and ends with 1.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "csrc/ct_params.h"

namespace {

using namespace rsna;

std::mt19937_64 generator;

int64_t draw(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(generator() % static_cast<uint64_t>(high - low + 1));
}

template <class T>
T pick(std::initializer_list<T> choices) {
  return choices.begin()[draw(0, static_cast<int64_t>(choices.size()) - 1)];
}

// Upright, turned by right angles or by any, of either hand.
void draw_linear(float scale, float* to_x, float* to_y) {
  const float turn = draw(0, 3) == 0 ? static_cast<float>(draw(0, 6283)) / 1000.0f : 0.0f;
  const float flip = pick({-1.0f, 1.0f}), cosine = scale * std::cos(turn), sine = scale * std::sin(turn);
  const bool is_swapped = draw(0, 1) != 0;
  to_x[is_swapped] = flip * cosine;
  to_x[!is_swapped] = -sine;
  to_y[is_swapped] = flip * sine;
  to_y[!is_swapped] = cosine;
}

// Moves an axis so that output position (x, y) maps to `target`, or some units in the last place beside it.
void aim(float* to_axis, float x, float y, float target) {
  to_axis[2] = target - std::fma(to_axis[0], x, to_axis[1] * y);
  const float away = pick({-INFINITY, INFINITY});
  for (int64_t n = draw(0, 3); n > 0; --n) to_axis[2] = std::nextafter(to_axis[2], away);
}

// A pixel that is an edge of an axis, or of where an index is exact: 2^24 values from the anchor.
float draw_target(const Axis& axis, float width, bool is_row) {
  const float exact = std::floor(16777216.0f / width);
  const float edge = is_row && draw(0, 1) ? pick({-1.0f, 1.0f}) * (exact - static_cast<float>(draw(1, 3)))
                                          : pick({axis.pair_low, axis.pair_high, axis.pair_high + 1.0f});
  return edge + static_cast<float>(draw(-1, 1)) * pick({0.0f, 0.5f, 1.0f});
}

struct Counts {
  long long n_compared = 0, n_at_edge = 0;
};

bool is_near(const Axis& axis, float coordinate) {
  return coordinate < axis.pair_low + 1.0f || coordinate >= axis.pair_high;
}

// Along a row of the output from x to x + 2 n, as the kernels decide: what is inside at both ends is inside between.
bool compare_row(const Slice& slice, float x, float y, int32_t n, Counts& counts) {
  if (!is_inside(slice, x, y) || !is_inside(slice, x + static_cast<float>(2 * n), y)) return true;
  for (int32_t i = 0; i <= 2 * n; ++i) {
    const float at = x + static_cast<float>(i);
    const Taps fast = locate<true>(slice, at, y), slow = locate<false>(slice, at, y);
    ++counts.n_compared;
    counts.n_at_edge += is_near(slice.x, source_coordinate(slice.to_x, at, y)) ||
                        is_near(slice.y, source_coordinate(slice.to_y, at, y));
    if (std::memcmp(&fast, &slow, sizeof fast) == 0) continue;
    std::printf("width %d, x %a, y %a: index %d and %d, weights %a %a %a %a and %a %a %a %a\n", slice.width,
                static_cast<double>(source_coordinate(slice.to_x, at, y)),
                static_cast<double>(source_coordinate(slice.to_y, at, y)), fast.index, slow.index,
                static_cast<double>(fast.top_left), static_cast<double>(fast.top_right),
                static_cast<double>(fast.bottom_left), static_cast<double>(fast.bottom_right),
                static_cast<double>(slow.top_left), static_cast<double>(slow.top_right),
                static_cast<double>(slow.bottom_left), static_cast<double>(slow.bottom_right));
    return false;
  }
  return true;
}

bool compare_slice(Counts& counts) {
  const int64_t height = pick<int64_t>({2, 3, 53, 512, 4096, 4098, 32767}),
                width = pick<int64_t>({2, 40, 512, 4096, 32767});
  const Pixels pixels = {nullptr, height, width};
  const int32_t size = static_cast<int32_t>(pick({1, 2, 33, 480, 16384}));
  const int32_t n = static_cast<int32_t>(draw(0, 40));
  const float centre = make_sampling(size, 1).centre;
  const float to_first_pixel[6] = {1.0f, 0.0f, -centre, 0.0f, 1.0f, -centre};  // so that axes count from there
  const int32_t side = static_cast<int32_t>(draw(1, 40));
  const int32_t box[3] = {static_cast<int32_t>(draw(0, width - 1)), static_cast<int32_t>(draw(0, height - 1)), side};
  const auto border = pick({Border::kZero, Border::kReplicate});
  Slice slice = make_slices({1, &pixels, to_first_pixel, draw(0, 3) == 0 ? box : nullptr, border, size})[0];
  // The anchor may be any pixel of the slice.
  const float shift_x = static_cast<float>(draw(0, width - 1)), shift_y = static_cast<float>(draw(0, height - 1));
  for (Axis* axis : {&slice.x, &slice.y}) {
    const float shift = axis == &slice.x ? shift_x : shift_y;
    for (float* bound : {&axis->clamp_low, &axis->clamp_high, &axis->pair_low, &axis->pair_high}) *bound -= shift;
  }
  const Sampling sampling = make_sampling(size, 1);
  const float x = sample_position(sampling, static_cast<int32_t>(draw(0, size - 1)), 0);
  const float y = sample_position(sampling, static_cast<int32_t>(draw(0, size - 1)), 0);
  draw_linear(pick({0.001f, 0.3f, 1.0f, 1.0f, 1.07f, 7.0f}), slice.to_x, slice.to_y);
  // Aimed at is one of the row's ends.
  const float end = draw(0, 1) ? x : x + static_cast<float>(2 * n);
  aim(slice.to_x, end, y, draw_target(slice.x, static_cast<float>(width), false));
  aim(slice.to_y, end, y, draw_target(slice.y, static_cast<float>(width), true));
  return compare_row(slice, x, y, n, counts);
}

}  // namespace

int main(int, char** arguments) {
  generator.seed(static_cast<uint64_t>(std::atoll(arguments[1])));
  Counts counts;
  for (long long i = std::atoll(arguments[2]); i > 0; --i) {
    if (!compare_slice(counts)) return 1;
  }
  std::printf("%lld %lld\n", counts.n_compared, counts.n_at_edge);
}
