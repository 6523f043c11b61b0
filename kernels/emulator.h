// Runs CUDA kernels on a CPU: the words of CUDA for an ordinary C++ compiler.
//
// A kernel's source is compiled as it stands, with this header before it. Every CUDA
// thread becomes a fiber: a function with a stack of its own that stops at a barrier
// and goes on later (emulator/threads.cpp). One fiber runs at a time, so nothing here
// is fast, and nothing goes wrong by chance: the order in which threads run is given by
// a seed. The compiler reports every load and store (-fsanitize=thread, with our own
// functions behind it: emulator/memory.cpp), which are held against the arrays that the
// kernel was given. What a kernel must not do ends the run with a sentence.
//
// It shows: accesses out of bounds, misaligned vectors, barriers that some threads
// never reach, wrong masks, threads that touch the same number with no barrier between.
// It cannot show: how fast a kernel is, or what a GPU does with memory that several
// blocks share without atomics other than that they should not.
//
// Not there: dynamic shared memory in LAUNCH, __activemask, clocks, textures,
// cooperative groups, the types of cuda_fp16.h, recursion deeper than 64 KB of stack.
// With Clang a misaligned vector goes unseen. Linux, with GCC or Clang; written for
// macOS too, but not tried there; on Windows use WSL.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// --- what a compiler for CUDA knows by itself ---------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __constant__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
// The lab rewrites declarations of shared arrays so that each is watched; without
// that they are plain static arrays.
#define __shared__ static

#define EMULATOR_VECTORS(T, number, of2, of4)                               \
  struct __align__(of2) T##2 { number x, y; };                              \
  struct T##3 { number x, y, z; };                                          \
  struct __align__(of4) T##4 { number x, y, z, w; };                        \
  inline T##2 make_##T##2(number x, number y) { return {x, y}; }            \
  inline T##3 make_##T##3(number x, number y, number z) { return {x, y, z}; } \
  inline T##4 make_##T##4(number x, number y, number z, number w) {         \
    return {x, y, z, w};                                                    \
  }
