// The launchers of kernels/cuda behind plain C functions, for the emulator: tests and
// chapter 07 run them on the CPU (detr_steps/cuda_lab/library_kernels.py).
//
// Compiled once for each kind of value (EMULATED_TYPE) and each direction
// (EMULATED_BACKWARD), when it is first needed: all at once take half a minute. Each
// function takes a step's number, sizes (b, s, m, d, q, levels), shapes (h, w of each
// level), points (K of each level) and arrays. It returns 0 where the step does not
// take such a call.

#include "cuda/launch.h"
#include "cuda/naive.cu"

#if defined(EMULATED_BACKWARD)
#include "cuda/backward_sorted.cu"
#include "cuda/backward_vectors.cu"
#else
#include "cuda/forward_steps.cu"
#include "cuda/forward_tiles.cu"
#endif

using namespace detr_steps::cuda;

namespace {

typedef EMULATED_TYPE T;
typedef Wide<T> Coordinate;

Call read_call(const int64_t* sizes, const int64_t* shapes, const int64_t* points) {
  return make_call(int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]),
                   int(sizes[4]), int(sizes[5]), shapes, points);
}

template <typename Number>
const Number* in(const void* array) {
  return static_cast<const Number*>(array);
}
template <typename Number>
Number* out(void* array) {
  return static_cast<Number*>(array);
}

// References, offsets and logits; `numbers` of a reference: 2, or 4 of a box.
AskedArrays read_asked(void* const* arrays, int numbers) {
  return {in<float>(arrays[0]), in<float>(arrays[1]), in<float>(arrays[2]), numbers};
}

}  // namespace

#if defined(EMULATED_BACKWARD)

// Bytes that a step needs besides its results, zeros at the start.
extern "C" int64_t emulated_scratch(int step, const int64_t* sizes,
                                    const int64_t* shapes, const int64_t* points) {
  return backward_scratch(Backward(step), read_call(sizes, shapes, points));
}

extern "C" int emulated(int step, const int64_t* sizes, const int64_t* shapes,
                        const int64_t* points, void* const* arrays) {
  return launch_backward<T>(
      Backward(step), read_call(sizes, shapes, points), in<T>(arrays[0]),
      in<Coordinate>(arrays[1]), in<Coordinate>(arrays[2]), in<T>(arrays[3]),
      out<Coordinate>(arrays[4]), out<Coordinate>(arrays[5]),
      out<Coordinate>(arrays[6]), arrays[7], nullptr);
}

extern "C" int emulated_fused(int step, int numbers, const int64_t* sizes,
                              const int64_t* shapes, const int64_t* points,
                              void* const* arrays) {
  if constexpr (sizeof(T) < 8)
    return launch_backward_fused<T>(
        Backward(step), read_call(sizes, shapes, points), in<T>(arrays[0]),
        read_asked(arrays + 1, numbers), in<T>(arrays[4]), out<float>(arrays[5]),
        out<float>(arrays[6]), out<float>(arrays[7]), nullptr);
  return 0;
}

#else

extern "C" int emulated(int step, const int64_t* sizes, const int64_t* shapes,
                        const int64_t* points, void* const* arrays) {
  return launch_forward<T>(Forward(step), read_call(sizes, shapes, points),
                           in<T>(arrays[0]), in<Coordinate>(arrays[1]),
                           in<Coordinate>(arrays[2]), out<T>(arrays[3]), nullptr);
}

extern "C" int emulated_fused(int, int numbers, const int64_t* sizes,
                              const int64_t* shapes, const int64_t* points,
                              void* const* arrays) {
  if constexpr (sizeof(T) < 8)
    return launch_forward_fused<T>(read_call(sizes, shapes, points), in<T>(arrays[0]),
                                   read_asked(arrays + 1, numbers), out<T>(arrays[4]),
                                   nullptr);
  return 0;
}

#endif
