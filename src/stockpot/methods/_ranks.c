/* Order statistics: every column of a feed sorted by a network of exchanges, many columns at once.
 *
 * An exchange of two rows is a minimum and a maximum of each of their columns, without a branch.
 * Values are compared as whole numbers that stand in the order of the floats, with -0 before +0:
 * equal numbers are then equal bits, and no order of the rows can show. Rows that are read as they
 * are stay in their own type until they are sorted, so that a register holds more of them.
 * The twin in numpy is in ranking.py, which also finds the network.
 */
#include "_feeds.h"

/* Bytes of a line of the cache, of a row that an exchange takes at once, and of a strip. */
enum { LINE = 64, PIECE = 128, STRIP = 64 << 10, MOST_BYTES = 1024 };

/* Turns a float's bits into a number that stands in its place, and back. */
#define TURNED(TYPE, x) ((TYPE)((x) ^ (((x) >> (8 * (int)sizeof(TYPE) - 1)) & (TYPE)(LARGEST_##TYPE))))
#define LARGEST_int8_t INT8_MAX
#define LARGEST_int16_t INT16_MAX
#define LARGEST_int32_t INT32_MAX
#define LARGEST_int64_t INT64_MAX

/* The rows of a pair are two; and a short loop that is written out would go element by element. */
#if defined(__GNUC__) && !defined(__clang__)
#define APART _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#else
#define APART
#endif

#define KIND(TYPE)                                                                                 \
    INLINE void exchange_##TYPE(TYPE *one, TYPE *other) {                                          \
        const int piece = PIECE / (int)sizeof(TYPE);                                               \
        APART                                                                                      \
        for (int j = 0; j < piece; j++) {                                                          \
            TYPE a = one[j], b = other[j];                                                         \
            one[j] = a < b ? a : b;                                                                \
            other[j] = a < b ? b : a;                                                              \
        }                                                                                          \
    }                                                                                              \
    CLONES static void run_##TYPE(TYPE *strip, Py_ssize_t width,                                   \
                                  const int32_t *pairs, Py_ssize_t n_pairs) {                      \
        for (Py_ssize_t at = 0; at < width; at += PIECE / (int)sizeof(TYPE))                       \
            for (Py_ssize_t k = 0; k < n_pairs; k++)                                               \
                exchange_##TYPE(strip + pairs[2 * k] * width + at,                                 \
                                strip + pairs[2 * k + 1] * width + at);                            \
    }                                                                                              \
    CLONES static void turn_##TYPE(const TYPE *x, Py_ssize_t n, TYPE *out) {                       \
        for (Py_ssize_t j = 0; j < n; j++) out[j] = TURNED(TYPE, x[j]);                            \
    }
KIND(int8_t)
KIND(int16_t)
KIND(int32_t)
KIND(int64_t)

typedef struct {
    const Feed *feed;
    const int32_t *pairs;
    Py_ssize_t n_pairs, first, last;
    double *out; /* rows first to last, each of the feed's columns */
} Job;

/* The type of all rows where they are read as they are, or -1. */
static int type_of_all(const Feed *feed) {
    const int32_t *pairs = feed->pairs.buf;
    int type = type_of(feed, pairs[0]);
    for (Py_ssize_t i = 0; i < feed->n_rows; i++)
        if (pairs[2 * i + 1] >= 0 || type_of(feed, pairs[2 * i]) != type) return -1;
    return feed->masked || feed->elected ? -1 : type;
}

