// The binding of the CUDA kernels as it is, for tensors of a CPU and without kernels:
// what it checks, allocates, launches and gives back (tests/ops/test_binding.py).

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define detr_steps pretended  // the operators' namespace: ours are on the CPU already
#define is_cuda is_cpu
#define CUDA CPU
#include "ms_deform_attn_cuda.cpp"
#include "launchers.h"
#undef CUDA
#undef is_cuda

// --- what only a torch with CUDA has ------------------------------------------------

namespace {
int guards = 0, streams = 0;
std::string told;
}  // namespace

extern "C" {

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(&guards);
  ++guards;
  return 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --guards;
  return 0;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  streams += guards;  // only while the tensors' GPU is the current one
  *stream = nullptr;
  return 0;
}

// --- for Python ---------------------------------------------------------------------

// What was launched since the last call, and whether the right GPU was current.
const char* told_launches() {
  auto& launched = pretended::cuda::launched;
  told = launched.str();
  if (!told.empty() && streams == 0) told += "no stream; ";
  if (guards != 0) told += "a guard is left; ";
  launched.str(""), streams = 0;
  return told.c_str();
}

void fail_next_launch() { next_error = 9; }
}
