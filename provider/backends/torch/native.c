/* Linear layers, and whole encoders of the BERT family, in float32; compiled by `native.py` for one processor.
 *
 * Weights lie in panels (outputs / WIDTH, inputs, WIDTH), filled up with zeros as the bias is: products read them in
 * order. A product computes ROWS x WIDTH numbers at a time in registers, as in BLIS. Matrices are C-contiguous. All
 * functions may run in several threads at once; with `threads` above 1 they share their work among OpenMP threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ROWS x VECTORS sums, a row of weights and one state fill the registers. */
#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 2, ROWS = 12 };
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, ROWS = 6 };
#elif defined(__aarch64__)
enum { LANES = 4, VECTORS = 4, ROWS = 6 };
#else
enum { LANES = 4, VECTORS = 2, ROWS = 6 };
#endif
/* DEPTH inputs of a panel stay in the first cache, BAND rows of states in the second. */
enum { WIDTH = LANES * VECTORS, DEPTH = 384, BAND = 48 };
enum { NONE, GELU, GELU_TANH, RELU, SILU };
enum { OK, NO_MEMORY, BAD_ID, BAD_PLACE };

typedef int64_t size;
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct { size inputs, outputs, activation; const float *panels, *bias; } Linear;
typedef struct { const float *scale, *shift; } Norm;
typedef struct { Linear qkv, attended, up, down; Norm attended_norm, down_norm; } Layer;
typedef struct {
    size layers, heads, hidden, vocabulary, positions;
    double eps;
    const float *words, *places;
    Norm norm;
    const Layer *layer;
} Encoder;

static const float ZEROS[WIDTH];

