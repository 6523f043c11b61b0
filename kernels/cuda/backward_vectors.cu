// Starts backward step "vectors", plain or fused. Compiled for numbers of 4 BYTES and
// of 2.

#include "backward_vectors.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

template <typename T, typename Arrays>
bool launch_backward_vectors(const Call& call, const T* value, const Arrays& arrays,
                             const T* grad, const GradArrays<float>& grads,
                             Stream stream) {
  typedef PointsOf<Arrays> Points;
  const typename Points::Grads out = {grads.where, grads.weights};
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(blocks(call.rows(1), BACK_THREADS * LENGTH<T> / D), call.b);
    const Floating<float> sums = {grads.value};
    LAUNCH((backward_vectors<T, D, Points>), grid, dim3(BACK_THREADS), stream, call,
           value, with_methods(arrays), grad, sums, out);
    return true;
  });
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const GivenArrays<float>&, const T*,                      \
      const GradArrays<float>&, Stream);                                               \
  template bool launch_backward_vectors(                                               \
      const Call&, const T*, const AskedArrays&, const T*, const GradArrays<float>&,   \
      Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
