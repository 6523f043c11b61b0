// Starts step "vectors" of the way back, plain or fused. Compiled for numbers of 4
// BYTES and of 2.

#include "backward_vectors.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

// `Points`, `Slopes`: Given, GivenSlopes, or Asked, AskedSlopes for the fused operator.
template <typename T, typename Points, typename Slopes>
bool start_vectors(const Call& call, const T* value, Points points, const T* slope,
                   float* value_slope, Slopes slopes, Stream stream) {
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(blocks(call.rows(1), BACK_THREADS * LENGTH<T> / D), call.b);
    const Floating<float> sums = {value_slope};
    LAUNCH((backward_vectors<T, D, Points, Slopes>), grid, dim3(BACK_THREADS), stream,
           call, value, points, slope, sums, slopes);
    return true;
  });
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const float* locations,
                             const float* weights, const T* slope,
                             const SlopeArrays<float>& down, Stream stream) {
  return start_vectors(call, value, Given{locations, weights}, slope, down.value,
                       GivenSlopes{down.where, down.weights}, stream);
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const AskedArrays& asked,
                             const T* slope, const SlopeArrays<float>& down,
                             Stream stream) {
  return start_vectors(call, value, with_methods(asked), slope, down.value,
                       AskedSlopes{down.where, down.weights}, stream);
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const float*, const float*, const T*,                     \
      const SlopeArrays<float>&, Stream);                                              \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const AskedArrays&, const T*,                             \
      const SlopeArrays<float>&, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
