// Starts step "tiles", plain or fused. Compiled for numbers of 4 BYTES and of 2.

#include "forward_tiles.cuh"
#include "pick.cuh"

namespace detr_steps::cuda {

// `Points`: Given, or Asked for the fused operator.
template <typename T, typename Points>
bool start_tiles(
    const Call& call, const T* value, Points points, T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    // A decoder's few queries go to as many blocks as possible: one round each.
    const bool few = call.q != call.s && call.rows(1) * call.b < MANY;
    const int strip = few ? GROUPS : TILE;
    const dim3 grid(count_tiles(call, strip), call.m, call.b);
    const dim3 block(GROUPS * D / LENGTH<T>);
    LAUNCH((forward_tiles<T, D, P, Points>), grid, block, stream, call, strip, value,
           points, result);
    return true;
  });
}

template <typename T>
bool launch_tiles(const Call& call, const T* value, const float* locations,
                  const float* weights, T* result, Stream stream) {
  return start_tiles(call, value, Given{locations, weights}, result, stream);
}

template <typename T>
bool launch_tiles(const Call& call, const T* value, const AskedArrays& asked, T* result,
                  Stream stream) {
  return start_tiles(call, value, with_methods(asked), result, stream);
}

#define INSTANTIATE(T)                                                                 \
  template bool launch_tiles(                                                          \
      const Call&, const T*, const float*, const float*, T*, Stream);                  \
  template bool launch_tiles(                                                          \
      const Call&, const T*, const AskedArrays&, T*, Stream);
FOR_TYPES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace detr_steps::cuda
