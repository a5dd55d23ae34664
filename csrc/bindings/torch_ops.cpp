// torch's face of the kernels, on its stable ABI: one library serves every torch from 2.11 on.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "../ct_params.h"

// N slices, C channels, S size.
// values: flat int16 HU of all slices, on the device that computes; all other tensors are small and on the host.
// offsets [N] int64, heights [N] int32, widths [N] int32: where each slice lies among the values.
// affine [N, 2, 3] float32: output pixel (x, y) to input pixel, both counted at pixel centres from 0.
// windows [C, 2] float32: center and width in HU. source_box [N, 3] int32: x0, y0, side of the square that may be seen;
// none: the whole slice. mean, std [C] float32: of the windowed values; none: 0 and 1.
// border: "zero" (0 before normalisation) or "replicate". supersample: k x k samples per output pixel.
// instruction_set: "auto", or one of cpu_instruction_sets(); all give the same bits. Only CPU looks at it.
// Returns [N, C, S, S] of `dtype` (float32, float16, bfloat16 or uint8), in channels-last memory if asked.
// uint8: taps become grey levels 0 to 255 before they are interpolated; without mean and std. lowest_hu [N] int32: the
// lowest HU of each slice, whose windowed value is subtracted; none: nothing is.
// content_box returns [N, 4] int32 on the device of the values: x0, y0, x1, y1 (x1 and y1 exclusive) of what reaches
// grey level 1 of 255 in any window; all 0 for a slice without.
STABLE_TORCH_LIBRARY(rsna_e2e, library) {
  library.def(
      "transform_slices(Tensor values, Tensor offsets, Tensor heights, Tensor widths, Tensor affine, Tensor windows, "
      "*, "
      "int size, Tensor? source_box=None, Tensor? mean=None, Tensor? std=None, str border=\"zero\", "
      "ScalarType dtype=float, bool channels_last=False, int supersample=1, Tensor? lowest_hu=None, "
      "str instruction_set=\"auto\") -> Tensor");
  library.def("content_box(Tensor values, Tensor offsets, Tensor heights, Tensor widths, Tensor windows) -> Tensor");
  library.def("cpu_instruction_sets() -> str");
  library.def("is_cuda_built() -> bool");
}

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kRowsPerTask = 64;  // about 0.1 ms of work

void check(bool is_good, const std::string& message) {
  if (!is_good) throw std::invalid_argument(message);
}

// Runs `function`; complaints about arguments get the prefix by which ops.py tells them from failures of the machine.
template <class Function>
auto naming_the_op(const char* op, const Function& function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string(op) + ": " + error.what());
  }
}

// `sizes`: what the shape must be.
void check_host_tensor(const Tensor& tensor, const char* name, ScalarType type, std::initializer_list<int64_t> sizes) {
  bool is_good = tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == type &&
                 tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t dim = 0;
  for (const int64_t size : sizes) is_good = is_good && tensor.size(dim++) == size;
  if (is_good) return;
  std::string shape;
  for (const int64_t size : sizes) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  const char* type_name = type == ScalarType::Float ? "float32" : type == ScalarType::Long ? "int64" : "int32";
  check(false,
        std::string(name) + " must be a contiguous " + type_name + " tensor of shape [" + shape + "] on the CPU");
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

rsna::OutputType output_type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return rsna::OutputType::kFloat32;
    case ScalarType::Half:
      return rsna::OutputType::kFloat16;
    case ScalarType::BFloat16:
      return rsna::OutputType::kBFloat16;
    case ScalarType::Byte:
      return rsna::OutputType::kUInt8;
    default:
      throw std::invalid_argument("dtype must be float32, float16, bfloat16 or uint8");
  }
}

std::vector<rsna::Pixels> checked_pixels(const Tensor& values, const Tensor& offsets, const Tensor& heights,
                                         const Tensor& widths) {
  check(values.dim() == 1 && values.is_contiguous() && values.scalar_type() == ScalarType::Short,
        "values must be a contiguous int16 tensor of one dimension");
  check(offsets.dim() == 1, "offsets must have one dimension");
  const int64_t n_slices = offsets.size(0);
  check_host_tensor(offsets, "offsets", ScalarType::Long, {n_slices});
  check_host_tensor(heights, "heights", ScalarType::Int, {n_slices});
  check_host_tensor(widths, "widths", ScalarType::Int, {n_slices});
  return rsna::make_pixels(values.const_data_ptr<int16_t>(), values.numel(), n_slices,
                           offsets.const_data_ptr<int64_t>(), heights.const_data_ptr<int32_t>(),
                           widths.const_data_ptr<int32_t>());
}

