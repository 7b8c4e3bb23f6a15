/* What may follow a linear layer, and the functions it takes: loops that compilers vectorise. */
#include <stdint.h>

enum { NONE, GELU, GELU_TANH, RELU, SILU };

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
