// Every step of the CUDA kernels by its name, for chapter 07 and benchmarks/gpu.sh: not
// needed to compute, and so not built to compute (ms_deform_attn_cuda.cpp).

#include "ms_deform_attn_cuda.h"

namespace {

using namespace detr_steps::cuda;

typedef std::tuple<Tensor, Tensor, Tensor> Three;

Forward forward_step(const std::string& name) {
  if (name == "naive") return Forward::NAIVE;
  if (name == "points") return Forward::POINTS;
  if (name == "vectors") return Forward::VECTORS;
  if (name == "tiles") return Forward::TILES;
  STD_TORCH_CHECK(false, "ms_deform_attn: no step ", name,
                  " forward: naive, points, vectors, tiles");
  return Forward::NAIVE;
}

Backward backward_step(const std::string& name) {
  if (name == "naive") return Backward::NAIVE;
  if (name == "vectors") return Backward::VECTORS;
  if (name == "sorted") return Backward::SORTED;
  if (name == "fixed") return Backward::FIXED;
  STD_TORCH_CHECK(false, "ms_deform_attn: no step ", name,
                  " backward: naive, vectors, sorted, fixed");
  return Backward::NAIVE;
}

Tensor forward(const Tensor& value, Shapes shapes, Counts counts,
               const Tensor& locations, const Tensor& weights, std::string name) {
  const Forward step = forward_step(name);
  return run_forward(value, shapes, counts, GivenTensors{locations, weights},
                     [=](auto... given) { return launch_forward(step, given...); });
}

template <typename Tensors>
Three run_backward_step(const Tensor& value, const Shapes& shapes, const Counts& counts,
                        const Tensors& tensors, const Tensor& grad,
                        const std::string& name) {
  const Backward step = backward_step(name);
  return run_backward(value, shapes, counts, tensors, grad, step,
                      [=](auto... given) { return launch_backward(step, given...); });
}

Three backward(const Tensor& value, Shapes shapes, Counts counts,
               const Tensor& locations, const Tensor& weights, const Tensor& grad,
               std::string name) {
  const GivenTensors tensors = {locations, weights};
  return run_backward_step(value, shapes, counts, tensors, grad, name);
}

Three backward_fused(const Tensor& value, Shapes shapes, Counts counts,
                     const Tensor& references, const Tensor& offsets,
                     const Tensor& logits, const Tensor& grad, std::string name) {
  const AskedTensors tensors = {references, offsets, logits};
  return run_backward_step(value, shapes, counts, tensors, grad, name);
}

}  // namespace

// What these take and return is defined in detr_steps/ops/ms_deform_attn.py.
STABLE_TORCH_LIBRARY_IMPL(detr_steps, CUDA, library) {
  library.impl("ms_deform_attn_step", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_backward_step", TORCH_BOX(&backward));
  library.impl("ms_deform_attn_fused_backward_step", TORCH_BOX(&backward_fused));
}
