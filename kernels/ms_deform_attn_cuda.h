// What the bindings of the CUDA kernels share: checks, memory, the launch itself. Bound
// through torch's stable interface, as the CPU's loops are (ms_deform_attn.cpp).

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/launch.h"
#include "levels.h"

namespace detr_steps::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What is the same for all queries: h, w of the first level, h, w of the next one, ...;
// and how many points each level has.
typedef std::vector<int64_t> Shapes, Counts;

// --- what is given ------------------------------------------------------------------

// As the kernels read memory: no gaps, and 16 bytes at once.
inline Tensor settle(const Tensor& given) {
  const Tensor tensor = torch::stable::contiguous(given);
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 ? tensor : torch::stable::clone(tensor);
}

// Locations, offsets, weights and gradients of them are float32, whatever the value is;
// only to check kernels there is all in float64.
inline ScalarType exact(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double
                                                   : ScalarType::Float;
}

inline bool looks(const Tensor& tensor, const Tensor& value, ScalarType type,
           const std::vector<int64_t>& shape) {
  bool same = tensor.dim() == int64_t(shape.size()) && tensor.is_cuda() &&
              tensor.get_device_index() == value.get_device_index();
  for (size_t i = 0; same && i < shape.size(); ++i)
    same = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(!same || tensor.scalar_type() == type,
                  "ms_deform_attn: on a GPU the value is float16, bfloat16, float32 or "
                  "float64, the gradient of the result like it, and all else float32 "
                  "(or float64 with the last)");
  return same;
}

// `where` [B, Q, M, P, 2] are locations or offsets, `weights` [B, Q, M, P] may be logits.
inline Call check(const Tensor& value, const Shapes& shapes, const Counts& counts,
           const Tensor& where, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4 && where.dim() == 5 && !counts.empty() &&
                      shapes.size() == 2 * counts.size(),
                  "ms_deform_attn: expected value [B, S, M, D], (h, w) and a number of "
                  "points of each level, locations [B, Q, M, P, 2] and weights "
                  "[B, Q, M, P]");
  STD_TORCH_CHECK(counts.size() <= MAX_LEVELS, "ms_deform_attn: ", counts.size(),
                  " levels, but the kernels know ", MAX_LEVELS,
                  ": backend torch takes any number");
  const int64_t b = value.size(0), s = value.size(1), m = value.size(2);
  const int64_t q = where.size(1), points = where.size(3);
  const int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(value.is_cuda() && belong_together(shapes, counts, s, points) &&
                      looks(where, value, exact(value), {b, q, m, points, 2}) &&
                      looks(weights, value, exact(value), {b, q, m, points}),
                  "ms_deform_attn: levels, tokens and points do not belong together");
  STD_TORCH_CHECK(b <= most && s <= most && m <= most && value.size(3) <= most &&
                      q <= most && points <= most,
                  "ms_deform_attn: a size of 2^31 or more");
  const Call call = make_call(int(b), int(s), int(m), int(value.size(3)), int(q),
                              int(counts.size()), shapes.data(), counts.data());
  STD_TORCH_CHECK(call.fits(), "ms_deform_attn: an image's value, locations or result "
                               "has 2^31 numbers or more, or there are more than 65,535 "
                               "images: backend torch takes them");
  return call;
}

