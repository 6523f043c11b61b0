// Starts step "naive" there and back: small kernels, compiled for all types at once.

#include "forward_naive.cuh"
#include "launch.h"
#include "start_naive.cuh"

namespace detr_steps::cuda {

template <typename T>
bool launch_naive(const Call& call, const T* value, const Wide<T>* locations,
                  const Wide<T>* weights, T* result, Stream stream) {
  constexpr int THREADS = 256;
  if (!call.fits()) return false;
  const dim3 grid(blocks(int64_t(call.q) * call.m * call.d, THREADS), call.b);
  LAUNCH((forward_naive<T>), grid, dim3(THREADS), stream, call, value, locations,
         weights, result);
  return true;
}

template <typename T>
bool launch_backward_naive(const Call& call, const T* value, const Wide<T>* locations,
                           const Wide<T>* weights, const T* slope,
                           const SlopeArrays<Wide<T>>& down, Stream stream) {
  return start_backward_naive(call, value, locations, weights, slope,
                              Floating<Wide<T>>{down.value}, down.where, down.weights,
                              stream);
}

#if defined(__CUDACC__)
#define BOTH_WAYS(T)                                                                   \
  template bool launch_naive(const Call&, const T*, const Wide<T>*, const Wide<T>*,    \
                             T*, Stream);                                              \
  template bool launch_backward_naive(const Call&, const T*, const Wide<T>*,           \
                                      const Wide<T>*, const T*,                        \
                                      const SlopeArrays<Wide<T>>&, Stream);
BOTH_WAYS(float)
BOTH_WAYS(half_bits)
BOTH_WAYS(bfloat_bits)
BOTH_WAYS(double)
#undef BOTH_WAYS
#endif

}  // namespace detr_steps::cuda
