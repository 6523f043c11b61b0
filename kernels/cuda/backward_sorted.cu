// Starts steps "sorted", plain or fused, and "fixed": the same with other sums.
// Compiled for numbers of 4 BYTES and of 2.

#include "backward_fixed.cuh"
#include "backward_sorted.cuh"
#include "pick.cuh"
#include "start_naive.cuh"

namespace detr_steps::cuda {

template <typename T, typename Arrays, typename Sums>
bool start_sorted(const Call& call, const T* value, const Arrays& arrays, const T* grad,
                  Sums sums, const GradArrays<float>& grads, Stream stream) {
  typedef PointsOf<Arrays> Points;
  const typename Points::Grads out = {grads.where, grads.weights};
  if (call.s >= MOST_PIXELS) return false;
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(count_tiles(call, TILE), call.m, call.b);
    LAUNCH((backward_sorted<T, D, Points, Sums>), grid, dim3(SORTED_THREADS), stream,
           call, value, with_methods(arrays), grad, sums, out);
    return true;
  });
}

template <typename T, typename Arrays>
bool launch_backward_sorted(const Call& call, const T* value, const Arrays& arrays,
                            const T* grad, const GradArrays<float>& grads,
                            Stream stream) {
  const Floating<float> sums = {grads.value};
  return start_sorted(call, value, arrays, grad, sums, grads, stream);
}

template <typename T>
bool launch_backward_fixed(const Call& call, const T* value,
                           const GivenArrays<float>& given, const T* grad,
                           const GradArrays<float>& grads, void* scratch,
                           Stream stream) {
  if (!call.fits()) return false;
  long long* sums = static_cast<long long*>(scratch);
  int* largest = reinterpret_cast<int*>(sums + call.map(call.b, 0));
  const dim3 block(PASS_THREADS);
  LAUNCH((find_largest<T>), dim3(blocks(call.rows(1), PASS_THREADS), call.b), block,
         stream, call, given.locations, given.weights, grad, largest);
  const FixedPoint fixed = {sums, largest};
  if (!start_sorted(call, value, given, grad, fixed, grads, stream))
    start_backward_naive(call, value, given, grad, fixed, grads, stream);
  LAUNCH(from_fixed, dim3(blocks(call.map(1, 0), PASS_THREADS), call.b), block, stream,
         call, sums, largest, grads.value);
  return true;
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_backward_sorted(                                                \
      const Call&, const T*, const GivenArrays<float>&, const T*,                      \
      const GradArrays<float>&, Stream);                                               \
  template bool launch_backward_sorted(                                                \
      const Call&, const T*, const AskedArrays&, const T*, const GradArrays<float>&,   \
      Stream);                                                                         \
  template bool launch_backward_fixed(                                                 \
      const Call&, const T*, const GivenArrays<float>&, const T*,                      \
      const GradArrays<float>&, void*, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
