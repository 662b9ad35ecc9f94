/* The loops of masks and elections over rows of doubles: what numpy does in many passes, in one.
 *
 * Every function has a twin in numpy that gives the same bits (magnitudes.py, masks.py,
 * elements.py); what the results mean is said there. No fused multiply-add: the twins have none.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static __forceinline
#endif

enum { N_BINS = 1 << 14, SHIFT = 43, OFFSET = ((1023 - 24) << 9) - 1, BLOCK = 256 };

INLINE uint64_t pattern_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits & 0x7FFFFFFFFFFFFFFFull;
}

INLINE uint32_t bin_of(uint64_t bits) {
    int64_t bin = (int64_t)(bits >> SHIFT) - OFFSET;
    bin = bin < 1 ? 1 : bin > N_BINS - 1 ? N_BINS - 1 : bin;
    return bits ? (uint32_t)bin : 0;
}

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

/* Get contiguous buffers; `sizes` in bytes must match what the caller computes from the first. */
static int get(PyObject **objects, Py_buffer *views, const int *writable, int count) {
    for (int i = 0; i < count; i++) {
        if (PyObject_GetBuffer(objects[i], &views[i], writable[i] ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) {
            while (i--) PyBuffer_Release(&views[i]);
            return -1;
        }
    }
    return 0;
}
static void release(Py_buffer *views, int count) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&views[i]);
}
static PyObject *wrong_size(Py_buffer *views, int count) {
    release(views, count);
    PyErr_SetString(PyExc_ValueError, "the buffers' lengths do not fit each other");
    return NULL;
}

/* The first pattern of the bin, and how many are less, equal and more; together, so that a look
 * costs one line of the cache. `before` is filled in later: how many stand before the bin. */
typedef struct { uint64_t seen; uint32_t less, equal, more, before; } Bin;

/* count(values, bins): how many magnitudes fall into each bin. */
static PyObject *count(PyObject *module, PyObject *args) {
    PyObject *objects[2];
    Py_buffer views[2];
    const int writable[2] = {0, 1};
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &objects[0], &objects[1])) return NULL;
    if (get(objects, views, writable, 2) < 0) return NULL;
    if (views[0].len % 8 || views[1].len != (Py_ssize_t)sizeof(Bin) * N_BINS)
        return wrong_size(views, 2);
    const double *values = views[0].buf;
    Bin *bins = views[1].buf;
    Py_ssize_t m = views[0].len / 8;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t j = 0; j < m; j++) {
        uint64_t bits = pattern_of(values[j]);
        Bin *bin = &bins[bin_of(bits)];
        uint64_t seen = bin->seen = bin->equal ? bin->seen : bits;
        bin->less += bits < seen;
        bin->equal += bits == seen;
        bin->more += bits > seen;
    }
    Py_END_ALLOW_THREADS
    release(views, 2);
    Py_RETURN_NONE;
}

CLONES static void draw(uint64_t *random, uint64_t start, Py_ssize_t n, uint64_t first,
                        uint64_t second) {
    for (Py_ssize_t j = 0; j < n; j++) random[j] = random_of(start + (uint64_t)j, first, second);
}

CLONES static void bins_of(const double *values, Py_ssize_t n, uint32_t *bins) {
    for (Py_ssize_t j = 0; j < n; j++) bins[j] = bin_of(pattern_of(values[j]));
}

CLONES static void limits_of(double *rank, Py_ssize_t n, double stay, double slope, double centre) {
    for (Py_ssize_t j = 0; j < n; j++) {
        double chance = stay + slope * (rank[j] - centre);
        chance = chance < 0 ? 0 : chance > 1 ? 1 : chance;
        rank[j] = chance * 0x1p53;
    }
}

/* decide(values, bins, packed, start, first, second, stay, slope, centre)
 *     -> indices of the unsure, as uint32 bytes
 * Sets the bits of what surely stays; the unsure and the dropped are 0. */
