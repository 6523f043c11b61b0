// Starts step "tiles", plain or fused. Compiled for numbers of 4 BYTES and of 2.

#include "forward_tiles.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

template <typename T, typename Arrays>
bool launch_tiles(const Call& call, const T* value, const Arrays& arrays, T* result,
                  Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    // A decoder's few queries go to as many blocks as possible: one round each.
    const bool few = call.q != call.s && call.rows(1) * call.b < MANY;
    const int strip = few ? GROUPS : TILE;
    const dim3 grid(count_tiles(call, strip), call.m, call.b);
    const dim3 block(GROUPS * D / LENGTH<T>);
    LAUNCH((forward_tiles<T, D, P, PointsOf<Arrays>>), grid, block, stream, call, strip,
           value, with_methods(arrays), result);
    return true;
  });
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_tiles(                                                          \
      const Call&, const T*, const GivenArrays<float>&, T*, Stream);                   \
  template bool launch_tiles(                                                          \
      const Call&, const T*, const AskedArrays&, T*, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
