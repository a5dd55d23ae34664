// The kernels as torch operators, on torch's stable ABI: one library serves every torch from 2.11 on.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "torch_results.h"

#ifdef RSNA_WITH_CUDA
#include "capture.h"
#endif

// N slices, C channels, S size.
// values: flat int16 HU of all slices, on the device that computes; all other tensors are small and on the host.
// offsets [N] int64, heights [N] int32, widths [N] int32: where each slice lies among the values.
// affine [N, 2, 3] float32: output pixel (x, y) to input pixel, both counted at pixel centres from 0.
// windows [C, 2] float32: center and width in HU. source_box [N, 3] int32: x0, y0, side of the square that may be seen;
// none: the whole slice. mean, std [C] float32: of the windowed values; none: 0 and 1.
// border: "zero" (0 before normalisation) or "replicate". supersample: k x k samples per output pixel.
// instruction_set: "auto", or one of cpu_instruction_sets(); all give the same bits. Only CPU looks at it.
// Returns [N, C, S, S] of `dtype` (float32, float16, bfloat16 or uint8), in channels-last memory if asked; or writes it
// to `out`, which is just that. uint8: taps become grey levels 0 to 255 before they are interpolated; without mean and
// std. lowest_hu [N] int32: the lowest HU of each slice, whose windowed value is subtracted; none: nothing is.
// content_box returns [N, 4] int32 on the device of the values: x0, y0, x1, y1 (x1 and y1 exclusive) of what reaches
// grey level 1 of 255 in any window; all 0 for a slice without.
// Memory of results on the CPU is used again: idle_memory_bytes says how much has no owner, release_idle_memory returns
// that to the system.
#define RSNA_TRANSFORM_ARGUMENTS                                                                                \
  "Tensor values, Tensor offsets, Tensor heights, Tensor widths, Tensor affine, Tensor windows, *, int size, "  \
  "Tensor? source_box=None, Tensor? mean=None, Tensor? std=None, str border=\"zero\", ScalarType dtype=float, " \
  "bool channels_last=False, int supersample=1, Tensor? lowest_hu=None, str instruction_set=\"auto\""
STABLE_TORCH_LIBRARY(rsna_e2e, library) {
  library.def("transform_slices(" RSNA_TRANSFORM_ARGUMENTS ") -> Tensor");
  library.def("transform_slices_out(" RSNA_TRANSFORM_ARGUMENTS ", Tensor(a!) out) -> ()");
  library.def("content_box(Tensor values, Tensor offsets, Tensor heights, Tensor widths, Tensor windows) -> Tensor");
  library.def("cpu_instruction_sets() -> str");
  library.def("is_cuda_built() -> bool");
  library.def("idle_memory_bytes() -> int");
  library.def("release_idle_memory() -> int");
}
#undef RSNA_TRANSFORM_ARGUMENTS

