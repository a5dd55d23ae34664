"""Peak rate of the matrix units of some GPUs, from NVIDIA's data sheets: dense, without sparsity."""

from rsna_e2e.core.device import Compute

# Start of torch's name of a GPU -> TFLOPS in bf16 and in fp16, with float32 sums. From NVIDIA's data sheets: H200 and
# H100 Tensor Core GPU (SXM; half of what they print "with sparsity"), A100 Tensor Core GPU, Tesla V100 (SXM2).
_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H200": {"bf16": 989.0, "fp16": 989.0},
    "NVIDIA H100 80GB HBM3": {"bf16": 989.0, "fp16": 989.0},
    "NVIDIA A100": {"bf16": 312.0, "fp16": 312.0},
    "Tesla V100-SXM2": {"fp16": 125.0},
}
_SLOWER = ("NVL", "PCIe")  # cards of the same name with lower clocks, where the name says so
_SAME_AS_CARD = "NVIDIA A100"  # its PCIe card has the same figure


def matrix_peak_tflops(gpu: str, precision: str) -> float | None:
    """Return the peak of a GPU by torch's name for it, None where it is not known."""
    if any(word in gpu for word in _SLOWER) and not gpu.startswith(_SAME_AS_CARD):
        return None
    return next((peaks.get(precision) for name, peaks in _TFLOPS.items() if gpu.startswith(name)), None)


def peak_of(compute: Compute) -> float | None:
    """Return the peak of the device that a run computes on, in its precision."""
    gpu, _, precision = str(compute).rpartition(", ")
    return matrix_peak_tflops(gpu, precision)
