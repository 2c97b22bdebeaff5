// Scoring on a GPU: what is not a plain product of matrices. build.rs compiles this to PTX where the feature `cuda` is on.
//
// Candidates are handled in tiles of one request each, `D` is d rounded up to a width there is a kernel for (the padding
// is zero everywhere), and all values are f32. Shapes: R requests, T tiles, C candidates of all requests one after another.

typedef unsigned int u32;
typedef unsigned long long u64;

// Candidates of a tile; events that are in shared memory at a time. Rust's side has the same numbers.
constexpr int TILE = 64;
constexpr int EVENTS = 32;
// Distances between rows in shared memory: whole float4s, and not a multiple of all banks.
constexpr int TILE_STRIDE = TILE + 4;
constexpr int EVENT_STRIDE = EVENTS + 4;
// A thread has 4 candidates and 4 events, or 4 candidates and every eighth pair of columns.
constexpr int LANES = EVENTS / 4;
constexpr int POOL_THREADS = TILE / 4 * LANES;
constexpr int WARP = 32;

struct Tile {
    u32 request;
    u32 start;  // its first candidate, of all
    u32 count;
    u32 unused;
};

struct Request {
    const float* encoded[2];  // by side: [events, D], the similar ones first
    const float* user_block;  // [h], the bias included
    u32 events[2];
    u32 similar[2];  // as many as events where the sets are not told apart
};

__device__ __forceinline__ float4 load4(const float* values) { return *reinterpret_cast<const float4*>(values); }
__device__ __forceinline__ float2 load2(const float* values) { return *reinterpret_cast<const float2*>(values); }

// What is no number stays none, as it would not by fmaxf: the engine looks for that in the scores.
__device__ __forceinline__ float relu(float x) { return x < 0.f ? 0.f : x; }

// Over the threads that share candidates.
__device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// Softmax pooling of one set's events for 4 candidates of this thread, the events in chunks with a running maximum
// (Milakov and Gimelshein, 2018): `out` is the pooled sum of 2 columns in every 16, `top` the largest score, `mass` the
// sum of e^(score - top).
template <int D>
__device__ __forceinline__ void pool_set(const float* encoded, u32 begin, u32 end, const float* keys, float* events,
                                         float* events_t, float* weights_t, float (&out)[4][D / 8], float (&top)[4],
                                         float (&mass)[4]) {
    const int thread = threadIdx.x, lane = thread % LANES, row = thread / LANES * 4;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        top[r] = -INFINITY;
        mass[r] = 0.f;
#pragma unroll
        for (int c = 0; c < D / 8; c++) out[r][c] = 0.f;
    }
    for (u32 first = begin; first < end; first += EVENTS) {
        const u32 count = min(end - first, (u32)EVENTS);
        __syncthreads();  // the previous chunk has been used
        for (int n = thread; n < EVENTS * D; n += POOL_THREADS) {
            const u32 event = n / D, column = n % D;
            const float value = event < count ? encoded[(u64)(first + event) * D + column] : 0.f;
            events[n] = value;
            events_t[column * EVENT_STRIDE + event] = value;
        }
        __syncthreads();

        float score[4][4] = {};
#pragma unroll 8
        for (int k = 0; k < D; k++) {
            const float4 a = load4(keys + k * TILE_STRIDE + row), b = load4(events_t + k * EVENT_STRIDE + 4 * lane);
            const float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int e = 0; e < 4; e++) score[r][e] = fmaf(as[r], bs[e], score[r][e]);
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float largest = -INFINITY;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (4 * lane + e >= count) score[r][e] = -INFINITY;
                largest = fmaxf(largest, score[r][e]);
            }
            const float now = fmaxf(top[r], lanes_max(largest)), shrink = expf(top[r] - now);
            float sum = 0.f;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                score[r][e] = expf(score[r][e] - now);
                sum += score[r][e];
            }
            top[r] = now;
            mass[r] = fmaf(mass[r], shrink, lanes_sum(sum));
#pragma unroll
            for (int c = 0; c < D / 8; c++) out[r][c] *= shrink;
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            *reinterpret_cast<float4*>(weights_t + (4 * lane + e) * TILE_STRIDE + row) =
                make_float4(score[0][e], score[1][e], score[2][e], score[3][e]);
        }
        __syncthreads();
