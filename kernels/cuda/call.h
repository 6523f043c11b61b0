// One call of the operator as the kernels see it: sizes, levels, and which block works
// on which queries. No torch and no CUDA types here; the emulator compiles it too.

#pragma once

#include <cstdint>

#include "../ms_deform_attn.h"

// How a kernel is started; round brackets go around one with commas in its name. The
// emulator has its own.
#if !defined(LAUNCH)
#define LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
typedef struct CUstream_st* Stream;  // as in CUDA's own headers
#endif

namespace detr_steps::cuda {

// The types of value, besides float and double; numbers.cuh computes with them.
struct half_bits {  // float16: 1 sign, 5 exponent, 10 mantissa
  uint16_t bits;
};
struct bfloat_bits {  // bfloat16: the upper half of a float32
  uint16_t bits;
};

// What a type is computed in.
template <typename T>
struct WideOf {
  typedef float type;
};
template <>
struct WideOf<double> {
  typedef double type;
};
template <typename T>
using Wide = typename WideOf<T>::type;

constexpr int MAX_LEVELS = 8;
constexpr int MAX_POINTS = 32;  // of one query and head, on all levels together
constexpr int NEVER = 0x7fffffff;

constexpr int SIDE = 8;  // queries that lie in a square of SIDE x SIDE pixels ...
constexpr int TILE = SIDE * SIDE;  // ... read nearly the same pixels: one block's work

struct Level {
  int h, w;
  int start;         // token of its first pixel
  int points;        // K: points of a query and head on this level
  int first_point;   // where they start among all P; NEVER where there is no such level
  int first_tile;    // where its tiles start among all tiles; NEVER likewise
  int tiles_across;  // tiles side by side
  float across, down;  // 1 / w and 1 / h: what an offset of a pixel counts
  float of_box;        // 1 / 2K: what it counts where references are boxes
};

// Sizes by the library's letters. Goes to the kernels by value, so that nobody reads
// sizes from memory. Index `level` by constants, or by what is the same for the whole
// block: lanes that want different ones wait for one another.
struct Call {
  int b, s, m, d, q;
  int p;  // points of a query and head, on all levels together
  int levels;
  Level level[MAX_LEVELS];

  // Where an image starts takes 64 bits: the value of a batch may well be larger than
  // 2^31 numbers. Inside an image 32 bits are enough (see `fits`), and they are faster.
  DETR_STEPS_BOTH int64_t map(int image, int head) const {  // in value [B, S, M, D]
    return (int64_t(image) * s * m + head) * d;
  }
  DETR_STEPS_BOTH int64_t rows(int image) const {  // before this image in [B, Q, M]
    return int64_t(image) * q * m;
  }
  DETR_STEPS_BOTH uint32_t row(uint32_t query, uint32_t head) const {  // after that
    return query * m + head;
  }
  // Does 32-bit arithmetic do, and a grid that has a block for each head and image?
  bool fits() const {
    const int64_t most = int64_t(1) << 31, grid = 65535;
    return b <= grid && m <= grid && int64_t(s) * m * d < most &&
           int64_t(q) * m * d < most && int64_t(q) * m * p * 2 < most;
  }
  DETR_STEPS_BOTH int tiles() const {  // that cover all levels; only where Q == S
    const Level& last = level[levels - 1];
    return last.first_tile + last.tiles_across * ((last.h + SIDE - 1) / SIDE);
  }
};

// `shapes`: h, w of the first level, h, w of the next; `points`: K of each level.
inline Call make_call(int b, int s, int m, int d, int q, int levels,
                      const int64_t* shapes, const int64_t* points) {
  Call call = {b, s, m, d, q, 0, levels, {}};
  int start = 0, tiles = 0;
  for (int l = 0; l < MAX_LEVELS; ++l) {
    call.level[l] = {1, 1, 0, 0, NEVER, NEVER, 1, 1, 1, 0};
    if (l >= levels) continue;
    const int h = int(shapes[2 * l]), w = int(shapes[2 * l + 1]);
    const int across = (w + SIDE - 1) / SIDE;
    call.level[l] = {h,      w,        start,    int(points[l]),  call.p, tiles,
                     across, 1.0f / w, 1.0f / h, 0.5f / points[l]};
    start += h * w;
    tiles += across * ((h + SIDE - 1) / SIDE);
    call.p += int(points[l]);
  }
  return call;
}

// The queries of one block, numbered 0, 1, ... row by row, SIDE to a row.
struct Tile {
  uint32_t first;          // query number of its top left corner
  uint32_t line;           // from there to the one below
  uint32_t columns, rows;  // less than SIDE where the map ends
  uint32_t end;            // no query has this number or a higher one

  DETR_STEPS_BOTH uint32_t query(uint32_t i) const {
    return first + i / SIDE * line + i % SIDE;
  }
  DETR_STEPS_BOTH bool has(uint32_t i) const {
    return i % SIDE < columns && i / SIDE < rows && query(i) < end;
  }
};

// Block `index` of those that share the queries of an image and head. Where the queries
// are the pixels themselves (an encoder) it takes a square of pixels, otherwise `strip`
// queries that follow one another.
DETR_STEPS_BOTH Tile find_tile(const Call& call, int index, uint32_t strip) {
  if (call.q != call.s)
    return {index * strip, SIDE, SIDE, NEVER, uint32_t(call.q)};
  int l = 0;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int i = 1; i < MAX_LEVELS; ++i) l += index >= call.level[i].first_tile;
  const Level& level = call.level[l];
  const uint32_t number = index - level.first_tile;
  const uint32_t y = number / uint32_t(level.tiles_across);
  const uint32_t x = number - y * level.tiles_across;
  return {level.start + SIDE * (y * level.w + x), uint32_t(level.w),
          level.w - SIDE * x, level.h - SIDE * y, uint32_t(call.q)};
}

inline unsigned blocks(int64_t work, int64_t of_block) {
  return unsigned((work + of_block - 1) / of_block);
}

// Blocks needed so that find_tile reaches every query.
inline int count_tiles(const Call& call, int strip) {
  return call.q == call.s ? call.tiles() : (call.q + strip - 1) / strip;
}

}  // namespace detr_steps::cuda
