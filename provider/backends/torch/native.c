/* Linear layers, and whole encoders of the BERT family, in float32; compiled by `native.py` for one processor.
 *
 * Weights lie in panels (outputs / WIDTH, inputs, WIDTH), filled up with zeros as the bias is: products read them in
 * order. A product computes ROWS x WIDTH numbers at a time in registers, as in BLIS. Matrices are C-contiguous. All
 * functions may run in several threads at once; with `threads` above 1 they share their work among OpenMP threads.
 */
#define _GNU_SOURCE
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

#include "native_activations.h"
#include "native_help.h"

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

static size bands(size rows) { return (rows + BAND - 1) / BAND; }
static size panels(const Linear *layer) { return (layer->outputs + WIDTH - 1) / WIDTH; }

/* Rows and columns of a part: its place in (rows, outputs), and how many. */
typedef struct { size first, count, at, width; } Area;
static Area area(const Product *product, size part)
{
    size of = panels(product->layer), band = part / of, all = bands(product->rows), at = part % of * WIDTH;
    size first = product->rows * band / all, left = product->layer->outputs - at;
    return (Area){first, product->rows * (band + 1) / all - first, at, left < WIDTH ? left : WIDTH};
}

static void compute_part(const Product *product, size part, float *out)
{
    const Linear *layer = product->layer;
    size inputs = layer->inputs, outputs = layer->outputs;
    Area here = area(product, part);
    size step = here.width < WIDTH ? WIDTH : outputs;
    float scratch[BAND * WIDTH], *place = out + here.first * outputs + here.at;
    float *to = here.width < WIDTH ? scratch : place;
    multiply(here.count, inputs, product->x + here.first * inputs, inputs, layer->panels + here.at * inputs,
             layer->bias + here.at, to, step);
    for (size r = 0; r < here.count; r++) {
        activate(layer->activation, to + r * step, WIDTH);
        if (here.width < WIDTH) memcpy(place + r * outputs, to + r * step, here.width * sizeof *out);
    }
}

static void copy_part(const Product *product, size part, const float *from, float *out)
{
    size outputs = product->layer->outputs;
    Area here = area(product, part);
    for (size r = here.first; r < here.first + here.count; r++)
        memcpy(out + r * outputs + here.at, from + r * outputs + here.at, here.width * sizeof *out);
}

/* out (rows, outputs) = activation(x (rows, inputs) @ weight.T + bias) */
static void apply(Pass *pass, const Linear *layer, const float *x, size rows, float *out)
{
    Product product = {layer, x, rows};
    size parts = bands(rows) * panels(layer);
    if (pass && parts <= MOST_PARTS) {
        share(pass, product, parts, out);
        return;
    }
#pragma omp for
    for (size part = 0; part < parts; part++) compute_part(&product, part, out);
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
    apply(NULL, layer, x, rows, out);
}

/* Hidden states (tokens, hidden) of rows one behind the other: row i has the tokens from starts[i] to starts[i + 1], of
 * which the first seen[i] are attended to. With `firsts` those of each row's first token, (rows, hidden).
 *
 * ids and places are (tokens,), starts is (rows + 1,), seen is (rows,).
 */
int encode(const Encoder *encoder, const size *ids, const size *places, size rows, const size *starts,
           const size *seen, int firsts, int threads, int is_helped, float *out)
{
    size tokens = starts[rows], hidden = encoder->hidden, depth = hidden / encoder->heads, longest = 0;
    size inner = encoder->layer[0].up.outputs, widest = inner > 3 * hidden ? inner : 3 * hidden;
    for (size t = 0; t < tokens; t++) {
        if (ids[t] < 0 || ids[t] >= encoder->vocabulary) return BAD_ID;
        if (places[t] < 0 || places[t] >= encoder->positions) return BAD_PLACE;
    }
    for (size i = 0; i < rows; i++) longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    size wide = filled(longest), deep = filled(depth);
    size own = wide * depth + deep * longest + BAND * (wide + deep);
    float *states = malloc((tokens * (5 * hidden + inner + is_helped * widest) + threads * own) * sizeof *states);
    if (!states) return NO_MEMORY;
    float *qkv = states + tokens * hidden, *context = qkv + 3 * tokens * hidden, *wider = context + tokens * hidden;
    float *scratches = wider + tokens * inner;
    Pass *pass = is_helped ? enter(states, scratches + threads * own) : NULL;
    atomic_fetch_add(&passes, 1);
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
            apply(pass, &layer->qkv, states, tokens, qkv);
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
            apply(pass, &layer->attended, context, count, qkv);
            normalise(&layer->attended_norm, encoder->eps, count, hidden, states, qkv);
            apply(pass, &layer->up, qkv, count, wider);
            apply(pass, &layer->down, wider, count, states);
            normalise(&layer->down_norm, encoder->eps, count, hidden, qkv, states);
        }
#pragma omp single
        memcpy(out, states, count * hidden * sizeof *out);
    }
    atomic_fetch_sub(&passes, 1);
    if (pass) finish(pass);
    else free(states);
    return OK;
}
