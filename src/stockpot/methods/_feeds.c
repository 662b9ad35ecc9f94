/* Rows in their files' types become doubles in strips that stay in the nearest cache.
 *
 * A feed is a panel that was not made yet: what was read, which rows are differences of two, and
 * the masks and the election that they go through. Whoever needs the doubles makes a strip of some
 * columns at a time; a whole panel would go through the memory several times.
 * The twins in numpy are in feeds.py and masks.py and elements.py, and give the same bits.
 */
#include "_feeds.h"
#if HAS_CLONES
#include <immintrin.h>
#endif

enum { CHANCES = 256, SOME = 32 };

INLINE uint64_t random_of(uint64_t index, uint64_t first, uint64_t second) {
    uint64_t x = index * 0x9E3779B97F4A7C15ull + first;
    x ^= x >> 30; x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27; x *= 0x94D049BB133111EBull;
    x ^= x >> 31; x ^= second;
    x ^= x >> 30; x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27; x *= 0x94D049BB133111EBull;
    x ^= x >> 31;
    return x >> 11;
}

CLONES void draw(uint64_t *random, uint64_t start, Py_ssize_t n, uint64_t first, uint64_t second) {
    for (Py_ssize_t j = 0; j < n; j++) random[j] = random_of(start + (uint64_t)j, first, second);
}

/* open_feed: (terms, codes, pairs, n_columns, start, masked, mask, limit, factor, elected); every
 * length is checked against the others, so that the loops need not. */
int open_feed(PyObject *tuple, Feed *feed) {
    PyObject *terms, *codes, *pairs, *mask;
    unsigned long long start, limit;
    memset(feed, 0, sizeof *feed);
    if (!PyArg_ParseTuple(tuple, "O!OOnKiOKdi", &PyList_Type, &terms, &codes, &pairs,
                          &feed->n_columns, &start, &feed->masked, &mask, &limit, &feed->factor,
                          &feed->elected))
        return -1;
    feed->start = start;
    feed->limit = limit;
    Py_ssize_t n_terms = PyList_Size(terms);
    if (PyObject_GetBuffer(codes, &feed->codes, PyBUF_SIMPLE) < 0) return -1;
    if (PyObject_GetBuffer(pairs, &feed->pairs, PyBUF_SIMPLE) < 0) goto no_pairs;
    if (PyObject_GetBuffer(mask, &feed->mask, PyBUF_SIMPLE) < 0) goto no_mask;
    feed->terms = calloc((size_t)n_terms + 1, sizeof(Py_buffer));
    if (!feed->terms) { PyErr_NoMemory(); close_feed(feed); return -1; }
    feed->n_rows = feed->pairs.len / 8;
    int wrong = feed->codes.len != n_terms || feed->pairs.len % 8 || !feed->n_rows ||
                feed->n_columns < 0;
    for (; feed->n_terms < n_terms && !wrong; feed->n_terms++) {
        Py_buffer *term = &feed->terms[feed->n_terms];
        if (PyObject_GetBuffer(PyList_GetItem(terms, feed->n_terms), term, PyBUF_SIMPLE) < 0) {
            close_feed(feed);
            return -1;
        }
        int code = type_of(feed, (int32_t)feed->n_terms);
        wrong = code >= N_TYPES || term->len != feed->n_columns * ITEM[code];
    }
    const int32_t *pair = feed->pairs.buf;
    for (Py_ssize_t i = 0; i < feed->n_rows && !wrong; i++)
        wrong = pair[2 * i] < 0 || pair[2 * i] >= n_terms || pair[2 * i + 1] < -1 ||
                pair[2 * i + 1] >= n_terms;
    if (feed->masked == BY_BITS) {
        uint64_t bits = (uint64_t)(feed->mask.len / feed->n_rows) * 8;
        wrong |= feed->mask.len % feed->n_rows || feed->start > bits ||
                 bits - feed->start < (uint64_t)feed->n_columns;
    } else if (feed->masked == BY_CHANCE) {
        wrong |= feed->mask.len != 16 * feed->n_rows;
    }
    if (wrong) {
        close_feed(feed);
        PyErr_SetString(PyExc_ValueError, "the buffers' lengths do not fit each other");
        return -1;
    }
    return 0;
no_mask:
    PyBuffer_Release(&feed->pairs);
no_pairs:
    PyBuffer_Release(&feed->codes);
    return -1;
}

