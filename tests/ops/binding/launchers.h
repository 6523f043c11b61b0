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

inline bool takes(const Call& call) { return call.d == 32 && call.p <= 32; }

// --- the way there ------------------------------------------------------------------

template <typename T>
bool fill(const Call& call, const T* value, T* result) {
  for (int64_t i = 0; i < call.rows(call.b) * call.d; ++i) result[i] = value[0];
  return true;
}

template <typename T>
bool launch_naive(const Call& call, const T* value, const Wide<T>* locations,
                  const Wide<T>* weights, T* result, Stream) {
  log("naive", call, value, locations, weights);
  return fill(call, value, result);
}

template <typename T>
bool launch_tiles(const Call& call, const T* value, const float* locations,
                  const float* weights, T* result, Stream) {
  if (!takes(call)) return false;
  log("tiles", call, value, locations, weights);
  return fill(call, value, result);
}

template <typename T>
bool launch_tiles(
    const Call& call, const T* value, const AskedArrays& asked, T* result, Stream) {
  if (!takes(call)) return false;
  log("fused", call, value, asked.references, asked.offsets, asked.logits);
  launched << asked.numbers << "; ";
  return fill(call, value, result);
}

// --- the way back -------------------------------------------------------------------

// Adds 257 / 256 to the slope of the value, and fills the others with 5 and 6.
template <typename T, typename W>
bool slopes(const Call& call, const T* slope, const SlopeArrays<W>& down) {
  if (uintptr_t(slope) % 16) launched << "misaligned slope; ";
  for (int64_t i = 0; i < call.map(call.b, 0); ++i) down.value[i] += W(257) / W(256);
  for (int64_t i = 0; i < call.rows(call.b) * call.p * 2; ++i) down.where[i] = 5;
  for (int64_t i = 0; i < call.rows(call.b) * call.p; ++i) down.weights[i] = 6;
  return true;
}

template <typename T>
bool launch_backward_naive(const Call& call, const T* value, const Wide<T>* locations,
                           const Wide<T>* weights, const T* slope,
                           const SlopeArrays<Wide<T>>& down, Stream) {
  log("naive", call, value, locations, weights);
  return slopes(call, slope, down);
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const float* locations,
                             const float* weights, const T* slope,
                             const SlopeArrays<float>& down, Stream) {
  if (!takes(call)) return false;
  log("vectors", call, value, locations, weights);
  return slopes(call, slope, down);
}

template <typename T>
bool launch_backward_sorted(const Call& call, const T* value, const float* locations,
                            const float* weights, const T* slope,
                            const SlopeArrays<float>& down, Stream) {
  if (!takes(call) || call.levels > 1) return false;
  log("sorted", call, value, locations, weights);
  return slopes(call, slope, down);
}

template <typename T>
bool launch_backward_fixed(const Call& call, const T* value, const float* locations,
                           const float* weights, const T* slope,
                           const SlopeArrays<float>& down, void* scratch, Stream) {
  log("fixed", call, value, locations, weights);
  for (int64_t i = 0; i < backward_scratch(Backward::FIXED, call); ++i)
    if (static_cast<char*>(scratch)[i]) launched << "scratch is not 0; ";
  return slopes(call, slope, down);
}

template <typename T>
bool fused_back(const char* step, const Call& call, const T* value,
                const AskedArrays& asked, const T* slope,
                const SlopeArrays<float>& down) {
  log("fused", call, value, asked.references, asked.offsets, asked.logits);
  launched << step << "; ";
  return slopes(call, slope, down);
}

template <typename T>
bool launch_backward_vectors(const Call& call, const T* value, const AskedArrays& asked,
                             const T* slope, const SlopeArrays<float>& down, Stream) {
  return takes(call) && fused_back("vectors", call, value, asked, slope, down);
}

template <typename T>
bool launch_backward_sorted(const Call& call, const T* value, const AskedArrays& asked,
                            const T* slope, const SlopeArrays<float>& down, Stream) {
  return takes(call) && call.levels == 1 &&
         fused_back("sorted", call, value, asked, slope, down);
}

}  // namespace detr_steps::cuda
