// The search for content on the CPU: one pass over the values, which any instruction set does at the memory's speed.
#include <algorithm>
#include <vector>

#include "../ct_slices.h"

namespace rsna {
namespace {

void find_in_slice(const Pixels& slice, int32_t threshold_hu, std::vector<int16_t>& column_max, int32_t* box) {
  int64_t x0 = 0, y0 = slice.height, x1 = slice.width, y1 = 0;
  column_max.assign(slice.width, INT16_MIN);
  int16_t* highest = column_max.data();
  for (int64_t y = 0; y < slice.height; ++y) {
    const int16_t* row = slice.values + y * slice.width;
    int16_t row_max = INT16_MIN;
    for (int64_t x = 0; x < slice.width; ++x) {
      row_max = std::max(row_max, row[x]);
      highest[x] = std::max(highest[x], row[x]);
    }
    if (row_max < threshold_hu) continue;
    y0 = std::min(y0, y);
    y1 = y + 1;
  }
  if (y1 == 0) {
    std::fill_n(box, 4, 0);
    return;
  }
  while (highest[x0] < threshold_hu) ++x0;
  while (highest[x1 - 1] < threshold_hu) --x1;
  const int64_t found[4] = {x0, y0, x1, y1};
  for (int i = 0; i < 4; ++i) box[i] = static_cast<int32_t>(found[i]);
}

}  // namespace

void find_content_cpu(const ContentSearch& search, int64_t begin, int64_t end) {
  std::vector<int16_t> column_max;
  for (int64_t n = begin; n < end; ++n) {
    find_in_slice(search.slices[n], search.threshold_hu, column_max, search.boxes + 4 * n);
  }
}

}  // namespace rsna
