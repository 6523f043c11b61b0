// Starts backward step "naive", whatever its sums are.

#pragma once

#include "backward_naive.cuh"
#include "launch.h"

namespace detr_steps::cuda {

template <typename T, typename Sums>
bool start_backward_naive(const Call& call, const T* value,
                          const GivenArrays<Wide<T>>& given, const T* grad, Sums sums,
                          const GradArrays<Wide<T>>& grads, Stream stream) {
  if (!call.fits()) return false;
  const int warps = (call.d + 31) / 32;
  const dim3 grid(call.q * call.m, call.b), block(32 * min(warps, MOST_WARPS));
  LAUNCH((backward_naive<T, Sums>), grid, block, stream, call, value, given.locations,
         given.weights, grad, sums, grads.where, grads.weights);
  return true;
}

}  // namespace detr_steps::cuda