static PyObject *decide(PyObject *module, PyObject *args) {
    PyObject *objects[3], *result;
    Py_buffer views[3];
    const int writable[3] = {0, 0, 1};
    unsigned long long start, first, second;
    double stay, slope, centre;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOKKKddd", &objects[0], &objects[1], &objects[2], &start, &first,
                          &second, &stay, &slope, &centre))
        return NULL;
    if (get(objects, views, writable, 3) < 0) return NULL;
    Py_ssize_t m = views[0].len / 8;
    if (views[0].len % 8 || views[1].len != (Py_ssize_t)sizeof(Bin) * N_BINS ||
        views[2].len != (m + 7) / 8)
        return wrong_size(views, 3);
    const double *values = views[0].buf;
    const Bin *table = views[1].buf;
    uint8_t *packed = views[2].buf;
    uint32_t *found = NULL;
    Py_ssize_t n_found = 0, room = 0;
    int no_memory = 0;
    Py_BEGIN_ALLOW_THREADS
    uint64_t random[BLOCK];
    double low[BLOCK], high[BLOCK];
    uint32_t bins[BLOCK];
    memset(packed, 0, (size_t)views[2].len);
    for (Py_ssize_t at = 0; at < m && !no_memory; at += BLOCK) {
        Py_ssize_t size = m - at < BLOCK ? m - at : BLOCK;
        draw(random, start + (uint64_t)at, size, first, second);
        bins_of(values + at, size, bins);
        for (Py_ssize_t j = 0; j < size; j++) {
            const Bin *bin = &table[bins[j]];
            uint64_t bits = pattern_of(values[at + j]);
            double under = bin->before, less = bin->less, equal = bin->equal, more = bin->more;
            double middle = under + less + (equal + 1) / 2;
            low[j] = bits == bin->seen ? middle : bits < bin->seen ? under + 1
                                                                   : under + less + equal + 1;
            high[j] = bits == bin->seen ? middle : bits < bin->seen ? under + less
                                                                    : under + less + equal + more;
        }
        limits_of(low, size, stay, slope, centre);
        limits_of(high, size, stay, slope, centre);
        for (Py_ssize_t j = 0; j < size; j++) {
            double drawn = (double)random[j];
            int one = drawn < low[j], other = drawn < high[j];
            packed[(at + j) >> 3] |= (uint8_t)((one & other) << (7 - ((at + j) & 7)));
            if (one != other) {
                if (n_found == room) {
                    room = room ? 2 * room : 64;
                    uint32_t *grown = realloc(found, (size_t)room * sizeof(uint32_t));
                    if (!grown) { no_memory = 1; break; }
                    found = grown;
                }
                found[n_found++] = (uint32_t)(at + j);
            }
        }
    }
    Py_END_ALLOW_THREADS
    release(views, 3);
    result = no_memory ? PyErr_NoMemory()
                       : PyBytes_FromStringAndSize((const char *)found,
                                                   n_found * (Py_ssize_t)sizeof(uint32_t));
    free(found);
    return result;
}

/* place(values, open, wanted, upto, equal): of the values in open bins, count those that are at
 * most each wanted pattern and above the one before it, and those that equal it. */
static PyObject *place(PyObject *module, PyObject *args) {
    PyObject *objects[5];
    Py_buffer views[5];
    const int writable[5] = {0, 0, 0, 1, 1};
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOO", &objects[0], &objects[1], &objects[2], &objects[3],
                          &objects[4]))
        return NULL;
    if (get(objects, views, writable, 5) < 0) return NULL;
    if (views[0].len % 8 || views[1].len != N_BINS || views[2].len % 8 ||
        views[3].len != views[2].len + 8 || views[4].len != views[3].len)
        return wrong_size(views, 5);
    const double *values = views[0].buf;
    const uint8_t *open = views[1].buf;
    const uint64_t *wanted = views[2].buf;
    int64_t *upto = views[3].buf, *equal = views[4].buf;
    Py_ssize_t m = views[0].len / 8, n = views[2].len / 8;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t j = 0; j < m; j++) {
        uint64_t bits = pattern_of(values[j]);
        if (!open[bin_of(bits)]) continue;
        Py_ssize_t low = 0, high = n; /* the first that is not less */
        while (low < high) {
            Py_ssize_t middle = low + (high - low) / 2;
            if (wanted[middle] < bits) low = middle + 1;
            else high = middle;
        }
        upto[low]++;
        if (low < n && wanted[low] == bits) equal[low]++;
    }
    Py_END_ALLOW_THREADS
    release(views, 5);
    Py_RETURN_NONE;
}

CLONES static void multiply_kept(const double *values, double *out, const uint64_t *random,
                                 uint64_t limit, double factor, Py_ssize_t n) {
    for (Py_ssize_t j = 0; j < n; j++) {
        double kept = random[j] < limit ? values[j] * factor : 0.0;
        out[j] = kept + 0.0;
    }
}

