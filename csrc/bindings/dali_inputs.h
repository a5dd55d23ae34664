// Reads and checks the inputs and arguments of our DALI operators.
#pragma once

#include <dali/pipeline/operator/operator.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../ct_params.h"

#ifdef RSNA_WITH_CUDA
#include <dali/core/device_guard.h>
#include <dali/kernels/dynamic_scratchpad.h>
#endif

namespace rsna {

constexpr const char* kSlicesDoc =
    "Slices [H, W] in Hounsfield units, 1 to 32767 pixels high and wide, and more than one.";
constexpr const char* kWindowsDoc = "Center and width of each window in HU, one after another.";

inline void check(bool is_good, const std::string& message) {
  if (!is_good) throw std::invalid_argument(message);
}

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

// The numbers of an argument that every slice has, [n_slices, shape]; none if it is not given.
template <class T>
std::vector<T> per_slice(const dali::OpSpec& spec, const dali::Workspace& workspace, const char* name, int n_slices,
                         const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  std::vector<T> numbers;
  if (!spec.ArgumentDefined(name)) return numbers;
  if (!spec.HasTensorArgument(name)) {
    const auto constant = spec.GetRepeatedArgument<T>(name);
    check(static_cast<int64_t>(constant.size()) == n,
          std::string(name) + " must have " + std::to_string(n) + " numbers, not " + std::to_string(constant.size()));
    for (int i = 0; i < n_slices; ++i) numbers.insert(numbers.end(), constant.begin(), constant.end());
    return numbers;
  }
  const auto& input = workspace.ArgumentInput(name);
  check(input.num_samples() == n_slices,
        "there are " + std::to_string(n_slices) + " slices and " + std::to_string(input.num_samples()) + " of " + name);
  const char* type_name = std::is_same_v<T, float> ? "float32" : "int32";
  for (int i = 0; i < n_slices; ++i) {
    const auto found = input.tensor_shape(i);
    check(input.type() == dali::type2id<T>::value && std::vector<int64_t>(found.begin(), found.end()) == shape,
          "slice " + std::to_string(i) + ": its " + name + " must be " + type_name + " of shape " + shape_text(shape));
    const T* values = input.tensor<T>(i);
    numbers.insert(numbers.end(), values, values + n);
  }
  return numbers;
}

// The slices of a batch, wherever each of them lies.
template <class Backend>
std::vector<Pixels> pixels_of(const dali::TensorList<Backend>& hu) {
  std::vector<Pixels> pixels;
  if (hu.num_samples() == 0) return pixels;
  check(hu.type() == ::DALI_INT16, "hu must be int16");
  check(hu.sample_dim() == 2,
        "each slice must have shape [H, W], not " + std::to_string(hu.sample_dim()) + " dimensions");
  for (int i = 0; i < hu.num_samples(); ++i) {
    const auto shape = hu.tensor_shape_span(i);
    pixels.push_back({static_cast<const int16_t*>(hu.raw_tensor(i)), shape[0], shape[1]});
  }
  return pixels;
}

template <class T>
const T* data_or_null(const std::vector<T>& numbers) {
  return numbers.empty() ? nullptr : numbers.data();
}

// Center and width of each window.
inline std::vector<float> windows_of(const dali::OpSpec& spec) {
  const auto windows = spec.GetRepeatedArgument<float>("windows");
  check(!windows.empty() && windows.size() % 2 == 0, "windows must be pairs of center and width, at least one");
  return windows;
}

#ifdef RSNA_WITH_CUDA
inline void check_cuda(int error) {
  if (error != 0) throw std::runtime_error(std::string("launching the kernel failed: ") + cuda_error_text(error));
}
#endif

}  // namespace rsna
