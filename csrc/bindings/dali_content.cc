// fn.rsna.content_box: the search for content as a DALI operator, on a CPU and on a GPU.
#include <tuple>

#include "dali_inputs.h"

DALI_SCHEMA(rsna__ContentBox)
    .DocStr(R"(Finds the bounding box of what is not black: of pixels that reach grey level 1 of 255 in any window.

Every sample is one slice [H, W] of int16 HU. The output is int32 [4] per slice: x0, y0, x1, y1 in pixels, x1 and y1
exclusive; all 0 for a slice without content. Example::

    box = fn.rsna.content_box(hu, windows=[40, 80, 80, 200, 600, 2800])
)")
    .NumInput(1)
    .NumOutput(1)
    .InputDox(0, "hu", "TensorList of int16", rsna::kSlicesDoc)
    .AddArg("windows", rsna::kWindowsDoc, ::DALI_FLOAT_VEC);

namespace rsna {
namespace {

// What both devices share.
template <class Backend>
class ContentBox : public dali::Operator<Backend> {
 public:
  explicit ContentBox(const dali::OpSpec& spec) : dali::Operator<Backend>(spec) {
    const auto windows = windows_of(spec);
    threshold_hu_ = content_threshold_hu(static_cast<int32_t>(windows.size() / 2), windows.data());
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& workspace) override {
    slices_ = pixels_of(workspace.Input<Backend>(0));
    const int n_slices = static_cast<int>(slices_.size());
    check_extents(n_slices, slices_.data());
    outputs.assign(1, {dali::uniform_list_shape(n_slices, dali::TensorShape<>{4}), ::DALI_INT32});
    return true;
  }

  // The batch as a kernel takes it; slices are in host memory.
  ContentSearch prepare(dali::Workspace& workspace) {
    auto* boxes = static_cast<int32_t*>(contiguous_raw_mutable_data(workspace.Output<Backend>(0)));
    return {slices_.data(), boxes, static_cast<int64_t>(slices_.size()), threshold_hu_};
  }

  int32_t threshold_hu_;
  std::vector<Pixels> slices_;  // of the batch
};

class ContentBoxCpu : public ContentBox<dali::CPUBackend> {
 public:
  using ContentBox::ContentBox;

 protected:
  void RunImpl(dali::Workspace& workspace) override {
    const ContentSearch search = prepare(workspace);
    auto& pool = workspace.GetThreadPool();
    for (int64_t n = 0; n < search.n_slices; ++n) {
      pool.AddWork([&search, n](int) { find_content_cpu(search, n, n + 1); }, -n);
    }
    pool.RunAll();
  }
};

#ifdef RSNA_WITH_CUDA
class ContentBoxGpu : public ContentBox<dali::GPUBackend> {
 public:
  using ContentBox::ContentBox;

 protected:
  void RunImpl(dali::Workspace& workspace) override {
    ContentSearch search = prepare(workspace);
    if (search.n_slices == 0) return;
    const dali::DeviceGuard guard(workspace.Output<dali::GPUBackend>(0).device_id());
    // Copied by way of pinned memory; both copies are given back in the stream's order, after the kernel has run.
    dali::kernels::DynamicScratchpad scratchpad(dali::AccessOrder(workspace.stream()));
    std::tie(search.slices) = scratchpad.ToContiguousGPU(workspace.stream(), slices_);
    check_cuda(launch_content_cuda(search, workspace.stream()));
  }
};
#endif

}  // namespace
}  // namespace rsna

DALI_REGISTER_OPERATOR(rsna__ContentBox, ::rsna::ContentBoxCpu, ::dali::CPU);
#ifdef RSNA_WITH_CUDA
DALI_REGISTER_OPERATOR(rsna__ContentBox, ::rsna::ContentBoxGpu, ::dali::GPU);
#endif