void close_feed(Feed *feed) {
    for (Py_ssize_t i = 0; i < feed->n_terms; i++) PyBuffer_Release(&feed->terms[i]);
    free(feed->terms);
    PyBuffer_Release(&feed->codes);
    PyBuffer_Release(&feed->pairs);
    PyBuffer_Release(&feed->mask);
}

#if HAS_CLONES
#define HALVES __attribute__((target("avx2,f16c"))) static
#define WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) static
#define INLINED __attribute__((always_inline)) inline
/* The processor's own conversion of halves; it is exact too. Gives the largest magnitude's bits.
 * What is subtracted, if anything, comes as halves (y) or as doubles (held). */
INLINE uint16_t make_last(const uint16_t *x, const uint16_t *y, const double *held, Py_ssize_t j,
                          Py_ssize_t n, double *out, const uint16_t *tops) {
    uint16_t most = 0;
    for (int k = 0; k < 16; k++) most = tops[k] > most ? tops[k] : most;
    for (; j < n; j++) {
        const uint16_t *x16 = x;
        out[j] = LOAD_F16;
        most = (x16[j] & 0x7FFF) > most ? x16[j] & 0x7FFF : most;
        if (held) out[j] -= held[j];
        if (!y) continue;
        x16 = y;
        out[j] -= LOAD_F16;
        most = (x16[j] & 0x7FFF) > most ? x16[j] & 0x7FFF : most;
    }
    return most;
}

HALVES INLINED void widen_16(const uint16_t *x, __m256d *part, __m256i *top) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)x);
    *top = _mm256_max_epu16(*top, _mm256_and_si256(bits, _mm256_set1_epi16(0x7FFF)));
    __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(bits));
    __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1));
    part[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(low));
    part[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(low, 1));
    part[2] = _mm256_cvtps_pd(_mm256_castps256_ps128(high));
    part[3] = _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1));
}

HALVES INLINED uint16_t make_halves(const uint16_t *x, const uint16_t *y, const double *held,
                                    Py_ssize_t n, double *out) {
    __m256i top = _mm256_setzero_si256();
    Py_ssize_t j = 0;
    for (; j + 16 <= n; j += 16) {
        __m256d part[4], less[4];
        widen_16(x + j, part, &top);
        if (y) widen_16(y + j, less, &top);
        for (int k = 0; k < 4; k++) {
            if (held) less[k] = _mm256_loadu_pd(held + j + 4 * k);
            _mm256_storeu_pd(out + j + 4 * k, y || held ? _mm256_sub_pd(part[k], less[k]) : part[k]);
        }
    }
    uint16_t tops[16];
    _mm256_storeu_si256((__m256i *)tops, top);
    return make_last(x, y, held, j, n, out, tops);
}

WIDE INLINED void widen_wide(const uint16_t *x, __m512d *part, __m256i *top) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)x);
    *top = _mm256_max_epu16(*top, _mm256_and_si256(bits, _mm256_set1_epi16(0x7FFF)));
    __m512 all = _mm512_cvtph_ps(bits);
    part[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(all));
    part[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(all, 1));
}

WIDE INLINED uint16_t make_wide(const uint16_t *x, const uint16_t *y, const double *held,
                                Py_ssize_t n, double *out) {
    __m256i top = _mm256_setzero_si256();
    Py_ssize_t j = 0;
    for (; j + 16 <= n; j += 16) {
        __m512d part[2], less[2];
        widen_wide(x + j, part, &top);
        if (y) widen_wide(y + j, less, &top);
        for (int k = 0; k < 2; k++) {
            if (held) less[k] = _mm512_loadu_pd(held + j + 8 * k);
            _mm512_storeu_pd(out + j + 8 * k, y || held ? _mm512_sub_pd(part[k], less[k]) : part[k]);
        }
    }
    uint16_t tops[16];
    _mm256_storeu_si256((__m256i *)tops, top);
    return make_last(x, y, held, j, n, out, tops);
}

