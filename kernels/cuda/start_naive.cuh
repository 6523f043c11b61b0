// Starts backward step "naive", whatever its sums are.

#pragma once

#include "backward_naive.cuh"

namespace detr_steps::cuda {

template <typename T, typename Sums>
bool start_backward_naive(const Call& call, const T* value, const Wide<T>* locations,
                          const Wide<T>* weights, const T* grad, Sums sums,
                          Wide<T>* grad_locations, Wide<T>* grad_weights,
                          Stream stream) {
  if (!call.fits()) return false;
  const int warps = (call.d + 31) / 32;
  const dim3 grid(call.q * call.m, call.b), block(32 * min(warps, MOST_WARPS));
  LAUNCH((backward_naive<T, Sums>), grid, block, stream, call, value, locations,
         weights, grad, sums, grad_locations, grad_weights);
  return true;
}

}  // namespace detr_steps::cuda
