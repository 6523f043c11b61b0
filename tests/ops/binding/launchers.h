// In place of the launchers that cuda/launch.h declares: what was launched, written
// into a log and into the results.

#pragma once

#include <sstream>
#include <string>

#include "cuda/launch.h"

namespace detr_steps::cuda {

inline std::ostringstream launched;

// "tiles 2x30x2x32 of 4 bytes; " and the first number of each array.
template <typename T, typename... Arrays>
void log(const char* step, const Call& call, const T* value, Arrays... arrays) {
  launched << step << " " << call.b << "x" << call.s << "x" << call.m << "x" << call.d
           << " of " << sizeof(T) << ":";
  for (bool aligned : {uintptr_t(value) % 16 == 0, uintptr_t(arrays) % 16 == 0 ...})
    if (!aligned) launched << " misaligned";
  ((launched << " " << *arrays), ...);
  launched << "; ";
}

template <typename T, typename W>
void log(const char* step, const Call& call, const T* value, const GivenArrays<W>& in) {
  log(step, call, value, in.locations, in.weights);
}

template <typename T>
void log(const char* step, const Call& call, const T* value, const AskedArrays& in) {
  log("fused", call, value, in.references, in.offsets, in.logits);
  launched << step << " " << in.numbers << "; ";
}

inline bool takes(const Call& call) { return call.d == 32 && call.p <= 32; }

// --- forward ------------------------------------------------------------------------

template <typename T>
bool fill(const Call& call, const T* value, T* result) {
  for (int64_t i = 0; i < call.rows(call.b) * call.d; ++i) result[i] = value[0];
  return true;
}

template <typename T>
bool launch_naive(const Call& call, const T* value, const GivenArrays<Wide<T>>& given,
                  T* result, Stream) {
  log("naive", call, value, given);
  return fill(call, value, result);
}

template <typename T, typename Arrays>
bool launch_tiles(
    const Call& call, const T* value, const Arrays& arrays, T* result, Stream) {
  if (!takes(call)) return false;
  log("tiles", call, value, arrays);
  return fill(call, value, result);
}

// --- backward -----------------------------------------------------------------------

// Adds 257 / 256 to the gradient of the value, and fills the others with 5 and 6.
template <typename T, typename W>
bool fill_grads(const Call& call, const T* grad, const GradArrays<W>& grads) {
  if (uintptr_t(grad) % 16) launched << "misaligned grad; ";
  for (int64_t i = 0; i < call.map(call.b, 0); ++i) grads.value[i] += W(257) / W(256);
  for (int64_t i = 0; i < call.rows(call.b) * call.p * 2; ++i) grads.where[i] = 5;
  for (int64_t i = 0; i < call.rows(call.b) * call.p; ++i) grads.weights[i] = 6;
  return true;
}

template <typename T>
bool launch_backward_naive(const Call& call, const T* value,
                           const GivenArrays<Wide<T>>& given, const T* grad,
                           const GradArrays<Wide<T>>& grads, Stream) {
  log("naive", call, value, given);
  return fill_grads(call, grad, grads);
}

template <typename T, typename Arrays>
bool launch_backward_vectors(const Call& call, const T* value, const Arrays& arrays,
                             const T* grad, const GradArrays<float>& grads, Stream) {
  if (!takes(call)) return false;
  log("vectors", call, value, arrays);
  return fill_grads(call, grad, grads);
}

template <typename T, typename Arrays>
bool launch_backward_sorted(const Call& call, const T* value, const Arrays& arrays,
                            const T* grad, const GradArrays<float>& grads, Stream) {
  if (!takes(call) || call.levels > 1) return false;
  log("sorted", call, value, arrays);
  return fill_grads(call, grad, grads);
}

template <typename T>
bool launch_backward_fixed(const Call& call, const T* value,
                           const GivenArrays<float>& given, const T* grad,
                           const GradArrays<float>& grads, void* scratch, Stream) {
  log("fixed", call, value, given);
  for (int64_t i = 0; i < backward_scratch(Backward::FIXED, call); ++i)
    if (static_cast<char*>(scratch)[i]) launched << "scratch is not 0; ";
  return fill_grads(call, grad, grads);
}

}  // namespace detr_steps::cuda