/* out = start + x @ panel, for `rows` rows, known when this is compiled. What is needed next is fetched meanwhile. */
static inline __attribute__((always_inline)) void tile(
    const int rows, size depth, const float *x, size x_step, const float *panel, const float *start, size start_step,
    float *out, size out_step, const float *next, size next_step)
{
    vector sums[ROWS][VECTORS] = {0}, weights[VECTORS];
    for (size k = 0; k < depth; k++, panel += WIDTH, next += next_step) {
        __builtin_prefetch(next);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) weights[v] = *(const vector *)(panel + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float value = x[r * x_step + k];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[r][v] += value * weights[v];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(out + r * out_step + v * LANES) =
                *(const vector *)(start + r * start_step + v * LANES) + sums[r][v];
}

/* out (rows, WIDTH) = start (WIDTH,) + x (rows, depth) @ panel (depth, WIDTH) */
static void multiply(size rows, size depth, const float *x, size x_step, const float *panel, const float *start,
                     float *out, size out_step)
{
    size strips = (rows + ROWS - 1) / ROWS, start_step = 0;
    for (size k = 0; k < depth; k += DEPTH, start = out, start_step = out_step) {
        size deep = depth - k < DEPTH ? depth - k : DEPTH;
        const float *here = panel + k * WIDTH, *next = here + deep * WIDTH;
        for (size strip = 0; strip < strips; strip++) {
            size at = rows * strip / strips, count = rows * (strip + 1) / strips - at;
            switch (count) {
#define CASE(n)                                                                                                       \
    case n:                                                                                                           \
        tile(n, deep, x + at * x_step + k, x_step, here, start + at * start_step, start_step, out + at * out_step,    \
             out_step, next + strip * deep * WIDTH / strips, WIDTH / strips);                                         \
        break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if defined(__AVX512F__)
                CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
            }
        }
    }
}

/* By Cephes' expf; NaN stays. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float whole = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = ((1.9875691500e-4f * rest + 1.3981999507e-3f) * rest + 8.3334519073e-3f) * rest + 4.1665795894e-2f;
    sum = ((sum * rest + 1.6666665459e-1f) * rest + 5.0000001201e-1f) * rest * rest + rest + 1.0f;
    union { int32_t bits; float value; } power = {.bits = ((int32_t)whole + 127) << 23};
    return sum * power.value;
}

/* x * erfc(-x / sqrt(2)) / 2; erfc as in Numerical Recipes, 6.2. */
static inline float gelu(float x)
{
    float z = (x < 0.0f ? -x : x) * 0.70710678118654752f, t = 1.0f / (1.0f + 0.5f * z);
    float sum = ((0.17087277f * t - 0.82215223f) * t + 1.48851587f) * t - 1.13520398f;
    sum = ((sum * t + 0.27886807f) * t - 0.18628806f) * t + 0.09678418f;
    sum = ((sum * t + 0.37409196f) * t + 1.00002368f) * t - 1.26551223f;
    float half = 0.5f * t * exponential(sum - z * z);
    return x * (x < 0.0f ? half : 1.0f - half);
}

static void activate(size activation, float *values, size count)
{
    switch (activation) {
    case GELU:
#pragma omp simd
        for (size i = 0; i < count; i++) values[i] = gelu(values[i]);
        break;
    case GELU_TANH:
#pragma omp simd
        for (size i = 0; i < count; i++) {
            float x = values[i];
            values[i] = x / (1.0f + exponential(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
        }
        break;
    case RELU:
        for (size i = 0; i < count; i++) values[i] = values[i] < 0.0f ? 0.0f : values[i];
        break;
    case SILU:
#pragma omp simd
        for (size i = 0; i < count; i++) values[i] = values[i] / (1.0f + exponential(-values[i]));
        break;
    }
}

/* out (rows, outputs) = activation(x (rows, inputs) @ weight.T + bias) */
static void apply(const Linear *layer, const float *x, size rows, float *out)
{
    size inputs = layer->inputs, outputs = layer->outputs;
    size bands = (rows + BAND - 1) / BAND, panels = (outputs + WIDTH - 1) / WIDTH;
#pragma omp for collapse(2)
    for (size band = 0; band < bands; band++)
        for (size panel = 0; panel < panels; panel++) {
            size first = rows * band / bands, count = rows * (band + 1) / bands - first, at = panel * WIDTH;
            size width = outputs - at < WIDTH ? outputs - at : WIDTH, step = width < WIDTH ? WIDTH : outputs;
            float scratch[BAND * WIDTH], *place = out + first * outputs + at;
            float *to = width < WIDTH ? scratch : place;
            multiply(count, inputs, x + first * inputs, inputs, layer->panels + at * inputs, layer->bias + at, to,
                     step);
            for (size r = 0; r < count; r++) {
                activate(layer->activation, to + r * step, WIDTH);
                if (width < WIDTH) memcpy(place + r * outputs, to + r * step, width * sizeof *out);
            }
        }
}

/* Normalise `states` (rows, width), after adding `more` if there is any. */
static void normalise(const Norm *norm, double eps, size rows, size width, const float *more, float *states)
{
#pragma omp for
    for (size r = 0; r < rows; r++) {
        float *row = states + r * width, sum = 0, squares = 0;
        if (more)
            for (size i = 0; i < width; i++) row[i] += more[r * width + i];
#pragma omp simd reduction(+ : sum)
        for (size i = 0; i < width; i++) sum += row[i];
        float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (size i = 0; i < width; i++) squares += (row[i] - mean) * (row[i] - mean);
        float factor = 1.0f / sqrtf(squares / width + (float)eps);
        for (size i = 0; i < width; i++) row[i] = (row[i] - mean) * factor * norm->scale[i] + norm->shift[i];
    }
}

static size filled(size count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

/* One head of one row: context (queries, depth) from `qkv`, of which query, key and value are `hidden` apart. */
static void attend(size queries, size seen, size depth, size hidden, const float *qkv, float *scratch, float *context,
                   size step)
{
    size wide = filled(seen), deep = filled(depth);
    float *keys = scratch, *values = keys + wide * depth, *scores = values + deep * seen, *sums = scores + BAND * wide;
    float scale = 1.0f / sqrtf((float)depth), totals[BAND];
    for (size k = 0; k < wide; k++)
        for (size d = 0; d < depth; d++)
            keys[k / WIDTH * WIDTH * depth + d * WIDTH + k % WIDTH] =
                k < seen ? qkv[k * 3 * hidden + hidden + d] * scale : 0.0f;
    for (size k = 0; k < seen; k++)
        for (size d = 0; d < deep; d++)
            values[d / WIDTH * WIDTH * seen + k * WIDTH + d % WIDTH] =
                d < depth ? qkv[k * 3 * hidden + 2 * hidden + d] : 0.0f;
    for (size first = 0; first < queries; first += BAND) {
        size count = queries - first < BAND ? queries - first : BAND;
        for (size k = 0; k < wide; k += WIDTH)
            multiply(count, depth, qkv + first * 3 * hidden, 3 * hidden, keys + k * depth, ZEROS, scores + k, wide);
        for (size q = 0; q < count; q++) {
            float *row = scores + q * wide, largest = row[0], total = 0;
#pragma omp simd reduction(max : largest)
            for (size k = 0; k < seen; k++) largest = row[k] > largest ? row[k] : largest;
#pragma omp simd reduction(+ : total)
            for (size k = 0; k < seen; k++) {
                row[k] = exponential(row[k] - largest);
                total += row[k];
            }
            totals[q] = total;
        }
        for (size d = 0; d < deep; d += WIDTH)
            multiply(count, seen, scores, wide, values + d * seen, ZEROS, sums + d, deep);
        for (size q = 0; q < count; q++)
            for (size d = 0; d < depth; d++) context[(first + q) * step + d] = sums[q * deep + d] / totals[q];
    }
}

size panel_width(void) { return WIDTH; }

/* weight (outputs, inputs) to panels */
void pack(const float *weight, size inputs, size outputs, float *panels)
{
    for (size at = 0; at < outputs; at += WIDTH)
        for (size k = 0; k < inputs; k++)
            for (size o = at; o < at + WIDTH; o++) *panels++ = o < outputs ? weight[o * inputs + k] : 0.0f;
}

/* out (rows, outputs) from x (rows, inputs) */
void linear(const Linear *layer, const float *x, size rows, int threads, float *out)
{
#pragma omp parallel num_threads(threads) if (threads > 1)
    apply(layer, x, rows, out);
}

/* Hidden states (tokens, hidden) of rows one behind the other: row i has the tokens from starts[i] to starts[i + 1], of
 * which the first seen[i] are attended to. With `firsts` those of each row's first token, (rows, hidden).
 *
 * ids and places are (tokens,), starts is (rows + 1,), seen is (rows,).
 */
int encode(const Encoder *encoder, const size *ids, const size *places, size rows, const size *starts,
           const size *seen, int firsts, int threads, float *out)
{
    size tokens = starts[rows], hidden = encoder->hidden, depth = hidden / encoder->heads, longest = 0;
    size inner = encoder->layer[0].up.outputs;
    for (size t = 0; t < tokens; t++) {
        if (ids[t] < 0 || ids[t] >= encoder->vocabulary) return BAD_ID;
        if (places[t] < 0 || places[t] >= encoder->positions) return BAD_PLACE;
    }
    for (size i = 0; i < rows; i++) longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    size wide = filled(longest), deep = filled(depth);
    size own = wide * depth + deep * longest + BAND * (wide + deep);
    float *states = malloc((tokens * (5 * hidden + inner) + threads * own) * sizeof *states);
    if (!states) return NO_MEMORY;
    float *qkv = states + tokens * hidden, *context = qkv + 3 * tokens * hidden, *wider = context + tokens * hidden;
    float *scratches = wider + tokens * inner;
    int team = 0; /* threads that have a number */
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int member;
#pragma omp atomic capture
        member = team++;
        float *scratch = scratches + member * own;
#pragma omp for
        for (size t = 0; t < tokens; t++)
            for (size i = 0; i < hidden; i++)
                states[t * hidden + i] =
                    encoder->words[ids[t] * hidden + i] + encoder->places[places[t] * hidden + i];
        normalise(&encoder->norm, encoder->eps, tokens, hidden, NULL, states);
        size count = tokens; /* whose states are computed further */
        for (size i = 0; i < encoder->layers; i++) {
            const Layer *layer = encoder->layer + i;
            int is_short = firsts && i + 1 == encoder->layers;
            apply(&layer->qkv, states, tokens, qkv);
#pragma omp for collapse(2) schedule(dynamic)
            for (size row = 0; row < rows; row++)
                for (size head = 0; head < encoder->heads; head++) {
                    size start = starts[row], queries = is_short ? 1 : starts[row + 1] - start;
                    attend(queries, seen[row], depth, hidden, qkv + start * 3 * hidden + head * depth, scratch,
                           context + (is_short ? row : start) * hidden + head * depth, hidden);
                }
            count = is_short ? rows : tokens;
#pragma omp single
            for (size row = 0; is_short && row < rows; row++)
                memmove(states + row * hidden, states + starts[row] * hidden, hidden * sizeof *states);
            /* qkv is free now */
            apply(&layer->attended, context, count, qkv);
            normalise(&layer->attended_norm, encoder->eps, count, hidden, states, qkv);
            apply(&layer->up, qkv, count, wider);
            apply(&layer->down, wider, count, states);
            normalise(&layer->down_norm, encoder->eps, count, hidden, qkv, states);
        }
#pragma omp single
        memcpy(out, states, count * hidden * sizeof *out);
    }
    free(states);
    return OK;
}