inline bool nothing(const Call& call) {  // a grid must not be empty
  return int64_t(call.b) * call.s * call.q * call.m * call.d * call.p == 0;
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Gradients of the value, of locations or offsets, of weights or logits. The first is
// added up in float32 at least: sums of a thousand numbers in half precision would lose
// one in a hundred.
struct Grads {
  Tensor value, where, weights;

  template <typename W>
  GradArrays<W> arrays() const {
    return {write<W>(value), write<W>(where), write<W>(weights)};
  }
  // As torch wants them.
  std::tuple<Tensor, Tensor, Tensor> like(const Tensor& given) const {
    return {torch::stable::to(value, given.scalar_type()), where, weights};
  }
};

inline Grads empty_grads(const Call& call, const Tensor& value, const Tensor& where,
                         const Tensor& weights) {
  const auto empty = [&](const Tensor& like, const std::vector<int64_t>& shape) {
    return nothing(call) ? torch::stable::new_zeros(like, shape)
                         : torch::stable::new_empty(like, shape);
  };
  return {torch::stable::new_zeros(value, {call.b, call.s, call.m, call.d},
                                   exact(value)),
          empty(where, {call.b, call.q, call.m, call.p, 2}),
          empty(weights, {call.b, call.q, call.m, call.p})};
}

// What the plain operator takes beside the value: locations and weights.
struct GivenTensors {
  Tensor where, weights;
  static constexpr int MAX_BYTES = 8;  // of the value's numbers

  Call check(const Tensor& value, const Shapes& shapes, const Counts& counts) const {
    return detr_steps::cuda::check(value, shapes, counts, where, weights);
  }
  GivenTensors settled() const { return {settle(where), settle(weights)}; }
  template <typename T>
  GivenArrays<Wide<T>> arrays() const {
    return {read<Wide<T>>(where), read<Wide<T>>(weights)};
  }
};

// What the fused operator takes: references, offsets and logits; never in float64.
struct AskedTensors {
  Tensor references, where, weights;
  static constexpr int MAX_BYTES = 4;

  Call check(const Tensor& value, const Shapes& shapes, const Counts& counts) const {
    const Call call = detr_steps::cuda::check(value, shapes, counts, where, weights);
    const int64_t numbers = references.dim() == 4 && references.size(3) == 4 ? 4 : 2;
    STD_TORCH_CHECK(looks(references, value, ScalarType::Float,
                          {call.b, call.q, call.levels, numbers}),
                    "ms_deform_attn: expected references [B, Q, L, 2 or 4]");
    return call;
  }
  AskedTensors settled() const {
    return {settle(references), settle(where), settle(weights)};
  }
  template <typename T>
  AskedArrays arrays() const {
    return {read<float>(references), read<float>(where), read<float>(weights),
            int(references.size(3))};
  }
};

// --- a launch -----------------------------------------------------------------------

// `work(number)` with a number of the type that the value has.
template <typename Work>
bool dispatch(const Tensor& value, const Work& work) {
  const ScalarType type = value.scalar_type();
  if (type == ScalarType::Float) return work(float());
  if (type == ScalarType::Half) return work(half_bits());
  if (type == ScalarType::BFloat16) return work(bfloat_bits());
  if (type == ScalarType::Double) return work(double());
  STD_TORCH_CHECK(false, "ms_deform_attn: float16, bfloat16, float32 or float64 wanted");
  return false;
}

// The GPU of the tensors becomes the current one, and `work(number, stream)` gets the
// stream on which torch computes there. A launch that fails tells nobody: one has to
// ask.
template <typename Work>
bool launch(const Tensor& value, const Work& work) {
  const int32_t index = value.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  const bool taken = dispatch(value, [&](auto number) {
    return work(number, static_cast<Stream>(stream));
  });
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess,
                  "ms_deform_attn: the kernel did not start, or one before it failed: ",
                  cudaGetErrorString(error));
  return taken;
}

// --- forward ------------------------------------------------------------------------

inline Tensor empty_result(const Call& call, const Tensor& value) {
  const int64_t channels = int64_t(call.m) * call.d;
  if (nothing(call))  // what has no points reads zeros
    return torch::stable::new_zeros(value, {call.b, call.q, channels});
  return torch::stable::new_empty(value, {call.b, call.q, channels});
}

inline void demand(bool taken, const Call& call) {
  STD_TORCH_CHECK(taken, "ms_deform_attn: this kernel does not take D = ", call.d, ", ",
                  call.p, " points and numbers of this type");
}

// `start(call, value, arrays, result, stream)` gets plain pointers, and says whether it
// takes the shape. `Tensors`: GivenTensors or AskedTensors.
template <typename Tensors, typename Start>
Tensor run_forward(const Tensor& any_value, const Shapes& shapes, const Counts& counts,
                   const Tensors& any_tensors, const Start& start) {
  const Call call = any_tensors.check(any_value, shapes, counts);
  const Tensor result = empty_result(call, any_value);
  if (nothing(call)) return result;
  const Tensor value = settle(any_value);
  const Tensors tensors = any_tensors.settled();
  const bool taken = launch(value, [&](auto number, Stream stream) {
    typedef decltype(number) T;
    if constexpr (sizeof(T) <= Tensors::MAX_BYTES)
      return start(call, read<T>(value), tensors.template arrays<T>(),
                   write<T>(result), stream);
    return false;
  });
  demand(taken, call);
  return result;
}

// --- backward -----------------------------------------------------------------------

// `start(call, value, arrays, grad, grads, scratch, stream)`; `scratch`: zeros, as many
// bytes as the step wants.
template <typename Tensors, typename Start>
std::tuple<Tensor, Tensor, Tensor> run_backward(
    const Tensor& any_value, const Shapes& shapes, const Counts& counts,
    const Tensors& any_tensors, const Tensor& any_grad, Backward step,
    const Start& start) {
  const Call call = any_tensors.check(any_value, shapes, counts);
  STD_TORCH_CHECK(looks(any_grad, any_value, any_value.scalar_type(),
                        {call.b, call.q, int64_t(call.m) * call.d}),
                  "ms_deform_attn: the gradient does not look like the result");
  const Grads grads =
      empty_grads(call, any_value, any_tensors.where, any_tensors.weights);
  if (nothing(call)) return grads.like(any_value);
  const Tensor value = settle(any_value), grad = settle(any_grad);
  const Tensors tensors = any_tensors.settled();
  const Tensor scratch = torch::stable::new_zeros(
      value, {backward_scratch(step, call)}, ScalarType::Byte);
  const bool taken = launch(value, [&](auto number, Stream stream) {
    typedef decltype(number) T;
    if constexpr (sizeof(T) <= Tensors::MAX_BYTES)
      return start(call, read<T>(value), tensors.template arrays<T>(), read<T>(grad),
                   grads.arrays<Wide<T>>(), scratch.mutable_data_ptr(), stream);
    return false;
  });
  demand(taken, call);
  return grads.like(value);
}

}  // namespace detr_steps::cuda
