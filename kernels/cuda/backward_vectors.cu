// Starts backward step "vectors", plain or fused. Compiled for numbers of 4 BYTES and
// of 2.

#include "backward_vectors.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

// `Points`, `Grads`: Given, GivenGrads, or Asked, AskedGrads for the fused operator.
template <typename T, typename Points, typename Grads>
bool start_vectors(const Call& call, const T* value, Points points, const T* grad,
                   float* grad_value, Grads grads, Stream stream) {
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(blocks(call.rows(1), BACK_THREADS * LENGTH<T> / D), call.b);
    const Floating<float> sums = {grad_value};
    LAUNCH((backward_vectors<T, D, Points, Grads>), grid, dim3(BACK_THREADS), stream,
           call, value, points, grad, sums, grads);
    return true;
  });
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const float* locations,
                             const float* weights, const T* grad,
                             const GradArrays<float>& grads, Stream stream) {
  return start_vectors(call, value, Given{locations, weights}, grad, grads.value,
                       GivenGrads{grads.where, grads.weights}, stream);
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const AskedArrays& asked,
                             const T* grad, const GradArrays<float>& grads,
                             Stream stream) {
  return start_vectors(call, value, with_methods(asked), grad, grads.value,
                       AskedGrads{grads.where, grads.weights}, stream);
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const float*, const float*, const T*,                     \
      const GradArrays<float>&, Stream);                                              \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const AskedArrays&, const T*,                             \
      const GradArrays<float>&, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
