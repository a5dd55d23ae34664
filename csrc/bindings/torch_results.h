// Output of a torch operator: a new tensor, or one that the caller gives.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <array>

#include "result_memory.h"
#include "torch_inputs.h"

namespace rsna {

using torch::headeronly::MemoryFormat;

// Images [N, C, S, S] as the caller wants them.
struct ImageLayout {
  std::array<int64_t, 4> sizes;
  ScalarType dtype;
  bool channels_last;

  std::array<int64_t, 4> strides() const {
    const auto [n, channels, height, width] = sizes;
    const int64_t all = channels * height * width;
    if (channels_last) return {all, 1, width * channels, channels};
    return {all, height * width, width, 1};
  }

  int64_t n_bytes() const {
    const int64_t value_bytes = dtype == ScalarType::Float ? 4 : dtype == ScalarType::Byte ? 1 : 2;
    return sizes[0] * sizes[1] * sizes[2] * sizes[3] * value_bytes;
  }
};

// A new tensor with any content.
inline Tensor new_images(const ImageLayout& layout, const torch::stable::Device& device) {
  const int64_t n_bytes = layout.n_bytes();
  if (!device.is_cpu() || n_bytes < kKeptFrom) {
    const auto format = layout.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    return torch::stable::empty(layout.sizes, layout.dtype, std::nullopt, device, std::nullopt, format);
  }
  void* data = take_result_memory(n_bytes);
  return torch::stable::from_blob(data, layout.sizes, layout.strides(), device, layout.dtype,
                                  [n_bytes](void* begin) { give_back_result_memory(begin, n_bytes); });
}

// Throws unless `out` is laid out as a new tensor would be, and apart from the values that it is made of.
inline void check_out(const Tensor& out, const ImageLayout& layout, const Tensor& values) {
  check(out.device() == values.device(), "out must be on the device of the values");
  check(out.scalar_type() == layout.dtype, "out must have the type that dtype says");
  bool is_good = out.dim() == 4;
  for (int64_t dim = 0; is_good && dim < 4; ++dim) is_good = out.size(dim) == layout.sizes[dim];
  check(is_good, "out must have shape " + shape_text(layout.sizes));
  const auto strides = layout.strides();
  for (int64_t dim = 0; dim < 4; ++dim) is_good = is_good && (out.size(dim) < 2 || out.stride(dim) == strides[dim]);
  check(is_good || out.numel() == 0,
        layout.channels_last ? "out must be in channels-last memory, without gaps" : "out must be contiguous");
  const auto begins = [](const Tensor& tensor) { return reinterpret_cast<intptr_t>(tensor.const_data_ptr()); };
  const intptr_t out_end = begins(out) + layout.n_bytes();
  const intptr_t values_end = begins(values) + values.numel() * static_cast<int64_t>(sizeof(int16_t));
  check(out_end <= begins(values) || values_end <= begins(out), "out must not share memory with the values");
}

}  // namespace rsna
