// Starts the steps between "naive" and "tiles", which are for those who study the
// kernels. Compiled for numbers of 4 BYTES and of 2.

#include "forward_points.cuh"
#include "forward_vectors.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

template <typename T>
bool launch_points(const Call& call, const T* value, const GivenArrays<float>& given,
                   T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    constexpr int GROUPS = POINTS_THREADS / (D < 32 ? D : 32);
    const dim3 grid(blocks(call.rows(1), GROUPS), call.b);
    LAUNCH((forward_points<T, D, P>), grid, dim3(POINTS_THREADS), stream, call, value,
           with_methods(given), result);
    return true;
  });
}

template <typename T>
bool launch_vectors(const Call& call, const T* value, const GivenArrays<float>& given,
                    T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    const dim3 grid(blocks(call.rows(1), GROUPS), call.b);
    const dim3 block(GROUPS * D / LENGTH<T>);
    LAUNCH((forward_vectors<T, D, P>), grid, block, stream, call, value,
           with_methods(given), result);
    return true;
  });
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_points(                                                         \
      const Call&, const T*, const GivenArrays<float>&, T*, Stream);                   \
  template bool launch_vectors(                                                        \
      const Call&, const T*, const GivenArrays<float>&, T*, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
