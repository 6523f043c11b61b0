// Deformable attention for torch's CUDA tensors: the fastest kernel for each shape.
//
// The kernels are in cuda/, step by step; what all bindings share is in
// ms_deform_attn_cuda.h. Nothing here computes.

#include "ms_deform_attn_cuda.h"

namespace {

using namespace detr_steps::cuda;

typedef std::tuple<Tensor, Tensor, Tensor> Three;

template <typename T>
bool start_forward(const Call& call, const T* value, const GivenArrays<Wide<T>>& given,
                   T* result, Stream stream) {
  if constexpr (sizeof(T) < 8)
    if (launch_tiles(call, value, given, result, stream)) return true;
  return launch_naive(call, value, given, result, stream);
}

Tensor forward(const Tensor& value, Shapes shapes, Counts counts,
               const Tensor& locations, const Tensor& weights) {
  return run_forward(value, shapes, counts, GivenTensors{locations, weights},
                     [](auto... given) { return start_forward(given...); });
}

Tensor forward_fused(const Tensor& value, Shapes shapes, Counts counts,
                     const Tensor& references, const Tensor& offsets,
                     const Tensor& logits) {
  return run_forward(value, shapes, counts, AskedTensors{references, offsets, logits},
                     [](auto... given) { return launch_forward(given...); });
}

Three backward(const Tensor& value, Shapes shapes, Counts counts,
               const Tensor& locations, const Tensor& weights, const Tensor& grad,
               bool deterministic) {
  STD_TORCH_CHECK(!deterministic || value.scalar_type() != ScalarType::Double,
                  "ms_deform_attn: torch.use_deterministic_algorithms is on, and on a "
                  "GPU the backward pass has no fixed order in float64: take float32");
  const GivenTensors tensors = {locations, weights};
  if (deterministic)
    return run_backward(
        value, shapes, counts, tensors, grad, Backward::FIXED,
        [](auto... given) { return launch_backward(Backward::FIXED, given...); });
  return run_backward(
      value, shapes, counts, tensors, grad, Backward::NAIVE,
      [](const Call& call, auto... given) {
        return launch_backward(best_backward(call), call, given...) ||
               launch_backward(Backward::VECTORS, call, given...) ||
               launch_backward(Backward::NAIVE, call, given...);
      });
}

Three backward_fused(const Tensor& value, Shapes shapes, Counts counts,
                     const Tensor& references, const Tensor& offsets,
                     const Tensor& logits, const Tensor& grad) {
  return run_backward(
      value, shapes, counts, AskedTensors{references, offsets, logits}, grad,
      Backward::VECTORS, [](const Call& call, auto... given) {
        return launch_backward(best_backward(call), call, given...) ||
               launch_backward(Backward::VECTORS, call, given...);
      });
}

}  // namespace

// What these take and return is defined in detr_steps/ops/ms_deform_attn.py.
STABLE_TORCH_LIBRARY_IMPL(detr_steps, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&backward));
  library.impl("ms_deform_attn_fused", TORCH_BOX(&forward_fused));
  library.impl("ms_deform_attn_fused_backward", TORCH_BOX(&backward_fused));
}
