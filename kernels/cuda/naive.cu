// Starts step "naive", forward and backward: small kernels, all types at once.

#include "forward_naive.cuh"
#include "launch.h"
#include "start_naive.cuh"

namespace detr_steps::cuda {

template <typename T>
bool launch_naive(const Call& call, const T* value, const GivenArrays<Wide<T>>& given,
                  T* result, Stream stream) {
  constexpr int THREADS = 256;
  if (!call.fits()) return false;
  const dim3 grid(blocks(int64_t(call.q) * call.m * call.d, THREADS), call.b);
  LAUNCH((forward_naive<T>), grid, dim3(THREADS), stream, call, value, given.locations,
         given.weights, result);
  return true;
}

template <typename T>
bool launch_backward_naive(const Call& call, const T* value,
                           const GivenArrays<Wide<T>>& given, const T* grad,
                           const GradArrays<Wide<T>>& grads, Stream stream) {
  const Floating<Wide<T>> sums = {grads.value};
  return start_backward_naive(call, value, given, grad, sums, grads, stream);
}

#if defined(__CUDACC__)
#define INSTANTIATE(T)                                                                 \
  template bool launch_naive(const Call&, const T*, const GivenArrays<Wide<T>>&, T*,   \
                             Stream);                                                  \
  template bool launch_backward_naive(const Call&, const T*,                           \
                                      const GivenArrays<Wide<T>>&, const T*,           \
                                      const GradArrays<Wide<T>>&, Stream);
INSTANTIATE(float)
INSTANTIATE(half_bits)
INSTANTIATE(bfloat_bits)
INSTANTIATE(double)
#undef INSTANTIATE
#endif

}  // namespace detr_steps::cuda