namespace rsna {
namespace {

constexpr int64_t kRowsPerTask = 64;  // about 0.1 ms of work

// Arguments of the operators, the same on all devices.
struct Arguments {
  const Tensor &values, &offsets, &heights, &widths, &affine, &windows;
  int64_t size;
  const std::optional<Tensor>&source_box, &mean, &std;
  const std::string& border;
  ScalarType dtype;
  bool channels_last;
  int64_t supersample;
  const std::optional<Tensor>& lowest_hu;
  const std::string& instruction_set;
};

// The checked request: slices and channels are on the host, output is beside the values.
struct Prepared {
  std::vector<Slice> slices;
  std::vector<Channel> channels;
  Tensor output;
  Transform transform;
};

Prepared prepare(const Arguments& given, const std::optional<Tensor>& out) {
  const Sampling sampling = make_sampling(given.size, given.supersample);
  const std::vector<Pixels> pixels = checked_pixels(given.values, given.offsets, given.heights, given.widths);
  const int64_t n_slices = given.offsets.size(0), size = given.size;
  const int32_t n_channels = check_windows(given.windows);
  check_host_tensor(given.affine, "affine", ScalarType::Float, {n_slices, 2, 3});
  check_host_tensor(given.source_box, "source_box", ScalarType::Int, {n_slices, 3});
  check_host_tensor(given.mean, "mean", ScalarType::Float, {n_channels});
  check_host_tensor(given.std, "std", ScalarType::Float, {n_channels});
  check_host_tensor(given.lowest_hu, "lowest_hu", ScalarType::Int, {n_slices});
  const OutputType output_type = output_type_of(given.dtype);
  check_mode(output_type, given.mean.has_value() || given.std.has_value(), given.lowest_hu.has_value());
  const ImageLayout layout = {{n_slices, n_channels, size, size}, given.dtype, given.channels_last};
  if (out.has_value()) check_out(*out, layout, given.values);

  Prepared prepared;
  prepared.slices = make_slices({n_slices, pixels.data(), given.affine.const_data_ptr<float>(),
                                 data_or_null<int32_t>(given.source_box), border_of(given.border.c_str()),
                                 static_cast<int32_t>(size), data_or_null<int32_t>(given.lowest_hu)});
  prepared.channels = make_channels(n_channels, given.windows.const_data_ptr<float>(), data_or_null<float>(given.mean),
                                    data_or_null<float>(given.std), static_cast<int32_t>(given.supersample));
  prepared.output = out.has_value() ? *out : new_images(layout, given.values.device());
  prepared.transform = {prepared.slices.data(),
                        prepared.channels.data(),
                        prepared.output.mutable_data_ptr(),
                        n_slices,
                        n_channels,
                        static_cast<int32_t>(size),
                        sampling,
                        output_type,
                        given.channels_last};
  return prepared;
}

Tensor transform_on_cpu(const Arguments& given, const std::optional<Tensor>& out) {
  const CpuKernel kernel = cpu_kernel(given.instruction_set.c_str());
  const Prepared prepared = prepare(given, out);
  const Transform& transform = prepared.transform;
  torch::stable::parallel_for(0, transform.n_slices * transform.size, kRowsPerTask,
                              [&](int64_t begin, int64_t end) { kernel(transform, begin, end); });
  return prepared.output;
}

// The checked request of content_box: slices are on the host, boxes beside the values.
struct PreparedSearch {
  std::vector<Pixels> slices;
  Tensor boxes;
  ContentSearch search;
};

PreparedSearch prepare_search(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                              const Tensor& windows) {
  PreparedSearch prepared;
  prepared.slices = checked_pixels(values, offsets, heights, widths);
  const int32_t n_channels = check_windows(windows);
  const int64_t n_slices = offsets.size(0);
  prepared.boxes = torch::stable::empty({n_slices, 4}, ScalarType::Int, std::nullopt, values.device());
  prepared.search = {prepared.slices.data(), prepared.boxes.mutable_data_ptr<int32_t>(), n_slices,
                     content_threshold_hu(n_channels, windows.const_data_ptr<float>())};
  return prepared;
}

Tensor content_box_cpu(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                       const Tensor& windows) {
  const PreparedSearch prepared =
      naming_the_op("content_box", [&] { return prepare_search(values, offsets, heights, widths, windows); });
  torch::stable::parallel_for(0, prepared.search.n_slices, 1,
                              [&](int64_t begin, int64_t end) { find_content_cpu(prepared.search, begin, end); });
  return prepared.boxes;
}

#ifdef RSNA_WITH_CUDA
void check_cuda(int error, const char* action) {
  if (error != 0) throw std::runtime_error(std::string(action) + " failed: " + cuda_error_text(error));
}

void check_is_on_gpu(const Tensor& values) {
  check(values.is_cuda(), "values must be on the GPU; all other tensors stay on the CPU");
}

// torch's current stream on the values' device, which must be the current one; throws while it is captured.
void* current_stream(const Tensor& values) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(values.get_device_index(), &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("torch named no current CUDA stream");
  }
  refuse_capture(stream);
  return stream;
}

Tensor transform_on_cuda(const Arguments& given, const std::optional<Tensor>& out) {
  check_is_on_gpu(given.values);
  const torch::stable::accelerator::DeviceGuard guard(given.values.get_device_index());
  void* stream = current_stream(given.values);
  const Prepared prepared = prepare(given, out);
  if (prepared.slices.empty()) return prepared.output;

  // One buffer for both arrays. It may be freed before the kernel runs: the allocator reuses it in this stream's order.
  const int64_t slice_bytes = prepared.slices.size() * sizeof(Slice);
  const int64_t channel_bytes = prepared.channels.size() * sizeof(Channel);
  const Tensor constants =
      torch::stable::empty({slice_bytes + channel_bytes}, ScalarType::Byte, std::nullopt, given.values.device());
  char* on_device = static_cast<char*>(constants.mutable_data_ptr());
  check_cuda(upload_cuda(on_device, prepared.slices.data(), slice_bytes, stream), "copying slice parameters");
  check_cuda(upload_cuda(on_device + slice_bytes, prepared.channels.data(), channel_bytes, stream),
             "copying channel parameters");
  Transform transform = prepared.transform;
  transform.slices = reinterpret_cast<const Slice*>(on_device);
  transform.channels = reinterpret_cast<const Channel*>(on_device + slice_bytes);
  check_cuda(launch_cuda(transform, stream), "launching transform_slices");
  return prepared.output;
}

Tensor content_box_cuda(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                        const Tensor& windows) {
  return naming_the_op("content_box", [&] {
    check_is_on_gpu(values);
    const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
    void* stream = current_stream(values);
    const PreparedSearch prepared = prepare_search(values, offsets, heights, widths, windows);
    if (prepared.slices.empty()) return prepared.boxes;
    const int64_t n_bytes = prepared.slices.size() * sizeof(Pixels);
    const Tensor on_device = torch::stable::empty({n_bytes}, ScalarType::Byte, std::nullopt, values.device());
    check_cuda(upload_cuda(on_device.mutable_data_ptr(), prepared.slices.data(), n_bytes, stream),
               "copying slice parameters");
    ContentSearch search = prepared.search;
    search.slices = static_cast<const Pixels*>(on_device.const_data_ptr());
    check_cuda(launch_content_cuda(search, stream), "launching content_box");
    return prepared.boxes;
  });
}
#endif

// The two forms of the operator, for the device on which `compute` does it.
template <Tensor (*compute)(const Arguments&, const std::optional<Tensor>&)>
struct TransformSlices {
  static Tensor to_new(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                       const Tensor& affine, const Tensor& windows, int64_t size,
                       const std::optional<Tensor>& source_box, const std::optional<Tensor>& mean,
                       const std::optional<Tensor>& std, const std::string& border, ScalarType dtype,
                       bool channels_last, int64_t supersample, const std::optional<Tensor>& lowest_hu,
                       const std::string& instruction_set) {
    const Arguments given = {values, offsets, heights, widths, affine,        windows,     size,      source_box,
                             mean,   std,     border,  dtype,  channels_last, supersample, lowest_hu, instruction_set};
    return naming_the_op("transform_slices", [&] { return compute(given, std::nullopt); });
  }