/* drop(values, out, start, first, second, limit, factor): elements drawn below the limit stay. */
static PyObject *drop(PyObject *module, PyObject *args) {
    PyObject *objects[2];
    Py_buffer views[2];
    const int writable[2] = {0, 1};
    unsigned long long start, first, second, limit;
    double factor;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOKKKKd", &objects[0], &objects[1], &start, &first, &second,
                          &limit, &factor))
        return NULL;
    if (get(objects, views, writable, 2) < 0) return NULL;
    if (views[0].len % 8 || views[1].len != views[0].len) return wrong_size(views, 2);
    const double *values = views[0].buf;
    double *out = views[1].buf;
    Py_ssize_t m = views[0].len / 8;
    Py_BEGIN_ALLOW_THREADS
    uint64_t random[BLOCK];
    for (Py_ssize_t at = 0; at < m; at += BLOCK) {
        Py_ssize_t size = m - at < BLOCK ? m - at : BLOCK;
        draw(random, start + (uint64_t)at, size, first, second);
        multiply_kept(values + at, out + at, random, limit, factor, size);
    }
    Py_END_ALLOW_THREADS
    release(views, 2);
    Py_RETURN_NONE;
}

/* keep(values, out, packed, offset, factor): elements whose bit is set stay. */
static PyObject *keep(PyObject *module, PyObject *args) {
    PyObject *objects[3];
    Py_buffer views[3];
    const int writable[3] = {0, 1, 0};
    Py_ssize_t offset;
    double factor;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOnd", &objects[0], &objects[1], &objects[2], &offset, &factor))
        return NULL;
    if (get(objects, views, writable, 3) < 0) return NULL;
    Py_ssize_t m = views[0].len / 8;
    if (views[0].len % 8 || views[1].len != views[0].len || offset < 0 ||
        views[2].len < (offset + m + 7) / 8)
        return wrong_size(views, 3);
    const double *values = views[0].buf;
    const uint8_t *packed = views[2].buf;
    double *out = views[1].buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t j = 0; j < m; j++) {
        Py_ssize_t place = offset + j;
        int stays = (packed[place >> 3] >> (7 - (place & 7))) & 1;
        out[j] = (stays ? values[j] * factor : 0.0) + 0.0;
    }
    Py_END_ALLOW_THREADS
    release(views, 3);
    Py_RETURN_NONE;
}

CLONES static void elect_block(const double *panel, double *out, Py_ssize_t n, Py_ssize_t m,
                               Py_ssize_t at, Py_ssize_t size, int by_count) {
    double total[BLOCK];
    for (Py_ssize_t j = 0; j < size; j++) total[j] = 0.0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *row = panel + i * m + at;
        if (by_count)
            for (Py_ssize_t j = 0; j < size; j++)
                total[j] += (double)((row[j] > 0) - (row[j] < 0));
        else
            for (Py_ssize_t j = 0; j < size; j++) total[j] += row[j];
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *row = panel + i * m + at;
        double *target = out + i * m + at;
        for (Py_ssize_t j = 0; j < size; j++) {
            int stays = (row[j] > 0 && total[j] > 0) || (row[j] < 0 && total[j] < 0);
            target[j] = stays ? row[j] : 0.0;
        }
    }
}

/* elect(panel, out, n, by_count): deltas where they have the elected sign. */
static PyObject *elect(PyObject *module, PyObject *args) {
    PyObject *objects[2];
    Py_buffer views[2];
    const int writable[2] = {0, 1};
    Py_ssize_t n;
    int by_count;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOni", &objects[0], &objects[1], &n, &by_count)) return NULL;
    if (get(objects, views, writable, 2) < 0) return NULL;
    if (n < 1 || views[0].len % (8 * n) || views[1].len != views[0].len)
        return wrong_size(views, 2);
    const double *panel = views[0].buf;
    double *out = views[1].buf;
    Py_ssize_t m = views[0].len / 8 / n;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < m; at += BLOCK)
        elect_block(panel, out, n, m, at, m - at < BLOCK ? m - at : BLOCK, by_count);
    Py_END_ALLOW_THREADS
    release(views, 2);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS, "Count magnitudes; see magnitudes.py."},
    {"decide", decide, METH_VARARGS, "Draw a mask by rank; see masks.py."},
    {"place", place, METH_VARARGS, "Count up to given magnitudes; see masks.py."},
    {"drop", drop, METH_VARARGS, "Drop elements at random; see masks.py."},
    {"keep", keep, METH_VARARGS, "Apply a mask of bits; see masks.py."},
    {"elect", elect, METH_VARARGS, "Keep the elected sign; see elements.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_panels", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__panels(void) { return PyModule_Create(&definition); }
