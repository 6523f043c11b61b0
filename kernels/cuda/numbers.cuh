// Numbers in memory and numbers in registers. A GPU moves up to 16 bytes per lane and
// instruction: four numbers of 32 bits or eight of 16. Whatever they are in memory, the
// kernels compute in 32 bits (a sum of 64 products in 16 would lose digits).
//
// Half precision is spelled out in bits, without cuda_fp16.h: that header costs seconds
// of compilation and is not there when the emulator compiles this with g++.

#pragma once

#include <cstdint>

#include "call.h"

namespace detr_steps::cuda {

// --- one number ---------------------------------------------------------------------

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

__device__ __forceinline__ float widen(bfloat_bits x) {
  return __uint_as_float(uint32_t(x.bits) << 16);
}

__device__ __forceinline__ float widen(half_bits x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  const bool finite = magnitude < (0x1fu << 23);
  // The exponents of the two count from places 112 = 127 - 15 apart.
  const float moved = __uint_as_float(magnitude) * 5.192296858534828e33f;  // 2^112
  return __uint_as_float(
      sign | (finite ? __float_as_uint(moved) : magnitude | 0x7f800000u));
#endif
}

template <typename T>
__device__ __forceinline__ T narrow(Wide<T> x) {
  return x;
}

// Round to nearest, halves to even, NaN stays NaN.
template <>
__device__ __forceinline__ bfloat_bits narrow<bfloat_bits>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};  // ties to even
#endif
}

template <>
__device__ __forceinline__ half_bits narrow<half_bits>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t all = __float_as_uint(x), sign = all >> 16 & 0x8000u;
  uint32_t bits = all & 0x7fffffffu;
  if (bits > 0x7f800000u) return {0x7fff};
  if (bits < 0x38800000u) {  // below 2^-14 they count in 2^-24, as floats above 0.5 do
    bits = __float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000u;
  } else {
    // The exponent counts from 112 places further on; 13 bits of mantissa are rounded
    // off: half of the last one that stays, less 1 where that one is even.
    bits = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13;
    bits = bits < 0x7c00u ? bits : 0x7c00u;
  }
  return {uint16_t(sign | bits)};
#endif
}

// 1 / x, at most one unit of the last digit off. The plain division would be exact, but
// takes ten instructions and, for some x, a call.
__device__ __forceinline__ float inverse(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

// --- addresses ----------------------------------------------------------------------

// Take a base as it is. Otherwise nvcc remembers what it was made of and adds that up
// anew for every address: three instructions where one (IMAD.WIDE) would do. It also
// forgets that the pointer is one to global memory: read through `__ldg` and `load`.
template <typename T>
__device__ __forceinline__ T* settled(T* base) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(base));
#endif
  return base;
}

// --- numbers that nobody writes while the kernel runs -------------------------------

__device__ __forceinline__ float load_one(const float* at) { return __ldg(at); }

template <typename T>
__device__ __forceinline__ float load_one(const T* at) {  // of 16 bits
  return widen(T{__ldg(&at->bits)});
}

// --- 16 bytes of them ---------------------------------------------------------------

template <int N>
struct Numbers {
  float at[N];
};

template <typename T>
constexpr int LENGTH = 16 / sizeof(T);  // numbers in 16 bytes

template <typename T>
using Vector = Numbers<LENGTH<T>>;

// Two numbers of 16 bits in one word, the first one in the lower half.
template <typename T>
__device__ __forceinline__ float widen_low(uint32_t word) {
  return widen(T{uint16_t(word)});
}
template <typename T>
__device__ __forceinline__ float widen_high(uint32_t word) {
  return widen(T{uint16_t(word >> 16)});
}
template <>
__device__ __forceinline__ float widen_high<bfloat_bits>(uint32_t word) {
  return __uint_as_float(word & 0xffff0000u);  // it is already where it has to go
}
template <typename T>
__device__ __forceinline__ uint32_t narrow_both(float low, float high) {
  return narrow<T>(low).bits | uint32_t(narrow<T>(high).bits) << 16;
}

// 16 bytes as they come from memory.
template <typename T>
__device__ __forceinline__ Vector<T> unpack(uint4 in) {
  return {widen_low<T>(in.x),  widen_high<T>(in.x), widen_low<T>(in.y),
          widen_high<T>(in.y), widen_low<T>(in.z),  widen_high<T>(in.z),
          widen_low<T>(in.w),  widen_high<T>(in.w)};
}
template <>
__device__ __forceinline__ Vector<float> unpack<float>(uint4 in) {
  return {__uint_as_float(in.x), __uint_as_float(in.y), __uint_as_float(in.z),
          __uint_as_float(in.w)};
}

// Read 16 bytes in one instruction; `address` is a multiple of 16.
template <typename T>
__device__ __forceinline__ Vector<T> load(const void* address) {
  return unpack<T>(__ldg(static_cast<const uint4*>(address)));
}

template <typename T>
__device__ __forceinline__ void store(void* address, const Vector<T>& out) {
  uint4 words;
  words.x = narrow_both<T>(out.at[0], out.at[1]);
  words.y = narrow_both<T>(out.at[2], out.at[3]);
  words.z = narrow_both<T>(out.at[4], out.at[5]);
  words.w = narrow_both<T>(out.at[6], out.at[7]);
  *static_cast<uint4*>(address) = words;
}
template <>
__device__ __forceinline__ void store<float>(void* address, const Vector<float>& out) {
  const float* a = out.at;
  *static_cast<float4*>(address) = make_float4(a[0], a[1], a[2], a[3]);
}

// sum += share * numbers
template <int N>
__device__ __forceinline__ void add(
    Numbers<N>& sum, float share, const Numbers<N>& numbers) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum.at[i] = fmaf(share, numbers.at[i], sum.at[i]);
}

template <int N>
__device__ __forceinline__ float dot(const Numbers<N>& a, const Numbers<N>& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum = fmaf(a.at[i], b.at[i], sum);
  return sum;
}

}  // namespace detr_steps::cuda
