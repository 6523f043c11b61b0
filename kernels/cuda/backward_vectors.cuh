// Backward step "vectors": 16 bytes a lane, and sums across lanes in passing.
//
// What changes: as in the forward step D / 4 lanes do for a query and head (D / 8 where
// numbers have 16 bits). Each finds a point; then the group walks all rows, and the
// lanes tell one another which row is next by exchanging registers. The dot products
// are added across the lanes for as many points at once as there are lanes, so that
// each lane ends with those of its own point. One instruction adds 16 bytes to a row of
// the value's gradient.
// Why faster: the naive kernel spends most of its 330 instructions per point on sums in
// which few threads work, and on barriers. Here a point takes a tenth of them. What is
// left to wait for are the reductions in L2: four rows for each point.

#pragma once

#include "gradients.cuh"

namespace detr_steps::cuda {

constexpr int BACK_THREADS = 256;

template <typename T, int D, typename Points>
__global__ void __launch_bounds__(BACK_THREADS, BLOCKS_AT_ONCE<D>)
    backward_vectors(Call call, const T* __restrict__ value, Points points,
                     const T* __restrict__ grad, Floating<float> sums,
                     typename Points::Grads grads) {
  constexpr int LANES = D / LENGTH<T>;  // that share a query and head
  constexpr int GROUPS = BACK_THREADS / LANES;
  __shared__ PointLevel levels[MAX_POINTS];
  list_levels<ANY>(call, 1, levels);  // corners are numbers of pixels

  // A group for each row of [Q, M]. Beyond the last one it does that once more, and
  // keeps it for itself: all lanes of a warp take part in its exchanges.
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const uint32_t rows = uint32_t(call.q) * call.m, mine = blockIdx.x * GROUPS + group;
  const bool live = mine < rows;
  const uint32_t row = live ? mine : rows - 1;
  const uint32_t query = row / call.m, head = row - query * call.m;
  const int image = blockIdx.y, count = call.p;

  const int channel = lane * LENGTH<T>;
  const Rows<const T> map = find_rows(call, value, image, head, channel);
  const Rows<float> grad_map = find_rows(call, sums.sums, image, head, channel);
  const Vector<T> upstream = load<T>(grad + call.rows(image) * D + row * D + channel);
  points = points.of_image(call, image, count).of(call, query, head, count);
  const int64_t start = (call.rows(image) + row) * count;  // of its points
  points.template prepare<LANES, ANY>(lane, count);

#pragma unroll 1
  for (int first = 0; first < count; first += LANES) {
    const int p = min(first + lane, count - 1);  // where none is left: the last again
    const bool some = live && first + lane < count;
    const PointLevel level = levels[p];
    const Spot spot = find_spot(level, points.location(p, level));
    const float weight = points.weight(p);
    const float4 shares = find_shares(spot, some ? weight : 0);
    const PointGrad<float> found = find_grad<T, LANES>(
        map, level, spot, lane, [&](int s) { return upstream; },
        [&](int c, int s, uint32_t pixel) {
          const float top = c & 1 ? shares.y : shares.x;
          const float bottom = c & 1 ? shares.w : shares.z;
          const float share = __shfl_sync(ALL, c & 2 ? bottom : top, s, LANES);
          add_row(grad_map, pixel, share, upstream.at);
        });
    if (some) grads.put(points, start + p, level, weight, found);
  }
  grads.template finish<LANES>(points, live ? start : -1, lane, count);
}

}  // namespace detr_steps::cuda