// Returns the number of windows.
int32_t check_windows(const Tensor& windows) {
  check(windows.dim() == 2 && windows.size(0) >= 1, "windows must have shape [C, 2] with C at least 1");
  check_host_tensor(windows, "windows", ScalarType::Float, {windows.size(0), 2});
  return static_cast<int32_t>(windows.size(0));
}

// The checked request: slices and channels are on the host, output is allocated beside the values.
struct Prepared {
  std::vector<rsna::Slice> slices;
  std::vector<rsna::Channel> channels;
  Tensor output;
  rsna::Transform transform;
};

Prepared prepare(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                 const Tensor& affine, const Tensor& windows, int64_t size, const std::optional<Tensor>& source_box,
                 const std::optional<Tensor>& mean, const std::optional<Tensor>& std, const std::string& border,
                 ScalarType dtype, bool channels_last, int64_t supersample, const std::optional<Tensor>& lowest_hu) {
  const rsna::Sampling sampling = rsna::make_sampling(size, supersample);
  const std::vector<rsna::Pixels> pixels = checked_pixels(values, offsets, heights, widths);
  const int64_t n_slices = offsets.size(0);
  const int32_t n_channels = check_windows(windows);
  check_host_tensor(affine, "affine", ScalarType::Float, {n_slices, 2, 3});
  if (source_box.has_value()) check_host_tensor(*source_box, "source_box", ScalarType::Int, {n_slices, 3});
  if (mean.has_value()) check_host_tensor(*mean, "mean", ScalarType::Float, {n_channels});
  if (std.has_value()) check_host_tensor(*std, "std", ScalarType::Float, {n_channels});
  if (lowest_hu.has_value()) check_host_tensor(*lowest_hu, "lowest_hu", ScalarType::Int, {n_slices});
  const rsna::OutputType output_type = output_type_of(dtype);
  rsna::check_mode(output_type, mean.has_value() || std.has_value(), lowest_hu.has_value());

  Prepared prepared;
  prepared.slices = rsna::make_slices({n_slices, pixels.data(), affine.const_data_ptr<float>(),
                                       data_or_null<int32_t>(source_box), rsna::border_of(border.c_str()),
                                       static_cast<int32_t>(size), data_or_null<int32_t>(lowest_hu)});
  prepared.channels = rsna::make_channels(n_channels, windows.const_data_ptr<float>(), data_or_null<float>(mean),
                                          data_or_null<float>(std), static_cast<int32_t>(supersample));
  prepared.output =
      torch::stable::empty({n_slices, n_channels, size, size}, dtype, std::nullopt, values.device(), std::nullopt,
                           channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  prepared.transform = {prepared.slices.data(),
                        prepared.channels.data(),
                        prepared.output.mutable_data_ptr(),
                        n_slices,
                        n_channels,
                        static_cast<int32_t>(size),
                        sampling,
                        output_type,
                        channels_last};
  return prepared;
}

Tensor transform_slices_cpu(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                            const Tensor& affine, const Tensor& windows, int64_t size,
                            const std::optional<Tensor>& source_box, const std::optional<Tensor>& mean,
                            const std::optional<Tensor>& std, const std::string& border, ScalarType dtype,
                            bool channels_last, int64_t supersample, const std::optional<Tensor>& lowest_hu,
                            const std::string& instruction_set) {
  return naming_the_op("transform_slices", [&] {
    const rsna::CpuKernel kernel = rsna::cpu_kernel(instruction_set.c_str());
    const Prepared prepared = prepare(values, offsets, heights, widths, affine, windows, size, source_box, mean, std,
                                      border, dtype, channels_last, supersample, lowest_hu);
    const rsna::Transform& transform = prepared.transform;
    torch::stable::parallel_for(0, transform.n_slices * size, kRowsPerTask,
                                [&](int64_t begin, int64_t end) { kernel(transform, begin, end); });
    return prepared.output;
  });
}

// The checked request of content_box: slices are on the host, boxes beside the values.
struct PreparedSearch {
  std::vector<rsna::Pixels> slices;
  Tensor boxes;
  rsna::ContentSearch search;
};

PreparedSearch prepare_search(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                              const Tensor& windows) {
  PreparedSearch prepared;
  prepared.slices = checked_pixels(values, offsets, heights, widths);
  const int32_t n_channels = check_windows(windows);
  const int64_t n_slices = offsets.size(0);
  prepared.boxes = torch::stable::empty({n_slices, 4}, ScalarType::Int, std::nullopt, values.device());
  prepared.search = {prepared.slices.data(), prepared.boxes.mutable_data_ptr<int32_t>(), n_slices,
                     rsna::content_threshold_hu(n_channels, windows.const_data_ptr<float>())};
  return prepared;
}

Tensor content_box_cpu(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                       const Tensor& windows) {
  const PreparedSearch prepared =
      naming_the_op("content_box", [&] { return prepare_search(values, offsets, heights, widths, windows); });
  torch::stable::parallel_for(0, prepared.search.n_slices, 1,
                              [&](int64_t begin, int64_t end) { rsna::find_content_cpu(prepared.search, begin, end); });
  return prepared.boxes;
}

#ifdef RSNA_WITH_CUDA
constexpr const char* kNotOnGpu = "values must be on the GPU; all other tensors stay on the CPU";

void check_cuda(int error, const char* action) {
  if (error != 0) throw std::runtime_error(std::string(action) + " failed: " + rsna::cuda_error_text(error));
}

void* current_stream(const Tensor& values) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(values.get_device_index(), &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("torch named no current CUDA stream");
  }
  return stream;
}

