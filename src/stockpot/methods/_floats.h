/* What the kernels share: how float types are widened to doubles, and words for compilers.
 *
 * All conversions are integer arithmetic on bit patterns, so that they are exact and the same on
 * every machine.
 */
#ifndef STOCKPOT_FLOATS_H
#define STOCKPOT_FLOATS_H
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* GCC on Linux makes a loop three times and takes what the processor has when it is loaded. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define HAS_CLONES 1
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HAS_CLONES 0
#define CLONES
#endif
#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#define FETCH(place) __builtin_prefetch(place)
#define LEADING_ZEROS(word) __builtin_clzll(word)
#else
#include <intrin.h>
#define INLINE static __forceinline
#define FETCH(place) ((void)(place))
#define LEADING_ZEROS(word) ((int)__lzcnt64(word))
#endif

enum { F64 = 0, F32 = 1, F16 = 2, BF16 = 3, F8_E4M3 = 4, F8_E5M2 = 5, N_TYPES = 6 };
static const int ITEM[N_TYPES] = {8, 4, 2, 2, 1, 1};

INLINE double as_double(uint64_t bits) { double value; memcpy(&value, &bits, 8); return value; }
INLINE uint64_t as_bits(double value) { uint64_t bits; memcpy(&bits, &value, 8); return bits; }

/* Small floats: shift the magnitude to double's fraction and scale the exponent's bias away. The
 * product is exact, subnormals included. Infinities come out as large finite numbers: callers
 * look at the magnitude's bits for those. */
INLINE double small_to_double(uint64_t bits, int width, int mantissa, double scale) {
    uint64_t sign = (bits >> (width - 1)) << 63;
    uint64_t magnitude = bits & ((1ull << (width - 1)) - 1);
    double value = as_double(magnitude << (52 - mantissa)) * scale;
    return as_double(as_bits(value) | sign);
}

/* Of the element j of a row that is known as x16 or x8. */
#define LOAD_F16 small_to_double(x16[j], 16, 10, 0x1p1008)
#define LOAD_BF16 small_to_double(x16[j], 16, 7, 0x1p896)
#define LOAD_E4M3 small_to_double(x8[j], 8, 3, 0x1p1016)
#define LOAD_E5M2 small_to_double(x8[j], 8, 2, 0x1p1008)

#endif
