/* What methods do with feeds, one walk each: what numpy does in many passes over a panel.
 *
 * Every function has a twin in numpy that gives the same bits (gram.py, contract.py,
 * magnitudes.py, masks.py); what the results mean is said there. No fused multiply-add: the twins
 * have none.
 */
#include "_feeds.h"

enum { N_BINS = 1 << 14, SHIFT = 43, OFFSET = ((1023 - 24) << 9) - 1 };
enum { COLUMNS = 128, LONG = 512, BLOCK = 1 << 14 };

INLINE uint64_t pattern_of(double value) { return as_bits(value) & 0x7FFFFFFFFFFFFFFFull; }

INLINE uint32_t bin_of(uint64_t bits) {
    int64_t bin = (int64_t)(bits >> SHIFT) - OFFSET;
    bin = bin < 1 ? 1 : bin > N_BINS - 1 ? N_BINS - 1 : bin;
    return bits ? (uint32_t)bin : 0;
}

CLONES static void bins_of(const double *values, Py_ssize_t n, uint32_t *bins) {
    for (Py_ssize_t j = 0; j < n; j++) bins[j] = bin_of(pattern_of(values[j]));
}

/* The first pattern of the bin, and how many are less, equal and more; together, so that a look
 * costs one line of the cache. `before` is filled in later: how many stand before the bin. */
typedef struct { uint64_t seen; uint32_t less_equal_more[3], before; } Bin;

/* A feed and other buffers, `sizes` in bytes, or -1 where the caller looks at them. */
static int get(PyObject *tuple, Feed *feed, PyObject **objects, Py_buffer *views,
               const int *writable, const Py_ssize_t *sizes, int count) {
    int wrong = 0;
    if (open_feed(tuple, feed) < 0) return -1;
    for (int i = 0; i < count; i++) {
        if (PyObject_GetBuffer(objects[i], &views[i], writable[i] ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) {
            while (i--) PyBuffer_Release(&views[i]);
            close_feed(feed);
            return -1;
        }
        wrong |= sizes[i] >= 0 && views[i].len != sizes[i] * (Py_ssize_t)feed->n_rows;
    }
    if (!wrong) return 0;
    PyErr_SetString(PyExc_ValueError, "the buffers' lengths do not fit each other");
    for (int i = 0; i < count; i++) PyBuffer_Release(&views[i]);
    close_feed(feed);
    return -1;
}

static void release(Feed *feed, Py_buffer *views, int count) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&views[i]);
    close_feed(feed);
}

static PyObject *refuse(Feed *feed, Py_buffer *views, int count) {
    release(feed, views, count);
    PyErr_SetString(PyExc_ValueError, "the buffers' lengths do not fit each other");
    return NULL;
}

/* fill(feed, out) -> nonfinite: make the panel. */
static PyObject *fill(PyObject *module, PyObject *args) {
    PyObject *tuple, *object;
    Feed feed;
    Py_buffer view;
    int bad = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &tuple, &object)) return NULL;
    if (get(tuple, &feed, &object, &view, (int[]){1}, (Py_ssize_t[]){-1}, 1) < 0) return NULL;
    Py_ssize_t m = feed.n_columns;
    if (view.len != 8 * m * feed.n_rows) return refuse(&feed, &view, 1);
    double *out = view.buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < m; at += COLUMNS)
        bad |= make_strip(&feed, at, m - at < COLUMNS ? m - at : COLUMNS, out + at, m);
    Py_END_ALLOW_THREADS
    release(&feed, &view, 1);
    return PyBool_FromLong(bad);
}

/* gram(feed, pivot, products, squared) -> nonfinite: add sums of products, block by block. */
static PyObject *gram(PyObject *module, PyObject *args) {
    PyObject *tuple, *objects[2];
    Feed feed;
    Py_buffer views[2];
    Py_ssize_t pivot;
    int bad = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "OnOO", &tuple, &pivot, &objects[0], &objects[1])) return NULL;
    if (get(tuple, &feed, objects, views, (int[]){1, 1}, (Py_ssize_t[]){-1, -1}, 2) < 0) return NULL;
    Py_ssize_t n = feed.n_rows, m = feed.n_columns;
    if (views[0].len != 8 * n * n || views[1].len != 8 * n * n || pivot < -1 || pivot >= n)
        return refuse(&feed, views, 2);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < m && bad >= 0; at += BLOCK) {
        int found = add_products(&feed, at, m - at < BLOCK ? m - at : BLOCK, pivot, views[0].buf,
                                 views[1].buf);
        bad = found < 0 ? found : bad | found;
    }
    Py_END_ALLOW_THREADS
    release(&feed, views, 2);
    return bad < 0 ? PyErr_NoMemory() : PyBool_FromLong(bad);
}