#define MAKERS(KIND, NAME, MAKE)                                                                  \
    KIND uint16_t widen_##NAME(const uint16_t *x, Py_ssize_t n, double *out) {                     \
        return MAKE(x, NULL, NULL, n, out);                                                        \
    }                                                                                              \
    KIND uint16_t subtract_##NAME(const uint16_t *x, const uint16_t *y, Py_ssize_t n,              \
                                  double *out) {                                                   \
        return MAKE(x, y, NULL, n, out);                                                           \
    }                                                                                              \
    KIND uint16_t subtract_held_##NAME(const uint16_t *x, const double *held, Py_ssize_t n,        \
                                       double *out) {                                              \
        return MAKE(x, NULL, held, n, out);                                                        \
    }
MAKERS(HALVES, in_parts, make_halves)
MAKERS(WIDE, at_once, make_wide)

static int is_wide(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif

#if HAS_CLONES
/* Sums of whole 32 columns of halves, in the registers; how many columns that were. */
HALVES Py_ssize_t sum_halves(const Feed *feed, const double *weights, double *out, uint16_t *most) {
    const int32_t *pairs = feed->pairs.buf;
    __m256i top = _mm256_setzero_si256();
    Py_ssize_t j = 0;
    for (; j + 32 <= feed->n_columns; j += 32) {
        __m256d sum[8];
        for (int k = 0; k < 8; k++) sum[k] = _mm256_setzero_pd();
        for (Py_ssize_t i = 0; i < feed->n_rows; i++) {
            const uint16_t *x = (const uint16_t *)feed->terms[pairs[2 * i]].buf + j;
            __m256d weight = _mm256_set1_pd(weights[i]);
            for (int k = 0; k < 8; k += 4) {
                __m256d part[4];
                widen_16(x + 4 * k, part, &top);
                if (weights[i] == 0) continue;
                for (int l = 0; l < 4; l++)
                    sum[k + l] = _mm256_add_pd(sum[k + l], _mm256_mul_pd(weight, part[l]));
            }
        }
        for (int k = 0; k < 8; k++) _mm256_storeu_pd(out + j + 4 * k, sum[k]);
    }
    uint16_t tops[16];
    _mm256_storeu_si256((__m256i *)tops, top);
    for (int k = 0; k < 16; k++) *most = tops[k] > *most ? tops[k] : *most;
    return j;
}
#endif

static int has_halves(void) {
#if HAS_CLONES
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#else
    return 0;
#endif
}

CLONES int widen_plainly(const void *x, int type, Py_ssize_t n, double *restrict out) {
    const uint16_t *x16 = x;
    const uint8_t *x8 = x;
    const float *xf = x;
    const double *xd = x;
    int bad = 0;
    uint16_t top = 0;
    switch (type) {
    case F16:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = LOAD_F16;
        for (Py_ssize_t j = 0; j < n; j++) top = (x16[j] & 0x7FFF) > top ? x16[j] & 0x7FFF : top;
        return top >= 0x7C00;
    case BF16:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = LOAD_BF16;
        for (Py_ssize_t j = 0; j < n; j++) top = (x16[j] & 0x7FFF) > top ? x16[j] & 0x7FFF : top;
        return top >= 0x7F80;
    case F8_E4M3:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = LOAD_E4M3;
        for (Py_ssize_t j = 0; j < n; j++) bad |= (x8[j] & 0x7F) == 0x7F;
        return bad;
    case F8_E5M2:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = LOAD_E5M2;
        for (Py_ssize_t j = 0; j < n; j++) bad |= (x8[j] & 0x7F) >= 0x7C;
        return bad;
    case F32:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = (double)xf[j];
        for (Py_ssize_t j = 0; j < n; j++) bad |= !(fabsf(xf[j]) <= 3.4028234663852886e38f);
        return bad;
    default:
        for (Py_ssize_t j = 0; j < n; j++) out[j] = xd[j];
        for (Py_ssize_t j = 0; j < n; j++) bad |= !(fabs(xd[j]) <= 1.7976931348623157e308);
        return bad;
    }
}

int widen(const void *x, int type, Py_ssize_t n, double *out) {
#if HAS_CLONES
    if (type == F16 && has_halves())
        return (is_wide() ? widen_at_once : widen_in_parts)(x, n, out) >= 0x7C00;
#endif
    return widen_plainly(x, type, n, out);
}

static int widen_term(const Feed *feed, int32_t term, Py_ssize_t at, Py_ssize_t size,
                      double *out) {
    return widen(place_of(feed, term, at), type_of(feed, term), size, out);
}

CLONES static void subtract(double *restrict out, const double *restrict other, Py_ssize_t n) {
    for (Py_ssize_t j = 0; j < n; j++) out[j] -= other[j];
}

/* Adding zero leaves no negative one. */
CLONES static void keep_by_bytes(double *out, Py_ssize_t n, const int8_t *stays, double factor) {
    for (Py_ssize_t j = 0; j < n; j++)
        out[j] = as_double(as_bits(out[j] * factor) & (uint64_t)(int64_t)stays[j]) + 0.0;
}

/* Bits are packed from the highest of a byte on. Each becomes a byte of ones or zeros. */
static void keep_by_bits(double *out, Py_ssize_t n, const uint8_t *packed, uint64_t place,
                         double factor) {
    int8_t stays[MOST_COLUMNS + 16], *first = stays + (place & 7);
    packed += place >> 3;
    for (int8_t *eight = stays; eight < first + n; eight += 8, packed++) {
        /* Copies of the byte, of which each keeps another bit; then all of it where it is set. */
        uint64_t bits = (*packed * 0x0101010101010101ull) & 0x0102040810204080ull;
        bits = ((bits + 0x7F7F7F7F7F7F7F7Full) >> 7 & 0x0101010101010101ull) * 0xFF;
        memcpy(eight, &bits, 8);
    }
    keep_by_bytes(out, n, first, factor);
}

CLONES static void keep_by_chance(double *out, Py_ssize_t n, const uint64_t *random, uint64_t limit,
                                  double factor) {
    for (Py_ssize_t j = 0; j < n; j++) {
        double kept = random[j] < limit ? out[j] * factor : 0.0;
        out[j] = kept + 0.0;
    }
}

static void mask_row(const Feed *feed, Py_ssize_t row, Py_ssize_t at, Py_ssize_t size,
                     double *out) {
    uint64_t place = feed->start + (uint64_t)at;
    if (feed->masked == BY_BITS) {
        const uint8_t *packed = feed->mask.buf;
        keep_by_bits(out, size, packed + row * (feed->mask.len / feed->n_rows), place,
                     feed->factor);
        return;
    }
    const uint64_t *stream = (const uint64_t *)feed->mask.buf + 2 * row;
    uint64_t random[CHANCES];
    for (Py_ssize_t j = 0; j < size; j += CHANCES) {
        Py_ssize_t n = size - j < CHANCES ? size - j : CHANCES;
        draw(random, place + (uint64_t)j, n, stream[0], stream[1]);
        keep_by_chance(out + j, n, random, feed->limit, feed->factor);
    }
}

Py_ssize_t sum_plain(const Feed *feed, const double *weights, double *out, int *bad) {
    int plain = !feed->masked && !feed->elected && has_halves();
    for (Py_ssize_t i = 0; i < feed->n_rows && plain; i++) {
        const int32_t *pair = (const int32_t *)feed->pairs.buf + 2 * i;
        plain = pair[1] < 0 && type_of(feed, pair[0]) == F16;
    }
#if HAS_CLONES
    if (plain) {
        uint16_t most = 0;
        Py_ssize_t done = sum_halves(feed, weights, out, &most);
        *bad |= most >= 0x7C00;
        return done;
    }
#endif
    return 0;
}

int make_row(const Feed *feed, Py_ssize_t row, Py_ssize_t at, Py_ssize_t size, double *out,
             Held *held) {
    const int32_t *pair = (const int32_t *)feed->pairs.buf + 2 * row;
    int bad = 0;
#if HAS_CLONES
    int halves = type_of(feed, pair[0]) == F16 && has_halves();
#endif
    if (pair[1] < 0) {
        bad = widen_term(feed, pair[0], at, size, out);
#if HAS_CLONES
    } else if (!held && halves && type_of(feed, pair[1]) == F16) {
        bad = (is_wide() ? subtract_at_once : subtract_in_parts)(
                  place_of(feed, pair[0], at), place_of(feed, pair[1], at), size, out) >= 0x7C00;
#endif
    } else {
        Held own;
        if (!held) {
            own.term = -1;
            held = &own;
        }
        if (held->term != pair[1]) {
            bad = widen_term(feed, pair[1], at, size, held->values);
            held->term = pair[1];
        }
#if HAS_CLONES
        if (halves) {
            bad |= (is_wide() ? subtract_held_at_once : subtract_held_in_parts)(
                       place_of(feed, pair[0], at), held->values, size, out) >= 0x7C00;
        } else
#endif
        {
            bad |= widen_term(feed, pair[0], at, size, out);
            subtract(out, held->values, size);
        }
    }
    if (feed->masked) mask_row(feed, row, at, size, out);
    return bad;
}

/* Where the rows of a few columns elect a sign, those that dissent become zeros. */
INLINE void elect_some(double *strip, Py_ssize_t stride, Py_ssize_t n, const int by_count) {
    double total[SOME];
    int64_t above[SOME], below[SOME];
    for (int l = 0; l < SOME; l++) total[l] = 0.0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *row = strip + i * stride;
        for (int l = 0; l < SOME; l++) {
            /* A number that has the sign and is 1, where it is not zero. */
            double sign = as_double((as_bits(row[l]) & 0x8000000000000000ull) | 0x3FF0000000000000ull);
            if (by_count) total[l] += row[l] != 0 ? sign : 0.0;
            else total[l] += row[l];
        }
    }
    for (int l = 0; l < SOME; l++) {
        above[l] = total[l] > 0 ? -1 : 0;
        below[l] = total[l] < 0 ? -1 : 0;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        double *row = strip + i * stride;
        for (int l = 0; l < SOME; l++) {
            uint64_t bits = as_bits(row[l]);
            int64_t minus = (int64_t)bits < 0 ? -1 : 0;
            bits &= (uint64_t)((minus & below[l]) | (~minus & above[l]));
            row[l] = as_double(bits) + 0.0; /* no negative zeros */
        }
    }
}

CLONES static void elect(double *strip, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t size,
                         int by_count) {
    Py_ssize_t whole = size / SOME * SOME;
    for (Py_ssize_t j = 0; j < whole; j += SOME) {
        if (by_count) elect_some(strip + j, stride, n, 1);
        else elect_some(strip + j, stride, n, 0);
    }
    for (; whole < size; whole++) {
        double total = 0.0;
        for (Py_ssize_t i = 0; i < n; i++) {
            double x = strip[i * stride + whole];
            total += by_count ? (double)((x > 0) - (x < 0)) : x;
        }
        for (Py_ssize_t i = 0; i < n; i++) {
            double *x = &strip[i * stride + whole];
            if (!((*x > 0 && total > 0) || (*x < 0 && total < 0))) *x = 0.0;
        }
    }
}

int make_strip(const Feed *feed, Py_ssize_t at, Py_ssize_t size, double *strip, Py_ssize_t stride) {
    Held held;
    int bad = 0;
    held.term = -1;
    for (Py_ssize_t i = 0; i < feed->n_rows; i++)
        bad |= make_row(feed, i, at, size, strip + i * stride, &held);
    if (feed->elected) elect(strip, stride, feed->n_rows, size, feed->elected == BY_COUNT);
    return bad;
}
