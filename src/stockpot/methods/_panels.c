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
    memset(out, 0, (size_t)views[1].len);
    for (Py_ssize_t at = 0; at < m && strip; at += COLUMNS) {
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
    Held held;
    double values[LONG];
    uint32_t bins[LONG];
    for (Py_ssize_t i = 0; i < feed.n_rows; i++) {
        Bin *table = (Bin *)view.buf + i * N_BINS;
        for (Py_ssize_t at = 0; at < feed.n_columns; at += LONG) {
            Py_ssize_t size = feed.n_columns - at < LONG ? feed.n_columns - at : LONG;
            held.term = -1;
            bad |= make_row(&feed, i, at, size, values, &held);
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

/* Limits on random numbers never fall back in order of ranks. */
INLINE double limit_of(double rank, double stay, double slope, double centre) {
    double chance = stay + slope * (rank - centre);
    chance = chance < 0 ? 0 : chance > 1 ? 1 : chance;
    return chance * 0x1p53;
}

/* What the extreme ranks already tell: 1 stays, 2 depends on the rank, 0 goes. */
CLONES static void sort_out(const uint64_t *random, Py_ssize_t n, double lowest, double highest,
                            uint8_t *fate) {
    uint64_t low = (uint64_t)ceil(lowest), high = (uint64_t)ceil(highest);
    for (Py_ssize_t j = 0; j < n; j++)
        fate[j] = (uint8_t)(2 * (random[j] < high) - (random[j] < low));
}

typedef struct { uint64_t *bits; uint32_t *places; Py_ssize_t n, room; } List;
static int append(List *list, uint64_t bits, uint32_t place) {
    if (list->n == list->room) {
        list->room = list->room ? 2 * list->room : 64;
        uint64_t *more_bits = realloc(list->bits, (size_t)list->room * sizeof(uint64_t));
        if (more_bits) list->bits = more_bits;
        uint32_t *more_places = realloc(list->places, (size_t)list->room * sizeof(uint32_t));
        if (more_places) list->places = more_places;
        if (!more_bits || !more_places) return -1;
    }
    list->bits[list->n] = bits;
    list->places[list->n++] = place;
    return 0;
}

/* decide(feed, row, bins, packed, first, second, stay, slope, centre)
 *     -> patterns and places of the unsure, as bytes of uint64 and uint32
 * Sets the bits of what surely stays; the unsure and the dropped are 0. */
static PyObject *decide(PyObject *module, PyObject *args) {
    PyObject *tuple, *objects[2], *result = NULL;
    Feed feed;
    Py_buffer views[2];
    unsigned long long first, second;
    double stay, slope, centre;
    Py_ssize_t row;
    int no_memory = 0;
    List unsure = {NULL, NULL, 0, 0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OnOOKKddd", &tuple, &row, &objects[0], &objects[1], &first,
                          &second, &stay, &slope, &centre))
        return NULL;
    if (get(tuple, &feed, objects, views, (int[]){0, 1}, (Py_ssize_t[]){-1, -1}, 2) < 0) return NULL;
    Py_ssize_t m = feed.n_columns;
    if (views[0].len != (Py_ssize_t)sizeof(Bin) * N_BINS || views[1].len != (m + 7) / 8 ||
        feed.elected || row < 0 || row >= feed.n_rows)
        return refuse(&feed, views, 2);
    const Bin *table = views[0].buf;
    uint8_t *packed = views[1].buf;
    Py_BEGIN_ALLOW_THREADS
    Held held;
    double values[LONG];
    uint64_t random[LONG];
    uint8_t fate[LONG];
    uint16_t open[LONG + 1];
    double one_end = limit_of(1, stay, slope, centre);
    double other_end = limit_of(2 * centre - 1, stay, slope, centre);
    double lowest = fmin(one_end, other_end), highest = fmax(one_end, other_end);
    for (Py_ssize_t at = 0; at < m && !no_memory; at += LONG) {
        Py_ssize_t size = m - at < LONG ? m - at : LONG, n_open = 0;
        held.term = -1;
        make_row(&feed, row, at, size, values, &held);
        draw(random, feed.start + (uint64_t)at, size, first, second);
        sort_out(random, size, lowest, highest, fate);
        for (Py_ssize_t j = 0; j < size; j++) {
            open[n_open] = (uint16_t)j;
            n_open += fate[j] == 2;
        }
        for (Py_ssize_t k = 0; k < n_open && !no_memory; k++) {
            Py_ssize_t j = open[k];
            uint64_t bits = pattern_of(values[j]);
            const Bin *bin = &table[bin_of(bits)];
            double under = bin->before, less = bin->less_equal_more[0];
            double equal = bin->less_equal_more[1], more = bin->less_equal_more[2];
            double drawn = (double)random[j];
            int one, other; /* by the least and by the greatest rank that it can have */
            if (bits == bin->seen) {
                double middle = under + less + (equal + 1) / 2;
                one = other = drawn < limit_of(middle, stay, slope, centre);
            } else {
                double from = bits < bin->seen ? under + 1 : under + less + equal + 1;
                double to = bits < bin->seen ? under + less : under + less + equal + more;
                one = drawn < limit_of(from, stay, slope, centre);
                other = drawn < limit_of(to, stay, slope, centre);
            }
            fate[j] = (uint8_t)(one & other);
            if (one != other) no_memory = append(&unsure, bits, (uint32_t)(at + j));
        }
        for (Py_ssize_t j = size; j & 7; j++) fate[j] = 0;
        for (Py_ssize_t j = 0; j < size; j += 8) {
            uint64_t eight; /* the product's highest byte has a bit of each */
            memcpy(&eight, fate + j, 8);
            packed[(at + j) >> 3] = (uint8_t)(eight * 0x8040201008040201ull >> 56);
        }
    }
    Py_END_ALLOW_THREADS
    release(&feed, views, 2);
    if (no_memory)
        PyErr_NoMemory();
    else
        result = Py_BuildValue("(y#y#)", unsure.bits ? (char *)unsure.bits : "", unsure.n * 8,
                               unsure.places ? (char *)unsure.places : "", unsure.n * 4);
    free(unsure.bits);
    free(unsure.places);
    return result;
}

/* place(feed, row, begins, wanted, upto, equal): of the values in open bins, count those that are
 * at most each wanted pattern and above the one before it, and those that equal it. A bin's wanted
 * patterns begin where `begins` says and end where the next bin's begin; it is open if it has any.
 */
static PyObject *place(PyObject *module, PyObject *args) {
    PyObject *tuple, *objects[4];
    Feed feed;
    Py_buffer views[4];
    Py_ssize_t row;
    (void)module;
    if (!PyArg_ParseTuple(args, "OnOOOO", &tuple, &row, &objects[0], &objects[1], &objects[2],
                          &objects[3]))
        return NULL;
    if (get(tuple, &feed, objects, views, (int[]){0, 0, 1, 1}, (Py_ssize_t[]){-1, -1, -1, -1}, 4) < 0)
        return NULL;
    Py_ssize_t n = views[1].len / 8, last = 0;
    const uint32_t *begins = views[0].buf;
    int wrong = views[0].len != 4 * (N_BINS + 1) || views[1].len % 8 || feed.elected || row < 0 ||
                row >= feed.n_rows || views[2].len != 8 * (n + 1) || views[3].len != 8 * (n + 1);
    for (Py_ssize_t b = 0; b <= N_BINS && !wrong; last = (Py_ssize_t)begins[b++])
        wrong = begins[b] < last || begins[b] > n;
    if (wrong) return refuse(&feed, views, 4);
    const uint64_t *wanted = views[1].buf;
    int64_t *upto = views[2].buf, *equal = views[3].buf;
    Py_BEGIN_ALLOW_THREADS
    Held held;
    double values[LONG];
    uint32_t bins[LONG];
    for (Py_ssize_t at = 0; at < feed.n_columns; at += LONG) {
        Py_ssize_t size = feed.n_columns - at < LONG ? feed.n_columns - at : LONG;
        held.term = -1;
        make_row(&feed, row, at, size, values, &held);
        bins_of(values, size, bins);
        for (Py_ssize_t j = 0; j < size; j++) {
            uint64_t bits = pattern_of(values[j]);
            uint32_t low = begins[bins[j]], end = begins[bins[j] + 1], high = end;
            if (low == high) continue;
            while (low < high) { /* the first that is not less */
                uint32_t middle = low + (high - low) / 2;
                if (wanted[middle] < bits) low = middle + 1;
                else high = middle;
            }
            upto[low]++;
            if (low < end && wanted[low] == bits) equal[low]++;
        }
    }
    Py_END_ALLOW_THREADS
    release(&feed, views, 4);
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
    {"decide", decide, METH_VARARGS, "Draw a mask by rank; see masks.py."},
    {"place", place, METH_VARARGS, "Count up to given magnitudes; see masks.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_panels", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__panels(void) { return PyModule_Create(&definition); }