CLONES static void add_weighted(double *restrict total, const double *restrict row, double weight,
                                Py_ssize_t n) {
    for (Py_ssize_t j = 0; j < n; j++) total[j] += weight * row[j];
}

/* weigh(feed, weights, out) -> nonfinite: sum weighted rows, one after the other. */
static PyObject *weigh(PyObject *module, PyObject *args) {
    PyObject *tuple, *objects[2];
    Feed feed;
    Py_buffer views[2];
    int bad = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO", &tuple, &objects[0], &objects[1])) return NULL;
    if (get(tuple, &feed, objects, views, (int[]){0, 1}, (Py_ssize_t[]){8, -1}, 2) < 0) return NULL;
    Py_ssize_t n = feed.n_rows, m = feed.n_columns;
    if (views[1].len != 8 * m) return refuse(&feed, views, 2);
    const double *weights = views[0].buf;
    double *out = views[1].buf, *strip = malloc((size_t)n * COLUMNS * sizeof(double));
    Py_BEGIN_ALLOW_THREADS
    Py_ssize_t done = sum_plain(&feed, weights, out, &bad);
    memset(out + done, 0, (size_t)(m - done) * sizeof(double));
    for (Py_ssize_t at = done; at < m && strip; at += COLUMNS) {
        Py_ssize_t size = m - at < COLUMNS ? m - at : COLUMNS;
        bad |= make_strip(&feed, at, size, strip, COLUMNS);
        for (Py_ssize_t i = 0; i < n; i++)
            if (weights[i] != 0) add_weighted(out + at, strip + i * COLUMNS, weights[i], size);
    }
    Py_END_ALLOW_THREADS
    release(&feed, views, 2);
    if (!strip) return PyErr_NoMemory();
    free(strip);
    return PyBool_FromLong(bad);
}

/* count(feed, bins) -> nonfinite: how many magnitudes of each row fall into each bin. */
static PyObject *count(PyObject *module, PyObject *args) {
    PyObject *tuple, *object;
    Feed feed;
    Py_buffer view;
    int bad = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &tuple, &object)) return NULL;
    if (get(tuple, &feed, &object, &view, (int[]){1}, (Py_ssize_t[]){sizeof(Bin) * N_BINS}, 1) < 0)
        return NULL;
    if (feed.elected) return refuse(&feed, &view, 1);
    Py_BEGIN_ALLOW_THREADS
    double values[LONG];
    uint32_t bins[LONG];
    for (Py_ssize_t i = 0; i < feed.n_rows; i++) {
        Bin *table = (Bin *)view.buf + i * N_BINS;
        for (Py_ssize_t at = 0; at < feed.n_columns; at += LONG) {
            Py_ssize_t size = feed.n_columns - at < LONG ? feed.n_columns - at : LONG;
            bad |= make_row(&feed, i, at, size, values, NULL);
            bins_of(values, size, bins);
            for (Py_ssize_t j = 0; j < size; j++) {
                uint64_t bits = pattern_of(values[j]);
                Bin *bin = &table[bins[j]];
                if (!bin->less_equal_more[1]) bin->seen = bits;
                uint64_t seen = bin->seen;
                bin->less_equal_more[(bits >= seen) + (bits > seen)]++;
            }
        }
    }
    Py_END_ALLOW_THREADS
    release(&feed, &view, 1);
    return PyBool_FromLong(bad);
}