EMULATOR_VECTORS(char, signed char, 2, 4)
EMULATOR_VECTORS(uchar, unsigned char, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(ushort, unsigned short, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(uint, unsigned, 8, 16)
EMULATOR_VECTORS(longlong, long long, 16, 16)
EMULATOR_VECTORS(ulonglong, unsigned long long, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
constexpr int warpSize = 32;
typedef void *cudaStream_t, *Stream;  // there is only one

// --- what threads.cpp and memory.cpp do for it --------------------------------------

namespace emulator {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();  // of the thread in its warp

// A line of source. As a default argument it is the line of the call.
struct Line {
  const char* file;
  int line;
};
#define EMULATOR_HERE emulator::Line here = {__builtin_FILE(), __builtin_LINE()}

// Wait for all threads of the block; returns how many of them gave a `vote`.
int block_barrier(bool vote, Line here);
// Wait for the lanes of `mask`.
void warp_barrier(unsigned mask, Line here);
// Wait for the lanes of `mask`, and get what lane `source` gave.
uint64_t exchange(unsigned mask, uint64_t given, int source, Line here);

enum Access { LOAD, STORE, ATOMIC };
// A thread is about to touch memory; `site` is the instruction.
void touch(const void* at, int64_t bytes, Access access, const void* site);

// The shared array number `slot` of the running block, full of NaN for the first thread
// that asks. `item`: bytes of an element; `unit`: bytes that threads can write without
// disturbing their neighbours.
void* shared_array(int slot, const char* name, int64_t bytes, int item, int unit);
void* dynamic_shared_array(int slot, const char* name, int item, int unit);

template <typename T>
struct Element {  // of an array of arrays of T
  typedef T type;
};
template <typename T, decltype(sizeof(0)) N>
struct Element<T[N]> : Element<T> {};

template <typename T>
constexpr int unit() {
  return alignof(T) < 4 ? alignof(T) : 4;
}

// What `__shared__ T name;` becomes.
template <typename T, int SLOT>
inline T& shared(const char* name) {
  const int item = sizeof(typename Element<T>::type);
  return *static_cast<T*>(shared_array(SLOT, name, sizeof(T), item, unit<T>()));
}

// What `extern __shared__ T name[];` becomes.
template <typename T, int SLOT>
inline T* dynamic_shared(const char* name) {
  return static_cast<T*>(dynamic_shared_array(SLOT, name, sizeof(T), unit<T>()));
}

template <typename T>
struct Given {
  typedef T type;  // in a parameter list: this one does not decide what T is
};

// One kernel launch: `call(work)` is what each thread does.
void run(const char* name, dim3 grid, dim3 block, void (*call)(const void*),
         const void* work, int64_t work_bytes);

template <typename Work>
void call(const void* work) {
  (*static_cast<const Work*>(work))();
}

template <typename... Parameters>
void launch(const char* name, dim3 grid, dim3 block, void (*kernel)(Parameters...),
            typename Given<Parameters>::type... arguments) {
  const auto work = [=] { kernel(arguments...); };
  run(name, grid, block, call<decltype(work)>, &work, sizeof(work));
}

template <int... I>
struct Numbers {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};  // Count<3> is a Numbers<0, 1, 2>
template <int... I>
struct Count<0, I...> : Numbers<I...> {};

template <typename... Parameters, int... I>
void launch_at(const char* name, dim3 grid, dim3 block, void (*kernel)(Parameters...),
               void* const* arguments, Numbers<I...>) {
  launch(name, grid, block, kernel, *static_cast<Parameters*>(arguments[I])...);
}

// The same with an address for each argument.
template <typename... Parameters>
void launch(const char* name, dim3 grid, dim3 block, void (*kernel)(Parameters...),
            void* const* arguments) {
  launch_at(name, grid, block, kernel, arguments, Count<sizeof...(Parameters)>());
}

}  // namespace emulator

// kernel<<<grid, block, 0, stream>>>(...); a kernel with commas stands in parentheses.
#define LAUNCH(kernel, grid, block, stream, ...) \
  emulator::launch(#kernel, grid, block, kernel, __VA_ARGS__)

// --- barriers, and what lanes tell each other ---------------------------------------

inline void __syncthreads(EMULATOR_HERE) { emulator::block_barrier(false, here); }
inline int __syncthreads_count(int vote, EMULATOR_HERE) {
  return emulator::block_barrier(vote != 0, here);
}
inline int __syncthreads_or(int vote, EMULATOR_HERE) {
  return emulator::block_barrier(vote != 0, here) > 0;
}
inline int __syncthreads_and(int vote, EMULATOR_HERE) {
  return emulator::block_barrier(vote == 0, here) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) {
  emulator::warp_barrier(mask, here);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace emulator {

template <typename T>
T shuffle(unsigned mask, T value, int source, Line here) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "lanes exchange 4 or 8 bytes");
  uint64_t given = 0;
  memcpy(&given, &value, sizeof(T));
  const uint64_t got = exchange(mask, given, source, here);
  memcpy(&value, &got, sizeof(T));
  return value;
}

}  // namespace emulator

// Lanes exchange within groups of `width`; who would reach beyond its group keeps its
// own number.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_HERE) {
  const int first = emulator::lane() & ~(width - 1);
  return emulator::shuffle(mask, value, first + (source & (width - 1)), here);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane(), source = lane - int(by);
  const bool inside = source >= (lane & ~(width - 1));
  return emulator::shuffle(mask, value, inside ? source : lane, here);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane(), source = lane + int(by);
  const bool inside = source <= (lane | (width - 1));
  return emulator::shuffle(mask, value, inside ? source : lane, here);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane(), source = lane ^ by;
  const bool inside = source <= (lane | (width - 1));
  return emulator::shuffle(mask, value, inside ? source : lane, here);
}

namespace emulator {

// Combine what all lanes of `mask` give, lane by lane.
template <typename T, typename Combine>
T gather(unsigned mask, T value, Line here, Combine combine) {
  T all = T();
  bool first = true;
  for (int source = 0; source < 32; ++source) {
    if (!(mask >> source & 1)) continue;
    const T one = shuffle(mask, value, source, here);
    all = first ? one : combine(all, one);
    first = false;
  }
  return all;
}

}  // namespace emulator

inline unsigned __ballot_sync(unsigned mask, int vote, EMULATOR_HERE) {
  const unsigned mine = vote ? 1u << emulator::lane() : 0u;
  const auto either = [](unsigned a, unsigned b) { return a | b; };
  return emulator::gather(mask, mine, here, either);
}
inline int __any_sync(unsigned mask, int vote, EMULATOR_HERE) {
  return __ballot_sync(mask, vote, here) != 0;
}
inline int __all_sync(unsigned mask, int vote, EMULATOR_HERE) {
  return __ballot_sync(mask, !vote, here) == 0;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value, EMULATOR_HERE) {
  return emulator::gather(mask, value, here, [](T a, T b) { return a + b; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, EMULATOR_HERE) {
  return emulator::gather(mask, value, here, [](T a, T b) { return b < a ? b : a; });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, EMULATOR_HERE) {
  return emulator::gather(mask, value, here, [](T a, T b) { return a < b ? b : a; });
}

// --- atomics ------------------------------------------------------------------------

// One fiber runs at a time: only the report makes these different from `*at = ...`.
#define EMULATOR_ATOMIC(name, result)                                           \
  template <typename T>                                                         \
  __attribute__((noinline, no_sanitize("thread"))) T name(                      \
      T* at, typename emulator::Given<T>::type value) {                         \
    emulator::touch(at, sizeof(T), emulator::ATOMIC, __builtin_return_address(0)); \
    const T before = *at;                                                       \
    *at = result;                                                               \
    return before;                                                              \
  }
EMULATOR_ATOMIC(atomicAdd, T(before + value))
EMULATOR_ATOMIC(atomicSub, T(before - value))
EMULATOR_ATOMIC(atomicMin, value < before ? value : before)
EMULATOR_ATOMIC(atomicMax, before < value ? value : before)
EMULATOR_ATOMIC(atomicAnd, T(before & value))
EMULATOR_ATOMIC(atomicOr, T(before | value))
EMULATOR_ATOMIC(atomicExch, value)
#undef EMULATOR_ATOMIC

template <typename T>
__attribute__((noinline, no_sanitize("thread"))) T atomicCAS(
    T* at, typename emulator::Given<T>::type expected,
    typename emulator::Given<T>::type value) {
  emulator::touch(at, sizeof(T), emulator::ATOMIC, __builtin_return_address(0));
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}

// --- arithmetic ---------------------------------------------------------------------

template <typename A, typename B>
constexpr auto min(A a, B b) -> decltype(a + b) {
  return b < a ? b : a;
}
template <typename A, typename B>
constexpr auto max(A a, B b) -> decltype(a + b) {
  return a < b ? b : a;
}

namespace emulator {

template <typename To, typename From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace emulator

inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }

inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline long long __double2ll_rn(double x) {
  const double rounded = nearbyint(x), end = 9223372036854775808.0;  // 2^63
  if (rounded < end && rounded >= -end) return (long long)rounded;
  return rounded > 0 ? 0x7fffffffffffffffll : -0x7fffffffffffffffll - 1;  // NaN too
}
inline long long __float2ll_rn(float x) { return __double2ll_rn(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T>
T __ldg(const T* at) {
  return *at;
}