  static void to_out(const Tensor& values, const Tensor& offsets, const Tensor& heights, const Tensor& widths,
                     const Tensor& affine, const Tensor& windows, int64_t size, const std::optional<Tensor>& source_box,
                     const std::optional<Tensor>& mean, const std::optional<Tensor>& std, const std::string& border,
                     ScalarType dtype, bool channels_last, int64_t supersample, const std::optional<Tensor>& lowest_hu,
                     const std::string& instruction_set, const Tensor& out) {
    const Arguments given = {values, offsets, heights, widths, affine,        windows,     size,      source_box,
                             mean,   std,     border,  dtype,  channels_last, supersample, lowest_hu, instruction_set};
    naming_the_op("transform_slices", [&] { return compute(given, out); });
  }
};

std::string instruction_sets() { return cpu_instruction_sets(); }

bool is_cuda_built() {
#ifdef RSNA_WITH_CUDA
  return true;
#else
  return false;
#endif
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CPU, library) {
  library.impl("transform_slices", TORCH_BOX(&TransformSlices<transform_on_cpu>::to_new));
  library.impl("transform_slices_out", TORCH_BOX(&TransformSlices<transform_on_cpu>::to_out));
  library.impl("content_box", TORCH_BOX(&content_box_cpu));
}

#ifdef RSNA_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CUDA, library) {
  library.impl("transform_slices", TORCH_BOX(&TransformSlices<transform_on_cuda>::to_new));
  library.impl("transform_slices_out", TORCH_BOX(&TransformSlices<transform_on_cuda>::to_out));
  library.impl("content_box", TORCH_BOX(&content_box_cuda));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(rsna_e2e, CompositeExplicitAutograd, library) {
  library.impl("cpu_instruction_sets", TORCH_BOX(&instruction_sets));
  library.impl("is_cuda_built", TORCH_BOX(&is_cuda_built));
  library.impl("idle_memory_bytes", TORCH_BOX(&idle_result_bytes));
  library.impl("release_idle_memory", TORCH_BOX(&release_idle_result_memory));
}

}  // namespace rsna
