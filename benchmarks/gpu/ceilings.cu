// What a card can do at most, one resource at a time. Rows are 128 bytes, as those of a
// head of 32 channels: eight lanes, 16 bytes each.

#include <cstdint>

// A row that nobody can foresee.
__device__ __forceinline__ int scatter(int i, int rows) {
  uint32_t x = uint32_t(i) * 2654435761u;
  x = (x ^ x >> 15) * 2246822519u;
  return int((x ^ x >> 13) % uint32_t(rows));
}

// Past the L1 cache, which would otherwise answer.
__device__ __forceinline__ float4 load_l2(const float4* from) {
#if defined(__CUDA_ARCH__)
  float4 x;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(from));
  return x;
#else
  return *from;
#endif
}

__device__ __forceinline__ float all(float4 x) { return x.x + x.y + x.z + x.w; }

__global__ void copy(const float* from, float* to, int pieces) {
  const int stride = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pieces; i += stride)
    reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
}

__global__ void read_l2(const float* from, float* out, int pieces, int rounds) {
  const int stride = gridDim.x * blockDim.x;
  const int first = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0;
  for (int round = 0; round < rounds; ++round)
#pragma unroll 4
    for (int i = first; i < pieces; i += stride)
      sum += all(load_l2(reinterpret_cast<const float4*>(from) + i));
  if (sum == 12345.678f) out[0] = sum;  // never: but the compiler cannot know
}

// Reads `each` rows with every eight lanes, anywhere among `rows`.
__global__ void gather(const float* from, float* out, int rows, int each) {
  const int group = (blockIdx.x * blockDim.x + threadIdx.x) / 8, lane = threadIdx.x % 8;
  float sum = 0;
#pragma unroll 4
  for (int i = 0; i < each; ++i) {
    const int row = scatter(group * each + i, rows);
    sum += all(reinterpret_cast<const float4*>(from)[row * 8 + lane]);
  }
  if (sum == 12345.678f) out[0] = sum;
}

__global__ void add_scalars(float* to, int rows, int each) {
  const int group = (blockIdx.x * blockDim.x + threadIdx.x) / 8, lane = threadIdx.x % 8;
  for (int i = 0; i < each; ++i) {
    float* row = to + scatter(group * each + i, rows) * 32 + lane * 4;
    for (int c = 0; c < 4; ++c) atomicAdd(row + c, 1.0f);
  }
}

__global__ void add_vectors(float* to, int rows, int each) {
  const int group = (blockIdx.x * blockDim.x + threadIdx.x) / 8, lane = threadIdx.x % 8;
  for (int i = 0; i < each; ++i) {
    float* row = to + scatter(group * each + i, rows) * 32 + lane * 4;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const float one = 1.0f;
    asm volatile("red.global.add.v4.f32 [%0], {%1, %1, %1, %1};" ::"l"(row), "f"(one));
#else
    for (int c = 0; c < 4; ++c) atomicAdd(row + c, 1.0f);
#endif
  }
}