#define WALK(TYPE)                                                                                 \
    static void walk_##TYPE(Job job, int type, void *memory, Py_ssize_t width) {                   \
        const Feed *feed = job.feed;                                                               \
        const int32_t *pairs = feed->pairs.buf;                                                    \
        TYPE *strip = memory;                                                                      \
        for (Py_ssize_t at = 0; at < feed->n_columns; at += width) {                               \
            Py_ssize_t size = feed->n_columns - at < width ? feed->n_columns - at : width;         \
            if (type < 0) make_strip(feed, at, size, memory, width);                               \
            for (Py_ssize_t i = 0; i < feed->n_rows; i++) {                                        \
                TYPE *row = strip + i * width;                                                     \
                turn_##TYPE(type < 0 ? row : place_of(feed, pairs[2 * i], at), size, row);         \
                memset(row + size, 0, (size_t)(width - size) * sizeof(TYPE));                      \
            }                                                                                      \
            run_##TYPE(strip, width, job.pairs, job.n_pairs);                                      \
            for (Py_ssize_t i = job.first; i < job.last; i++) {                                    \
                TYPE *row = strip + i * width;                                                     \
                turn_##TYPE(row, size, row);                                                       \
                widen(row, type < 0 ? F64 : type, size,                                            \
                      job.out + (i - job.first) * feed->n_columns + at);                           \
            }                                                                                      \
        }                                                                                          \
    }
WALK(int8_t)
WALK(int16_t)
WALK(int32_t)
WALK(int64_t)

/* rank(feed, pairs, first, out): sort columns by exchanges of rows, the first of a pair to get the
 * least; then write as many rows as `out` has, from the row `first` on. */
PyObject *rank(PyObject *module, PyObject *args) {
    enum { PAIRS, OUT };
    PyObject *tuple, *objects[2];
    Feed feed;
    Py_buffer views[2];
    Job job;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOnO", &tuple, &objects[PAIRS], &job.first, &objects[OUT]))
        return NULL;
    if (PyObject_GetBuffer(objects[PAIRS], &views[PAIRS], PyBUF_SIMPLE) < 0) return NULL;
    if (PyObject_GetBuffer(objects[OUT], &views[OUT], PyBUF_WRITABLE) < 0) goto no_out;
    if (open_feed(tuple, &feed) < 0) goto no_feed;
    int type = type_of_all(&feed);
    Py_ssize_t n = feed.n_rows, item = type < 0 ? 8 : ITEM[type];
    job.feed = &feed;
    job.pairs = views[PAIRS].buf;
    job.n_pairs = views[PAIRS].len / 8;
    job.out = views[OUT].buf;
    Py_ssize_t row = 8 * feed.n_columns;
    int wrong = views[PAIRS].len % 8 || !row || views[OUT].len % row || job.first < 0;
    job.last = wrong ? 0 : job.first + views[OUT].len / row;
    wrong |= job.last > n;
    for (Py_ssize_t k = 0; k < 2 * job.n_pairs && !wrong; k++)
        wrong = job.pairs[k] < 0 || job.pairs[k] >= n || job.pairs[k] == job.pairs[k ^ 1];
    Py_ssize_t bytes = STRIP / n / PIECE * PIECE;
    bytes = bytes < PIECE ? PIECE : bytes > MOST_BYTES ? MOST_BYTES : bytes;
    /* Rows an odd number of pieces apart do not press for the same places of the cache. */
    if (bytes / PIECE % 2 == 0) bytes -= PIECE;
    void *memory = wrong ? NULL : malloc((size_t)(n * bytes) + LINE);
    if (memory) {
        void *strip = (char *)memory + LINE - (uintptr_t)memory % LINE;
        Py_BEGIN_ALLOW_THREADS
        if (item == 8) walk_int64_t(job, type, strip, bytes / item);
        else if (item == 4) walk_int32_t(job, type, strip, bytes / item);
        else if (item == 2) walk_int16_t(job, type, strip, bytes / item);
        else walk_int8_t(job, type, strip, bytes / item);
        Py_END_ALLOW_THREADS
        free(memory);
    } else if (wrong) {
        PyErr_SetString(PyExc_ValueError, "the buffers' lengths do not fit each other");
    } else {
        PyErr_NoMemory();
    }
    close_feed(&feed);
    PyBuffer_Release(&views[OUT]);
    PyBuffer_Release(&views[PAIRS]);
    if (!memory) return NULL;
    Py_RETURN_NONE;
no_feed:
    PyBuffer_Release(&views[OUT]);
no_out:
    PyBuffer_Release(&views[PAIRS]);
    return NULL;
}
