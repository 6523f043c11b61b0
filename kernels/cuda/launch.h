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

// Where the points lie and what they weigh; see Given in points.cuh.
template <typename W>
struct GivenArrays {
  const W *locations, *weights;
};

// What the fused operator takes in their place; see Asked in points.cuh.
struct AskedArrays {
  const float *references, *offsets, *logits;
  int numbers;  // of a reference: 2 or 4
};

// Gradients of the value (added to), of locations or offsets, of weights or logits.
template <typename W>
struct GradArrays {
  W *value, *where, *weights;
};

// No work is no launch: a grid must not be empty.
inline bool no_work(const Call& call) {
  return call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0;
}

// --- forward ------------------------------------------------------------------------

template <typename T>  // naive.cu
bool launch_naive(const Call& call, const T* value, const GivenArrays<Wide<T>>& given,
                  T* result, Stream stream);

template <typename T>  // forward_steps.cu, as the next one
bool launch_points(const Call& call, const T* value, const GivenArrays<float>& given,
                   T* result, Stream stream);
template <typename T>
bool launch_vectors(const Call& call, const T* value, const GivenArrays<float>& given,
                    T* result, Stream stream);

// `Arrays`: GivenArrays<float>, or AskedArrays for the fused operator.
template <typename T, typename Arrays>  // forward_tiles.cu
bool launch_tiles(const Call& call, const T* value, const Arrays& arrays, T* result,
                  Stream stream);

// One step.
template <typename T>
bool launch_forward(Forward step, const Call& call, const T* value,
                    const GivenArrays<Wide<T>>& given, T* result, Stream stream) {
  if (no_work(call)) return true;
  if (step == Forward::NAIVE) return launch_naive(call, value, given, result, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    if (step == Forward::POINTS)
      return launch_points(call, value, given, result, stream);
    if (step == Forward::VECTORS)
      return launch_vectors(call, value, given, result, stream);
    return launch_tiles(call, value, given, result, stream);
  }
  return false;
}

// The fused operator: softmax and locations in the kernel.
template <typename T>
bool launch_forward(const Call& call, const T* value, const AskedArrays& asked,
                    T* result, Stream stream) {
  return no_work(call) || launch_tiles(call, value, asked, result, stream);
}

// --- backward -----------------------------------------------------------------------

template <typename T>  // naive.cu
bool launch_backward_naive(const Call& call, const T* value,
                           const GivenArrays<Wide<T>>& given, const T* grad,
                           const GradArrays<Wide<T>>& grads, Stream stream);

template <typename T, typename Arrays>  // backward_vectors.cu
bool launch_backward_vectors(const Call& call, const T* value, const Arrays& arrays,
                             const T* grad, const GradArrays<float>& grads,
                             Stream stream);

template <typename T, typename Arrays>  // backward_sorted.cu, as the next one
bool launch_backward_sorted(const Call& call, const T* value, const Arrays& arrays,
                            const T* grad, const GradArrays<float>& grads,
                            Stream stream);
template <typename T>
bool launch_backward_fixed(const Call& call, const T* value,
                           const GivenArrays<float>& given, const T* grad,
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

// One step. `grads.value` and `scratch` hold zeros at the start. float64 has no fixed.
template <typename T>
bool launch_backward(Backward step, const Call& call, const T* value,
                     const GivenArrays<Wide<T>>& given, const T* grad,
                     const GradArrays<Wide<T>>& grads, void* scratch, Stream stream) {
  if (no_work(call)) return true;
  if (step == Backward::NAIVE)
    return launch_backward_naive(call, value, given, grad, grads, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    if (step == Backward::VECTORS)
      return launch_backward_vectors(call, value, given, grad, grads, stream);
    if (step == Backward::SORTED)
      return launch_backward_sorted(call, value, given, grad, grads, stream);
    return launch_backward_fixed(call, value, given, grad, grads, scratch, stream);
  }
  return false;
}

// The fused operator: gradients of offsets and logits. `step`: VECTORS or SORTED.
template <typename T>
bool launch_backward(Backward step, const Call& call, const T* value,
                     const AskedArrays& asked, const T* grad,
                     const GradArrays<float>& grads, void*, Stream stream) {
  if (no_work(call)) return true;
  if (step == Backward::VECTORS)
    return launch_backward_vectors(call, value, asked, grad, grads, stream);
  return launch_backward_sorted(call, value, asked, grad, grads, stream);
}

}  // namespace detr_steps::cuda