Tensor transform_slices_cuda(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                             const Tensor& affine, const Tensor& windows, int64_t size,
                             const std::optional<Tensor>& source_box, const std::optional<Tensor>& mean,
                             const std::optional<Tensor>& std, const std::string& border, ScalarType dtype,
                             bool channels_last, int64_t supersample, const std::optional<Tensor>& lowest_hu,
                             const std::string&) {
  const Prepared prepared = naming_the_op("transform_slices", [&] {
    check(values.is_cuda(), kNotOnGpu);
    return prepare(values, offsets, heights, widths, affine, windows, size, source_box, mean, std, border, dtype,
                   channels_last, supersample, lowest_hu);
  });
  if (prepared.slices.empty()) return prepared.output;
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  void* stream = current_stream(values);

  // One buffer for both arrays. It may be freed before the kernel runs: the allocator reuses it in this stream's order.
  const int64_t slice_bytes = prepared.slices.size() * sizeof(rsna::Slice);
  const int64_t channel_bytes = prepared.channels.size() * sizeof(rsna::Channel);
  const Tensor constants =
      torch::stable::empty({slice_bytes + channel_bytes}, ScalarType::Byte, std::nullopt, values.device());
  char* on_device = static_cast<char*>(constants.mutable_data_ptr());
  check_cuda(rsna::upload_cuda(on_device, prepared.slices.data(), slice_bytes, stream), "copying slice parameters");
  check_cuda(rsna::upload_cuda(on_device + slice_bytes, prepared.channels.data(), channel_bytes, stream),
             "copying channel parameters");
  rsna::Transform transform = prepared.transform;
  transform.slices = reinterpret_cast<const rsna::Slice*>(on_device);
  transform.channels = reinterpret_cast<const rsna::Channel*>(on_device + slice_bytes);
  check_cuda(rsna::launch_cuda(transform, stream), "launching transform_slices");
  return prepared.output;
}

Tensor content_box_cuda(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                        const Tensor& windows) {
  const PreparedSearch prepared = naming_the_op("content_box", [&] {
    check(values.is_cuda(), kNotOnGpu);
    return prepare_search(values, offsets, heights, widths, windows);
  });
  if (prepared.slices.empty()) return prepared.boxes;
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  void* stream = current_stream(values);
  const int64_t n_bytes = prepared.slices.size() * sizeof(rsna::Pixels);
  const Tensor on_device = torch::stable::empty({n_bytes}, ScalarType::Byte, std::nullopt, values.device());
  check_cuda(rsna::upload_cuda(on_device.mutable_data_ptr(), prepared.slices.data(), n_bytes, stream),
             "copying slice parameters");
  rsna::ContentSearch search = prepared.search;
  search.slices = static_cast<const rsna::Pixels*>(on_device.const_data_ptr());
  check_cuda(rsna::launch_content_cuda(search, stream), "launching content_box");
  return prepared.boxes;
}
#endif

std::string cpu_instruction_sets() { return rsna::cpu_instruction_sets(); }

bool is_cuda_built() {
#ifdef RSNA_WITH_CUDA
  return true;
#else
  return false;
#endif
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CPU, library) {
  library.impl("transform_slices", TORCH_BOX(&transform_slices_cpu));
  library.impl("content_box", TORCH_BOX(&content_box_cpu));
}

#ifdef RSNA_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CUDA, library) {
  library.impl("transform_slices", TORCH_BOX(&transform_slices_cuda));
  library.impl("content_box", TORCH_BOX(&content_box_cuda));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CompositeExplicitAutograd, library) {
  library.impl("cpu_instruction_sets", TORCH_BOX(&cpu_instruction_sets));
  library.impl("is_cuda_built", TORCH_BOX(&is_cuda_built));
}
