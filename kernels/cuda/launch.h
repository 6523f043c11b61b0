// How a kernel of each step is started: what there is to call, for a binding that knows
// no CUDA. Each launcher is defined beside its kernels, in one of the .cu files here;
// they are compiled side by side.
//
// All of them return false where the step does not take the shape: then `naive` does,
// as long as call.fits().

#pragma once

#include "call.h"

namespace detr_steps::cuda {

enum class Forward { NAIVE, POINTS, VECTORS, TILES };
enum class Backward { NAIVE, VECTORS, SORTED, FIXED };

// What the fused operator is given, see Asked in points.cuh.
struct AskedArrays {
  const float *references, *offsets, *logits;
  int numbers;  // of a reference: 2 or 4
};

// --- forward ------------------------------------------------------------------------

template <typename T>  // naive.cu
bool launch_naive(const Call& call, const T* value, const Wide<T>* locations,
                  const Wide<T>* weights, T* result, Stream stream);

template <typename T>  // forward_steps.cu, as the next one
bool launch_points(const Call& call, const T* value, const float* locations,
                   const float* weights, T* result, Stream stream);
template <typename T>
bool launch_vectors(const Call& call, const T* value, const float* locations,
                    const float* weights, T* result, Stream stream);

template <typename T>  // forward_tiles.cu, as the next one
bool launch_tiles(const Call& call, const T* value, const float* locations,
                  const float* weights, T* result, Stream stream);
template <typename T>
bool launch_tiles(const Call& call, const T* value, const AskedArrays& asked, T* result,
                  Stream stream);

// One step. No work is no launch: a grid must not be empty.
template <typename T>
bool launch_forward(Forward step, const Call& call, const T* value,
                    const Wide<T>* locations, const Wide<T>* weights, T* result,
                    Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  if (step == Forward::NAIVE)
    return launch_naive(call, value, locations, weights, result, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    if (step == Forward::POINTS)
      return launch_points(call, value, locations, weights, result, stream);
    if (step == Forward::VECTORS)
      return launch_vectors(call, value, locations, weights, result, stream);
    return launch_tiles(call, value, locations, weights, result, stream);
  }
  return false;
}

// The fused operator: softmax and locations in the kernel.
template <typename T>
bool launch_forward_fused(const Call& call, const T* value, const AskedArrays& asked,
                          T* result, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  return launch_tiles(call, value, asked, result, stream);
}

// --- backward -----------------------------------------------------------------------

// Gradients of the value (added to), of locations or offsets, of weights or logits.
template <typename W>
struct GradArrays {
  W *value, *where, *weights;
};

template <typename T>  // naive.cu
bool launch_backward_naive(const Call& call, const T* value, const Wide<T>* locations,
                           const Wide<T>* weights, const T* grad,
                           const GradArrays<Wide<T>>& grads, Stream stream);

template <typename T>  // backward_vectors.cu, as the next one
bool launch_backward_vectors(const Call& call, const T* value, const float* locations,
                             const float* weights, const T* grad,
                             const GradArrays<float>& grads, Stream stream);
template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const AskedArrays& asked,
                             const T* grad, const GradArrays<float>& grads,
                             Stream stream);

template <typename T>  // backward_sorted.cu, as the next two
bool launch_backward_sorted(const Call& call, const T* value, const float* locations,
                            const float* weights, const T* grad,
                            const GradArrays<float>& grads, Stream stream);
template <typename T>
bool launch_backward_sorted(const Call& call, const T* value, const AskedArrays& asked,
                            const T* grad, const GradArrays<float>& grads,
                            Stream stream);
template <typename T>
bool launch_backward_fixed(const Call& call, const T* value, const float* locations,
                           const float* weights, const T* grad,
                           const GradArrays<float>& grads, void* scratch,
                           Stream stream);

// Bytes that a step needs besides its results, zeros at the start.
inline int64_t backward_scratch(Backward step, const Call& call) {
  if (step != Backward::FIXED) return 0;
  return call.map(call.b, 0) * sizeof(long long) + call.b * call.m * sizeof(int);
}

// The fastest step: sorting pays where a block's queries are neighbours. A decoder's
// queries are few and lie anywhere.
inline Backward best_backward(const Call& call) {
  return call.q == call.s ? Backward::SORTED : Backward::VECTORS;
}

// One step. `grad_value` and `scratch` hold zeros at the start. float64 has no fixed.
template <typename T>
bool launch_backward(Backward step, const Call& call, const T* value,
                     const Wide<T>* locations, const Wide<T>* weights, const T* grad,
                     Wide<T>* grad_value, Wide<T>* grad_locations,
                     Wide<T>* grad_weights, void* scratch, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  const GradArrays<Wide<T>> grads = {grad_value, grad_locations, grad_weights};
  if (step == Backward::NAIVE)
    return launch_backward_naive(call, value, locations, weights, grad, grads, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    if (step == Backward::VECTORS)
      return launch_backward_vectors(call, value, locations, weights, grad, grads,
                                     stream);
    if (step == Backward::SORTED)
      return launch_backward_sorted(call, value, locations, weights, grad, grads,
                                    stream);
    return launch_backward_fixed(call, value, locations, weights, grad, grads, scratch,
                                 stream);
  }
  return false;
}

// The fused operator: gradients of offsets and logits. `step`: VECTORS or SORTED.
template <typename T>
bool launch_backward_fused(Backward step, const Call& call, const T* value,
                           const AskedArrays& asked, const T* grad, float* grad_value,
                           float* grad_offsets, float* grad_logits, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  const GradArrays<float> grads = {grad_value, grad_offsets, grad_logits};
  if (step == Backward::VECTORS)
    return launch_backward_vectors(call, value, asked, grad, grads, stream);
  return launch_backward_sorted(call, value, asked, grad, grads, stream);
}

}  // namespace detr_steps::cuda