/* total(bins): fill in `before`, for each row how many magnitudes stand in the bins before. */
static PyObject *total(PyObject *module, PyObject *args) {
    PyObject *object;
    Py_buffer view;
    (void)module;
    if (!PyArg_ParseTuple(args, "O", &object)) return NULL;
    if (PyObject_GetBuffer(object, &view, PyBUF_WRITABLE) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    Bin *bin = view.buf, *end = bin + view.len / (Py_ssize_t)sizeof(Bin) / N_BINS * N_BINS;
    while (bin < end) {
        uint32_t before = 0;
        for (int b = 0; b < N_BINS; b++, bin++) {
            bin->before = before;
            before += bin->less_equal_more[0] + bin->less_equal_more[1] + bin->less_equal_more[2];
        }
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* Limits on random numbers never fall back in order of ranks. */
typedef struct { double stay, slope, centre; } Chance;
INLINE double limit_of(double rank, Chance by) {
    double chance = by.stay + by.slope * (rank - by.centre);
    chance = chance < 0 ? 0 : chance > 1 ? 1 : chance;
    return chance * 0x1p53;
}

/* What the extreme ranks already tell: 1 stays, 2 depends on the rank, 0 goes. */
CLONES static void sort_out(const uint64_t *random, Py_ssize_t n, uint64_t low, uint64_t high,
                            uint8_t *fate) {
    for (Py_ssize_t j = 0; j < n; j++)
        fate[j] = (uint8_t)(2 * (random[j] < high) - (random[j] < low));
}

/* Whether an element stays, by what its bin tells of its rank: 1, 0, or 2 where that is not
 * enough. The least and the greatest rank that it can have decide. */
INLINE int fate_of(uint64_t bits, double drawn, const Bin *bin, Chance by) {
    double under = bin->before, less = bin->less_equal_more[0];
    double equal = bin->less_equal_more[1], more = bin->less_equal_more[2];
    if (bits == bin->seen) return drawn < limit_of(under + less + (equal + 1) / 2, by);
    double from = bits < bin->seen ? under + 1 : under + less + equal + 1;
    double to = bits < bin->seen ? under + less : under + less + equal + more;
    int one = drawn < limit_of(from, by), other = drawn < limit_of(to, by);
    return one == other ? one : 2;
}

typedef struct { uint64_t bits, random, place; } Unsure;
typedef struct { Unsure *items; Py_ssize_t n, room; } List;
static int append(List *list, Unsure item) {
    if (list->n == list->room) {
        Py_ssize_t room = list->room ? 2 * list->room : 64;
        Unsure *more = realloc(list->items, (size_t)room * sizeof(Unsure));
        if (!more) return -1;
        list->items = more;
        list->room = room;
    }
    list->items[list->n++] = item;
    return 0;
}

/* A byte for each bit of eight fates: the product's highest byte has a bit of each. */
INLINE uint8_t pack(uint64_t fates) { return (uint8_t)(fates * 0x8040201008040201ull >> 56); }

static int decide_row(const Feed *feed, Py_ssize_t row, const Bin *table, const uint64_t *stream,
                      Chance by, uint8_t *kept, List *unsure) {
    double values[LONG];
    uint64_t random[LONG], patterns[LONG];
    uint32_t bins[LONG];
    uint8_t fate[LONG];
    uint16_t open[LONG];
    double one_end = limit_of(1, by), other_end = limit_of(2 * by.centre - 1, by);
    uint64_t low = (uint64_t)ceil(fmin(one_end, other_end));
    uint64_t high = (uint64_t)ceil(fmax(one_end, other_end));
    for (Py_ssize_t at = 0; at < feed->n_columns; at += LONG) {
        Py_ssize_t size = feed->n_columns - at < LONG ? feed->n_columns - at : LONG, n_open = 0;
        uint64_t first = feed->start + (uint64_t)at;
        uint8_t *bytes = kept + (first >> 3);
        draw(random, first, size, stream[0], stream[1]);
        sort_out(random, size, low, high, fate);
        for (Py_ssize_t j = size; j % 64; j++) fate[j] = 0;
        for (Py_ssize_t j = 0; j < size; j += 64) {
            uint64_t word = 0;
            for (Py_ssize_t k = j; k < j + 64; k += 8) {
                uint64_t eight;
                memcpy(&eight, fate + k, 8);
                if (k < size) bytes[k >> 3] = pack(eight & 0x0101010101010101ull);
                word = word << 8 | pack(eight >> 1 & 0x0101010101010101ull);
            }
            while (word) {
                int k = LEADING_ZEROS(word);
                word ^= 0x8000000000000000ull >> k;
                open[n_open++] = (uint16_t)(j + k);
            }
        }
        /* Few elements' values are asked for. */
        if (feed->masked) make_row(feed, row, at, size, values, NULL);
        for (Py_ssize_t k = 0; k < n_open; k++) {
            Py_ssize_t j = open[k];
            patterns[k] = pattern_of(feed->masked ? values[j] : make_one(feed, row, at + j));
            bins[k] = bin_of(patterns[k]);
            FETCH(&table[bins[k]]);
        }
        for (Py_ssize_t k = 0; k < n_open; k++) {
            Py_ssize_t j = open[k];
            int found = fate_of(patterns[k], (double)random[j], &table[bins[k]], by);
            bytes[j >> 3] |= (uint8_t)((found & 1) << (7 - (j & 7)));
            if (found == 2 &&
                append(unsure, (Unsure){patterns[k], random[j], first + (uint64_t)j}))
                return -1;
        }
    }
    return 0;
}

/* decide(feed, tables, bins, kept, streams, active, stay, slope, centre)
 *     -> for each row how many are unsure, and pattern, random number and place of each of these
 * Sets the bits of what surely stays; the unsure and the dropped are 0. A row's counts are those of
 * the given table; rows that are not active are left out. */
static PyObject *decide(PyObject *module, PyObject *args) {
    enum { TABLES, BINS, KEPT, STREAMS, ACTIVE, N_BUFFERS };
    PyObject *tuple, *objects[N_BUFFERS], *result = NULL;
    Feed feed;
    Py_buffer views[N_BUFFERS];
    Chance by;
    int no_memory = 0;
    List unsure = {NULL, 0, 0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOOddd", &tuple, &objects[TABLES], &objects[BINS],
                          &objects[KEPT], &objects[STREAMS], &objects[ACTIVE], &by.stay, &by.slope,
                          &by.centre))
        return NULL;
    if (get(tuple, &feed, objects, views, (int[]){0, 0, 1, 0, 0},
            (Py_ssize_t[]){4, sizeof(Bin) * N_BINS, -1, 16, 1}, N_BUFFERS) < 0)
        return NULL;
    Py_ssize_t n = feed.n_rows, stride = views[KEPT].len / n;
    const int32_t *tables = views[TABLES].buf;
    int wrong = views[KEPT].len % n || feed.elected || feed.start % 8 ||
                feed.start + (uint64_t)feed.n_columns > (uint64_t)stride * 8;
    for (Py_ssize_t i = 0; i < n; i++) wrong |= tables[i] < 0 || tables[i] >= n;
    if (wrong) return refuse(&feed, views, N_BUFFERS);
    int64_t *counts = n > 0 ? calloc((size_t)n, sizeof(int64_t)) : NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n && counts && !no_memory; i++) {
        Py_ssize_t before = unsure.n;
        if (!((const uint8_t *)views[ACTIVE].buf)[i]) continue;
        no_memory = decide_row(&feed, i, (const Bin *)views[BINS].buf + tables[i] * N_BINS,
                               (const uint64_t *)views[STREAMS].buf + 2 * i, by,
                               (uint8_t *)views[KEPT].buf + i * stride, &unsure);
        counts[i] = unsure.n - before;
    }
    Py_END_ALLOW_THREADS
    release(&feed, views, N_BUFFERS);
    if (no_memory || !counts)
        PyErr_NoMemory();
    else
        result = Py_BuildValue("(y#y#)", (char *)counts, n * (Py_ssize_t)sizeof *counts,
                               unsure.items ? (char *)unsure.items : "",
                               unsure.n * (Py_ssize_t)sizeof *unsure.items);
    free(unsure.items);
    free(counts);
    return result;
}

static void place_row(const Feed *feed, Py_ssize_t row, const uint16_t *slots, const int64_t *ends,
                      const uint64_t *wanted, int64_t *upto, int64_t *equal) {
    double values[LONG];
    uint32_t bins[LONG];
    for (Py_ssize_t at = 0; at < feed->n_columns; at += LONG) {
        Py_ssize_t size = feed->n_columns - at < LONG ? feed->n_columns - at : LONG;
        make_row(feed, row, at, size, values, NULL);
        bins_of(values, size, bins);
        for (Py_ssize_t j = 0; j < size; j++) {
            uint16_t slot = slots[bins[j]];
            if (!slot) continue;
            uint64_t bits = pattern_of(values[j]);
            int64_t low = ends[slot - 1], end = ends[slot], high = end;
            while (low < high) { /* the first that is not less */
                int64_t middle = low + (high - low) / 2;
                if (wanted[middle] < bits) low = middle + 1;
                else high = middle;
            }
            upto[low]++;
            if (low < end && wanted[low] == bits) equal[low]++;
        }
    }
}

CLONES static uint16_t most_of(const uint16_t *x, Py_ssize_t n) {
    uint16_t most = 0;
    for (Py_ssize_t j = 0; j < n; j++) most = x[j] > most ? x[j] : most;
    return most;
}

/* place(feed, firsts, slots, ends, wanted, upto, equal): of the values in open bins, count those
 * that are at most each wanted pattern and above the one before it, and those that equal it. A bin
 * is open if its slot is s > 0; then its wanted patterns are those from ends[first + s - 1] to
 * ends[first + s], where the row's `first` stands in `firsts`; a row without a first has none. */
static PyObject *place(PyObject *module, PyObject *args) {
    enum { FIRSTS, SLOTS, ENDS, WANTED, UPTO, EQUAL, N_BUFFERS };
    PyObject *tuple, *objects[N_BUFFERS];
    Feed feed;
    Py_buffer views[N_BUFFERS];
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOOO", &tuple, &objects[FIRSTS], &objects[SLOTS],
                          &objects[ENDS], &objects[WANTED], &objects[UPTO], &objects[EQUAL]))
        return NULL;
    if (get(tuple, &feed, objects, views, (int[]){0, 0, 0, 0, 1, 1},
            (Py_ssize_t[]){8, 2 * N_BINS, -1, -1, -1, -1}, N_BUFFERS) < 0)
        return NULL;
    Py_ssize_t n_ends = views[ENDS].len / 8, n_wanted = views[WANTED].len / 8;
    const int64_t *firsts = views[FIRSTS].buf, *ends = views[ENDS].buf;
    const uint16_t *slots = views[SLOTS].buf;
    int wrong = views[ENDS].len % 8 || views[WANTED].len % 8 || feed.elected ||
                views[UPTO].len != 8 * (n_wanted + 1) || views[EQUAL].len != 8 * (n_wanted + 1);
    for (Py_ssize_t k = 0; k < n_ends && !wrong; k++)
        wrong = ends[k] < 0 || ends[k] > n_wanted || (k && ends[k] < ends[k - 1]);
    for (Py_ssize_t i = 0; i < feed.n_rows; i++)
        wrong |= firsts[i] >= 0 && firsts[i] >= n_ends - most_of(slots + i * N_BINS, N_BINS);
    if (wrong) return refuse(&feed, views, N_BUFFERS);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < feed.n_rows; i++)
        if (firsts[i] >= 0)
            place_row(&feed, i, slots + i * N_BINS, ends + firsts[i], views[WANTED].buf,
                      views[UPTO].buf, views[EQUAL].buf);
    Py_END_ALLOW_THREADS
    release(&feed, views, N_BUFFERS);
    Py_RETURN_NONE;
}

