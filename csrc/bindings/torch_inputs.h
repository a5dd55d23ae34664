// Reads and checks the tensors given to our torch operators.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../ct_params.h"

namespace rsna {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check(bool is_good, const std::string& message) {
  if (!is_good) throw std::invalid_argument(message);
}

// Runs `function`; errors about arguments get the prefix by which torch_ops.py tells them from other failures.
template <class Function>
auto naming_the_op(const char* op, const Function& function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string(op) + ": " + error.what());
  }
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// `sizes`: what the shape must be. A tensor that is not given is good.
inline void check_host_tensor(const std::optional<Tensor>& given, const char* name, ScalarType type,
                              std::initializer_list<int64_t> sizes) {
  if (!given.has_value()) return;
  const Tensor& tensor = *given;
  bool is_good = tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == type &&
                 tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t dim = 0;
  for (const int64_t size : sizes) is_good = is_good && tensor.size(dim++) == size;
  const char* type_name = type == ScalarType::Float ? "float32" : type == ScalarType::Long ? "int64" : "int32";
  check(is_good, std::string(name) + " must be a contiguous " + type_name + " tensor of shape " + shape_text(sizes) +
                     " on the CPU");
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

inline OutputType output_type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return OutputType::kFloat32;
    case ScalarType::Half:
      return OutputType::kFloat16;
    case ScalarType::BFloat16:
      return OutputType::kBFloat16;
    case ScalarType::Byte:
      return OutputType::kUInt8;
    default:
      throw std::invalid_argument("dtype must be float32, float16, bfloat16 or uint8");
  }
}

inline std::vector<Pixels> checked_pixels(const Tensor& values, const Tensor& offsets, const Tensor& heights,
                                          const Tensor& widths) {
  check(values.dim() == 1 && values.is_contiguous() && values.scalar_type() == ScalarType::Short,
        "values must be a contiguous int16 tensor of one dimension");
  check(offsets.dim() == 1, "offsets must have one dimension");
  const int64_t n_slices = offsets.size(0);
  check_host_tensor(offsets, "offsets", ScalarType::Long, {n_slices});
  check_host_tensor(heights, "heights", ScalarType::Int, {n_slices});
  check_host_tensor(widths, "widths", ScalarType::Int, {n_slices});
  return make_pixels(values.const_data_ptr<int16_t>(), values.numel(), n_slices, offsets.const_data_ptr<int64_t>(),
                     heights.const_data_ptr<int32_t>(), widths.const_data_ptr<int32_t>());
}

// Returns the number of windows.
inline int32_t check_windows(const Tensor& windows) {
  check(windows.dim() == 2 && windows.size(0) >= 1, "windows must have shape [C, 2] with C at least 1");
  check_host_tensor(windows, "windows", ScalarType::Float, {windows.size(0), 2});
  return static_cast<int32_t>(windows.size(0));
}

}  // namespace rsna
