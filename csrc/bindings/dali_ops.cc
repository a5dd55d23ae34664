// fn.rsna.transform_slices: the kernels as a DALI operator, on a CPU and on a GPU, with one launch for a whole batch.
#include <algorithm>
#include <tuple>

#include "dali_inputs.h"

// The schema is the manual: it is what help(fn.rsna.transform_slices) prints.
DALI_SCHEMA(rsna__TransformSlices)
    .DocStr(R"(Windows, resamples and normalises CT slices into network input, in one pass.

Every sample is one slice [H, W] of int16 HU; slices of a batch may differ in size. For each output pixel the four
neighbouring input pixels are windowed, interpolated bilinearly, and the result is normalised::

    windowed = clip((hu - (center - width / 2)) / width, 0, 1)         # DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT
    output[c] = (bilinear(windowed[c]) - mean[c]) / std[c]

The output is [C, size, size] or [size, size, C], dense for the whole batch, so that torch takes it by DLPack without a
copy. CPU and GPU give the same bits, whatever the number of threads. A CUDA graph that is captured beside a running
pipeline needs capture_error_mode="thread_local": DALI frees memory behind a cudaDeviceSynchronize of a thread of its own,
which ends a capture in the global mode. Example::

    images = fn.rsna.transform_slices(
        hu, affine=affine, windows=[40, 80, 80, 200, 600, 2800], size=480, mean=[0.19, 0.23, 0.18], std=[0.32, 0.29, 0.22]
    )
)")
    .NumInput(1)
    .NumOutput(1)
    .InputDox(0, "hu", "TensorList of int16", rsna::kSlicesDoc)
    .AddArg("affine", R"(Float32 [2, 3] of each slice: output pixel (x, y) to input pixel, both counted at pixel centres
from 0: input_x = a[0, 0] * x + a[0, 1] * y + a[0, 2], input_y likewise by the second row. Six numbers serve all slices.
Neutral: [1, 0, 0, 0, 1, 0].)",
            ::DALI_FLOAT_VEC, true)
    .AddArg("windows", std::string(rsna::kWindowsDoc) + " Each window makes one channel.", ::DALI_FLOAT_VEC)
    .AddArg("size", "Rows and columns of the output, in pixels.", ::DALI_INT32)
    .AddOptionalArg<std::vector<int>>("source_box",
                                      R"(Int32 [3] of each slice: x0, y0, side of a square in input pixels.
What lies outside it is not seen: it is 0, or with border "replicate" the square's edge. Neutral: not given.)",
                                      nullptr, true)
    .AddOptionalArg<std::vector<float>>("mean", "Per channel, of the windowed values. Neutral: 0.", nullptr)
    .AddOptionalArg<std::vector<float>>("std", "Per channel, of the windowed values. Neutral: 1.", nullptr)
    .AddOptionalArg("border", R"(What lies outside the slice: "zero" (0 before normalisation) or "replicate".)", "zero")
    .AddOptionalTypeArg("dtype", R"(Type of the output: FLOAT, FLOAT16, UINT16 or UINT8. UINT16 holds the bits of
bfloat16, of which DALI has no type. UINT8 is the published reference's way: every tap becomes a grey level
trunc(255 * windowed), and the interpolated level is rounded; without mean and std.)",
                        ::DALI_FLOAT)
    .AddOptionalArg<std::vector<int>>("lowest_hu", R"(Int32 of each slice, with dtype UINT8 only: the slice's lowest HU,
whose windowed value is subtracted from every tap's. Neutral: not given.)",
                                      nullptr, true)
    .AddOptionalArg("output_layout", R"("CHW" or "HWC"; torch calls the latter channels last, once permuted.)",
                    ::dali::TensorLayout("CHW"))
    .AddOptionalArg("supersample", "Takes the mean of k x k samples per output pixel, against aliasing. Neutral: 1.",
                    1);