#pragma unroll 4
        for (u32 e = 0; e < count; e++) {
            const float4 a = load4(weights_t + e * TILE_STRIDE + row);
            const float as[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                const float2 b = load2(events + e * D + 16 * c + 2 * lane);
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    out[r][2 * c] = fmaf(as[r], b.x, out[r][2 * c]);
                    out[r][2 * c + 1] = fmaf(as[r], b.y, out[r][2 * c + 1]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < D / 8; c++) out[r][c] /= mass[r];
}

// Multi-interest extraction of one side (eq. 14-16) for a tile; grid (T, 2 sides).
// keys [items, D] by side, embedded [items, D] or null, matching and inner [2 · poolings] or null,
// interests [C, 2 · poolings · D], further [2, C]: what matching and inner products add to the logit, if either is there.
template <int D>
__device__ __forceinline__ void pool(const Tile* tiles, const Request* requests, const u32* items, const float* rec_keys,
                                     const float* src_keys, const float* embedded, const float* matching,
                                     const float* inner, u32 poolings, u32 candidates, float* interests, float* further) {
    extern __shared__ float4 shared[];
    float* keys = reinterpret_cast<float*>(shared);   // [D, TILE]
    float* events_t = keys + D * TILE_STRIDE;         // [D, EVENTS]
    float* weights_t = events_t + D * EVENT_STRIDE;   // [EVENTS, TILE]
    float* events = weights_t + EVENTS * TILE_STRIDE;  // [EVENTS, D]
    const int thread = threadIdx.x, lane = thread % LANES, row = thread / LANES * 4, side = blockIdx.y;
    const Tile tile = tiles[blockIdx.x];
    const Request& request = requests[tile.request];
    const u32 count = request.events[side], similar = request.similar[side];
    const float* encoded = request.encoded[side];
    const float* table = side == 0 ? rec_keys : src_keys;

    for (int n = thread; n < TILE * D; n += POOL_THREADS) {
        const u32 candidate = min((u32)(n / D), tile.count - 1), column = n % D;
        keys[column * TILE_STRIDE + n / D] = table[(u64)items[tile.start + candidate] * D + column];
    }

    float out[4][D / 8], top[4], mass[4], first_top[4], first_mass[4], first_match[4], added[4] = {};
    // The logit's share of pooling p: how well it matches, and its inner product with the candidate.
    const auto weigh = [&](int r, u32 pooling, float match, float product) {
        const u32 at = side * poolings + pooling;
        if (matching) added[r] += matching[at] * match;
        if (inner) added[r] += inner[at] * product;
    };
    const auto at = [&](int r, u32 pooling, int column) {
        return interests + ((u64)(tile.start + row + r) * 2 + side) * poolings * D + pooling * D + column;
    };
    const auto store = [&](int r, u32 pooling, int c, float x, float y) {
        if (row + r < tile.count) *reinterpret_cast<float2*>(at(r, pooling, 16 * c + 2 * lane)) = make_float2(x, y);
    };
    const auto inner_product = [&](int r) {
        float sum = 0.f;
        if (inner) {
            const float* candidate = embedded + (u64)items[tile.start + min((u32)(row + r), tile.count - 1)] * D;
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                const float2 e = load2(candidate + 16 * c + 2 * lane);
                sum = fmaf(e.x, out[r][2 * c], fmaf(e.y, out[r][2 * c + 1], sum));
            }
            sum = lanes_sum(sum);
        }
        return sum;
    };

    if (count == 0) {
#pragma unroll
        for (int r = 0; r < 4; r++)
            for (u32 pooling = 0; pooling < poolings; pooling++)
#pragma unroll
                for (int c = 0; c < D / 16; c++) store(r, pooling, c, 0.f, 0.f);
    } else if (similar == count || poolings == 1) {
        pool_set<D>(encoded, 0, count, keys, events, events_t, weights_t, out, top, mass);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float match = top[r] + logf(mass[r] / count), product = inner_product(r);
            for (u32 pooling = 0; pooling < poolings; pooling++) {
                weigh(r, pooling, match, product);
#pragma unroll
                for (int c = 0; c < D / 16; c++) store(r, pooling, c, out[r][2 * c], out[r][2 * c + 1]);
            }
        }
    } else {
        float first_product[4];
        pool_set<D>(encoded, 0, similar, keys, events, events_t, weights_t, out, top, mass);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            first_top[r] = top[r];
            first_mass[r] = mass[r];
            first_match[r] = top[r] + logf(mass[r] / similar);
            first_product[r] = inner_product(r);
            weigh(r, 1, first_match[r], first_product[r]);
#pragma unroll
            for (int c = 0; c < D / 16; c++) store(r, 1, c, out[r][2 * c], out[r][2 * c + 1]);
        }
        pool_set<D>(encoded, similar, count, keys, events, events_t, weights_t, out, top, mass);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float product = inner_product(r);
            weigh(r, 2, top[r] + logf(mass[r] / (count - similar)), product);
            // The sets partition the events, so pooling over all is their sum weighted by the mass of each.
            const float highest = fmaxf(top[r], first_top[r]);
            const float one = first_mass[r] * expf(first_top[r] - highest), other = mass[r] * expf(top[r] - highest);
            const float share = one / (one + other);
            weigh(r, 0, highest + logf((one + other) / count), fmaf(share, first_product[r] - product, product));
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                const float x = out[r][2 * c], y = out[r][2 * c + 1];
                store(r, 2, c, x, y);
                if (row + r < tile.count) {
                    const float2 first = load2(at(r, 1, 16 * c + 2 * lane));  // this thread's own
                    store(r, 0, c, fmaf(share, first.x - x, x), fmaf(share, first.y - y, y));
                }
            }
        }
    }
    if (further && lane == 0) {
#pragma unroll
        for (int r = 0; r < 4; r++)
            if (row + r < tile.count) further[(u64)side * candidates + tile.start + row + r] = added[r];
    }
}

