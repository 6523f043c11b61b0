// Starts steps "sorted", plain or fused, and "fixed": the same with other sums.
// Compiled for numbers of 4 BYTES and of 2.

#include "backward_fixed.cuh"
#include "backward_sorted.cuh"
#include "pick.cuh"
#include "start_naive.cuh"

namespace detr_steps::cuda {

// `Points`, `Grads`: Given, GivenGrads, or Asked, AskedGrads for the fused operator.
template <typename T, typename Points, typename Grads, typename Sums>
bool start_sorted(const Call& call, const T* value, Points points, const T* grad,
                  Sums sums, Grads grads, Stream stream) {
  if (call.s >= MOST_PIXELS) return false;
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(count_tiles(call, TILE), call.m, call.b);
    LAUNCH((backward_sorted<T, D, Points, Grads, Sums>), grid, dim3(SORTED_THREADS),
           stream, call, value, points, grad, sums, grads);
    return true;
  });
}

template <typename T>
bool launch_backward_sorted(const Call& call, const T* value, const float* locations,
                            const float* weights, const T* grad,
                            const GradArrays<float>& grads, Stream stream) {
  return start_sorted(call, value, Given{locations, weights}, grad,
                      Floating<float>{grads.value},
                      GivenGrads{grads.where, grads.weights}, stream);
}

template <typename T>
bool launch_backward_sorted(const Call& call, const T* value, const AskedArrays& asked,
                            const T* grad, const GradArrays<float>& grads,
                            Stream stream) {
  return start_sorted(call, value, with_methods(asked), grad,
                      Floating<float>{grads.value},
                      AskedGrads{grads.where, grads.weights}, stream);
}

template <typename T>
bool launch_backward_fixed(const Call& call, const T* value, const float* locations,
                           const float* weights, const T* grad,
                           const GradArrays<float>& grads, void* scratch,
                           Stream stream) {
  if (!call.fits()) return false;
  long long* sums = static_cast<long long*>(scratch);
  int* largest = reinterpret_cast<int*>(sums + call.map(call.b, 0));
  const dim3 block(PASS_THREADS);
  LAUNCH((find_largest<T>), dim3(blocks(call.rows(1), PASS_THREADS), call.b), block,
         stream, call, locations, weights, grad, largest);
  const FixedPoint fixed = {sums, largest};
  if (!start_sorted(call, value, Given{locations, weights}, grad, fixed,
                    GivenGrads{grads.where, grads.weights}, stream))
    start_backward_naive(call, value, locations, weights, grad, fixed, grads.where,
                         grads.weights, stream);
  LAUNCH(from_fixed, dim3(blocks(call.map(1, 0), PASS_THREADS), call.b), block, stream,
         call, sums, largest, grads.value);
  return true;
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_backward_sorted(                                                \
      const Call&, const T*, const float*, const float*, const T*,                     \
      const GradArrays<float>&, Stream);                                              \
  template bool launch_backward_sorted(                                                \
      const Call&, const T*, const AskedArrays&, const T*,                             \
      const GradArrays<float>&, Stream);                                              \
  template bool launch_backward_fixed(                                                 \
      const Call&, const T*, const float*, const float*, const T*,                     \
      const GradArrays<float>&, void*, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