/* The largest magnitude's bits, of a type of that many bytes. */
CLONES static uint64_t largest_of(const void *x, Py_ssize_t n, int item) {
    const uint64_t *x64 = x;
    const uint32_t *x32 = x;
    const uint16_t *x16 = x;
    const uint8_t *x8 = x;
    uint64_t most64 = 0;
    uint32_t most32 = 0;
    uint16_t most16 = 0;
    uint8_t most8 = 0;
    if (item == 8)
        for (Py_ssize_t j = 0; j < n; j++) {
            uint64_t bits = x64[j] & 0x7FFFFFFFFFFFFFFFull;
            most64 = bits > most64 ? bits : most64;
        }
    else if (item == 4)
        for (Py_ssize_t j = 0; j < n; j++) {
            uint32_t bits = x32[j] & 0x7FFFFFFFu;
            most32 = bits > most32 ? bits : most32;
        }
    else if (item == 2)
        for (Py_ssize_t j = 0; j < n; j++) {
            uint16_t bits = x16[j] & 0x7FFF;
            most16 = bits > most16 ? bits : most16;
        }
    else
        for (Py_ssize_t j = 0; j < n; j++) {
            uint8_t bits = x8[j] & 0x7F;
            most8 = bits > most8 ? bits : most8;
        }
    return most64 | most32 | most16 | most8;
}