#define POOL(D)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(POOL_THREADS)                                                         \
        pool_##D(const Tile* tiles, const Request* requests, const u32* items, const float* rec_keys,                  \
                 const float* src_keys, const float* embedded, const float* matching, const float* inner,              \
                 u32 poolings, u32 candidates, float* interests, float* further) {                                     \
        pool<D>(tiles, requests, items, rec_keys, src_keys, embedded, matching, inner, poolings, candidates,           \
                interests, further);                                                                                   \
    }

POOL(32)
POOL(48)
POOL(64)
POOL(96)
POOL(128)

// The first prediction layer from its shares: x [C, h] holds the interests' and becomes relu(x + user + item), with
// item_blocks [items, h]. A warp takes a candidate; grid (T).
extern "C" __global__ void first_layer(const Tile* tiles, const Request* requests, const u32* items,
                                       const float* item_blocks, u32 h, float* x) {
    const Tile tile = tiles[blockIdx.x];
    const float* user_block = requests[tile.request].user_block;
    for (u32 n = threadIdx.x / WARP; n < tile.count; n += blockDim.x / WARP) {
        const u64 candidate = tile.start + n;
        const float* item = item_blocks + (u64)items[candidate] * h;
        for (u32 column = threadIdx.x % WARP; column < h; column += WARP) {
            float* value = x + candidate * h + column;
            *value = relu(*value + user_block[column] + item[column]);
        }
    }
}

// A layer between: x [C, h] becomes relu(x + bias).
extern "C" __global__ void bias_relu(const float* bias, u32 h, u64 values, float* x) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < values) x[at] = relu(x[at] + bias[at % h]);
}

// The last layer: scores [C] from x [C, h], which still lacks its own layer's bias and ReLU where `bias` is not null,
// with weights [h], last_bias [1], item_bias [items] or null, further [2, C] or null. A warp takes a candidate.
extern "C" __global__ void last_layer(const float* x, const float* bias, const float* weights, const float* last_bias,
                                      const u32* items, const float* item_bias, const float* further, u32 h,
                                      u32 candidates, float* scores) {
    const u32 candidate = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (candidate >= candidates) return;
    float logit = 0.f;
    for (u32 column = lane; column < h; column += WARP) {
        float value = x[(u64)candidate * h + column];
        if (bias) value = relu(value + bias[column]);
        logit = fmaf(value, weights[column], logit);
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) logit += __shfl_xor_sync(0xffffffffu, logit, distance);
    if (lane != 0) return;
    logit += last_bias[0];
    if (item_bias) logit += item_bias[items[candidate]];
    if (further) logit += further[candidate] + further[candidates + candidate];
    scores[candidate] = logit;
}
