// Chooses, of the compiled CPU kernels, the best that this CPU can run.
#include <stdexcept>
#include <string>

#include "../ct_slices.h"

namespace rsna {

void transform_rows_baseline(const Transform& transform, int64_t begin, int64_t end);

#ifdef RSNA_X86_64_VARIANTS
void transform_rows_v3(const Transform& transform, int64_t begin, int64_t end);
void transform_rows_v4(const Transform& transform, int64_t begin, int64_t end);

namespace {

bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace
#else
namespace {
constexpr CpuKernel transform_rows_v3 = nullptr, transform_rows_v4 = nullptr;
bool has_v3() { return false; }
bool has_v4() { return false; }
}  // namespace
#endif

const char* cpu_instruction_sets() {
  return has_v4() ? "x86-64-v4 x86-64-v3 baseline" : has_v3() ? "x86-64-v3 baseline" : "baseline";
}

CpuKernel cpu_kernel(const char* instruction_set) {
  const std::string name = instruction_set;
  const bool is_auto = name == "auto";
  if (has_v4() && (is_auto || name == "x86-64-v4")) return transform_rows_v4;
  if (has_v3() && (is_auto || name == "x86-64-v3")) return transform_rows_v3;
  if (is_auto || name == "baseline") return transform_rows_baseline;
  throw std::invalid_argument("instruction set \"" + name + "\" is not available; this machine runs: auto " +
                              cpu_instruction_sets());
}

}  // namespace rsna
