// The launchers of kernels/cuda behind plain C functions, for the emulator: tests and
// chapter 07 run them on the CPU (detr_steps/cuda_lab/library_kernels.py).
//
// Compiled once for each kind of value (EMULATED_TYPE) and each direction
// (EMULATED_BACKWARD), when it is first needed: all at once take half a minute. Each
// function takes a step's number, sizes (b, s, m, d, q, levels), shapes (h, w of each
// level), points (K of each level) and arrays; `numbers` of a reference are 0 where
// locations and weights are given. It returns 0 where the step does not
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

// Locations and weights.
GivenArrays<Coordinate> read_given(void* const* arrays) {
  return {in<Coordinate>(arrays[0]), in<Coordinate>(arrays[1])};
}

// References, offsets and logits.
AskedArrays read_asked(void* const* arrays, int numbers) {
  return {in<float>(arrays[0]), in<float>(arrays[1]), in<float>(arrays[2]), numbers};
}

// Gradients of the value and of two more.
template <typename W>
GradArrays<W> read_grads(void* const* arrays) {
  return {out<W>(arrays[0]), out<W>(arrays[1]), out<W>(arrays[2])};
}

}  // namespace

#if defined(EMULATED_BACKWARD)

// Bytes that a step needs besides its results, zeros at the start.
extern "C" int64_t emulated_scratch(int step, const int64_t* sizes,
                                    const int64_t* shapes, const int64_t* points) {
  return backward_scratch(Backward(step), read_call(sizes, shapes, points));
}

extern "C" int emulated(int step, int numbers, const int64_t* sizes,
                        const int64_t* shapes, const int64_t* points,
                        void* const* arrays) {
  const Call call = read_call(sizes, shapes, points);
  const T* value = in<T>(arrays[0]);
  if (numbers == 0)
    return launch_backward<T>(Backward(step), call, value, read_given(arrays + 1),
                              in<T>(arrays[3]), read_grads<Coordinate>(arrays + 4),
                              arrays[7], nullptr);
  if constexpr (sizeof(T) < 8)
    return launch_backward<T>(Backward(step), call, value,
                              read_asked(arrays + 1, numbers), in<T>(arrays[4]),
                              read_grads<float>(arrays + 5), nullptr, nullptr);
  return 0;
}

#else

extern "C" int emulated(int step, int numbers, const int64_t* sizes,
                        const int64_t* shapes, const int64_t* points,
                        void* const* arrays) {
  const Call call = read_call(sizes, shapes, points);
  const T* value = in<T>(arrays[0]);
  if (numbers == 0)
    return launch_forward<T>(Forward(step), call, value, read_given(arrays + 1),
                             out<T>(arrays[3]), nullptr);
  if constexpr (sizeof(T) < 8)
    return launch_forward<T>(call, value, read_asked(arrays + 1, numbers),
                             out<T>(arrays[4]), nullptr);
  return 0;
}

#endif