/* is_finite(data, code): whether neither NaN nor an infinity is there. */
static PyObject *is_finite(PyObject *module, PyObject *args) {
    static const uint64_t first[N_TYPES] = {0x7FF0000000000000ull, 0x7F800000u, 0x7C00, 0x7F80,
                                            0x7F, 0x7C};
    PyObject *object;
    Py_buffer view;
    int code;
    uint64_t most;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oi", &object, &code)) return NULL;
    if (code < 0 || code >= N_TYPES) {
        PyErr_SetString(PyExc_ValueError, "unknown type");
        return NULL;
    }
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    most = largest_of(view.buf, view.len / ITEM[code], ITEM[code]);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyBool_FromLong(most < first[code]);
}

static PyMethodDef methods[] = {
    {"is_finite", is_finite, METH_VARARGS, "Whether all values are finite; see feeds.py."},
    {"fill", fill, METH_VARARGS, "Make a panel of a feed; see feeds.py."},
    {"gram", gram, METH_VARARGS, "Sum products of rows; see gram.py."},
    {"weigh", weigh, METH_VARARGS, "Sum weighted rows; see contract.py."},
    {"count", count, METH_VARARGS, "Count magnitudes; see magnitudes.py."},
    {"total", total, METH_VARARGS, "Add up counts; see magnitudes.py."},
    {"decide", decide, METH_VARARGS, "Draw a mask by rank; see masks.py."},
    {"place", place, METH_VARARGS, "Count up to given magnitudes; see masks.py."},
    {"rank", rank, METH_VARARGS, "Sort columns; see ranking.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_panels", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__panels(void) { return PyModule_Create(&definition); }