namespace rsna {
namespace {

constexpr int64_t kRowsPerTask = 256;  // about 0.3 ms of work

OutputType output_type_of(dali::DALIDataType type) {
  switch (type) {
    case ::DALI_FLOAT:
      return OutputType::kFloat32;
    case ::DALI_FLOAT16:
      return OutputType::kFloat16;
    case ::DALI_UINT16:
      return OutputType::kBFloat16;
    case ::DALI_UINT8:
      return OutputType::kUInt8;
    default:
      throw std::invalid_argument("dtype must be FLOAT, FLOAT16, UINT16 (the bits of bfloat16) or UINT8");
  }
}

bool is_channels_last(const dali::TensorLayout& layout) {
  check(layout == "CHW" || layout == "HWC",
        "output_layout is \"" + std::string(layout.c_str()) + "\"; it must be \"CHW\" or \"HWC\"");
  return layout == "HWC";
}

// One number per channel; none if the argument is not given.
std::vector<float> per_channel(const dali::OpSpec& spec, const char* name, size_t n_channels) {
  if (!spec.ArgumentDefined(name)) return {};
  const auto numbers = spec.GetRepeatedArgument<float>(name);
  check(numbers.size() == n_channels, std::string(name) + " must have one number per window");
  return numbers;
}

std::vector<Channel> channels_of(const dali::OpSpec& spec, int32_t n_sub) {
  const auto windows = windows_of(spec);
  const size_t n_channels = windows.size() / 2;
  const auto mean = per_channel(spec, "mean", n_channels), std = per_channel(spec, "std", n_channels);
  return make_channels(static_cast<int32_t>(n_channels), windows.data(), data_or_null(mean), data_or_null(std), n_sub);
}

// What both devices share: arguments are read once, then each batch is checked before memory for it is asked for.
template <class Backend>
class TransformSlices : public dali::Operator<Backend> {
 public:
  explicit TransformSlices(const dali::OpSpec& spec)
      : dali::Operator<Backend>(spec),
        type_(spec.GetArgument<dali::DALIDataType>("dtype")),
        layout_(spec.GetArgument<dali::TensorLayout>("output_layout")),
        border_(border_of(spec.GetArgument<std::string>("border").c_str())),
        sampling_(make_sampling(spec.GetArgument<int>("size"), spec.GetArgument<int>("supersample"))),
        channels_(channels_of(spec, sampling_.n_sub)),
        transform_{nullptr,
                   channels_.data(),
                   nullptr,
                   0,
                   static_cast<int32_t>(channels_.size()),
                   spec.GetArgument<int>("size"),
                   sampling_,
                   output_type_of(type_),
                   is_channels_last(layout_)} {
    check_mode(transform_.output_type, spec.ArgumentDefined("mean") || spec.ArgumentDefined("std"),
               spec.ArgumentDefined("lowest_hu"));
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& workspace) override {
    const std::vector<Pixels> pixels = pixels_of(workspace.Input<Backend>(0));
    const int n_slices = static_cast<int>(pixels.size());
    const auto affine = per_slice<float>(this->spec_, workspace, "affine", n_slices, {2, 3});
    const auto boxes = per_slice<int32_t>(this->spec_, workspace, "source_box", n_slices, {3});
    const auto lowest_hu = per_slice<int32_t>(this->spec_, workspace, "lowest_hu", n_slices, {});
    slices_ = make_slices({n_slices, pixels.data(), affine.data(), data_or_null(boxes), border_, transform_.size,
                           data_or_null(lowest_hu)});
    const int64_t size = transform_.size, n_channels = transform_.n_channels;
    const dali::TensorShape<> shape = transform_.channels_last ? dali::TensorShape<>{size, size, n_channels}
                                                               : dali::TensorShape<>{n_channels, size, size};
    outputs.assign(1, {dali::uniform_list_shape(n_slices, shape), type_});
    return true;
  }

  // The batch as a kernel takes it; slices and channels are in host memory.
  Transform prepare(dali::Workspace& workspace) {
    auto& output = workspace.Output<Backend>(0);
    output.SetLayout(layout_);
    Transform transform = transform_;
    transform.slices = slices_.data();
    transform.n_slices = static_cast<int64_t>(slices_.size());
    transform.output = contiguous_raw_mutable_data(output);
    return transform;
  }

  const dali::DALIDataType type_;
  const dali::TensorLayout layout_;
  const Border border_;
  const Sampling sampling_;
  const std::vector<Channel> channels_;
  const Transform transform_;  // all but the batch
  std::vector<Slice> slices_;  // of the batch
};

class TransformSlicesCpu : public TransformSlices<dali::CPUBackend> {
 public:
  explicit TransformSlicesCpu(const dali::OpSpec& spec) : TransformSlices(spec), kernel_(cpu_kernel("auto")) {}

 protected:
  void RunImpl(dali::Workspace& workspace) override {
    const Transform transform = prepare(workspace);
    auto& pool = workspace.GetThreadPool();
    // Ranges of rows, not slices: a batch of few slices keeps every thread busy too.
    const int64_t n_rows = transform.n_slices * transform.size;
    for (int64_t begin = 0; begin < n_rows; begin += kRowsPerTask) {
      const int64_t end = std::min(begin + kRowsPerTask, n_rows);
      pool.AddWork([this, &transform, begin, end](int) { kernel_(transform, begin, end); }, -begin);
    }
    pool.RunAll();
  }

 private:
  const CpuKernel kernel_;
};

#ifdef RSNA_WITH_CUDA
class TransformSlicesGpu : public TransformSlices<dali::GPUBackend> {
 public:
  using TransformSlices::TransformSlices;

 protected:
  void RunImpl(dali::Workspace& workspace) override {
    Transform transform = prepare(workspace);
    if (transform.n_slices == 0) return;
    const dali::DeviceGuard guard(workspace.Output<dali::GPUBackend>(0).device_id());
    // Copied by way of pinned memory; both copies are given back in the stream's order, after the kernel has run.
    dali::kernels::DynamicScratchpad scratchpad(dali::AccessOrder(workspace.stream()));
    std::tie(transform.slices, transform.channels) = scratchpad.ToContiguousGPU(workspace.stream(), slices_, channels_);
    check_cuda(launch_cuda(transform, workspace.stream()));
  }
};
#endif

}  // namespace
}  // namespace rsna

DALI_REGISTER_OPERATOR(rsna__TransformSlices, ::rsna::TransformSlicesCpu, ::dali::CPU);
#ifdef RSNA_WITH_CUDA
DALI_REGISTER_OPERATOR(rsna__TransformSlices, ::rsna::TransformSlicesGpu, ::dali::GPU);
#endif
