/* Rows that are on their way: bytes of files, and what is done to them; see _feeds.c. */
#ifndef STOCKPOT_FEEDS_H
#define STOCKPOT_FEEDS_H
#include "_floats.h"

enum { NO_MASK = 0, BY_BITS = 1, BY_CHANCE = 2 };
enum { NO_ELECTION = 0, BY_MAGNITUDE = 1, BY_COUNT = 2 };
enum { MOST_COLUMNS = 512 }; /* of a strip */

typedef struct {
    Py_ssize_t n_terms, n_rows, n_columns;
    uint64_t start; /* of the first column in its tensor */
    Py_buffer *terms, codes, pairs, mask;
    int masked, elected;
    uint64_t limit;
    double factor;
} Feed;

/* The term that was subtracted last, widened: most rows share it. */
typedef struct { int32_t term; double values[MOST_COLUMNS]; } Held;

INLINE int type_of(const Feed *feed, int32_t term) {
    return ((const uint8_t *)feed->codes.buf)[term];
}
INLINE const void *place_of(const Feed *feed, int32_t term, Py_ssize_t at) {
    return (const char *)feed->terms[term].buf + at * ITEM[type_of(feed, term)];
}

int open_feed(PyObject *tuple, Feed *feed);
void close_feed(Feed *feed);
/* Make columns of one row, before elections, or of all rows, `stride` doubles apart. Gives
 * whether something is not finite; what stands in its place means nothing. Without `held` nothing
 * is kept for the next row. */
int make_row(const Feed *feed, Py_ssize_t row, Py_ssize_t at, Py_ssize_t size, double *out,
             Held *held);
int make_strip(const Feed *feed, Py_ssize_t at, Py_ssize_t size, double *strip, Py_ssize_t stride);
/* Sum weighted rows where they are halves that nothing happens to; gives for how many columns. */
Py_ssize_t sum_plain(const Feed *feed, const double *weights, double *out, int *bad);
/* Give whether something is not finite; plainly: without the processor's own conversions. */
int widen(const void *x, int type, Py_ssize_t n, double *out);
int widen_plainly(const void *x, int type, Py_ssize_t n, double *restrict out);
void draw(uint64_t *random, uint64_t start, Py_ssize_t n, uint64_t first, uint64_t second);

/* One element of a row that has no mask. */
INLINE double make_one(const Feed *feed, Py_ssize_t row, Py_ssize_t at) {
    const int32_t *pair = (const int32_t *)feed->pairs.buf + 2 * row;
    double values[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        if (pair[k] < 0) continue;
        const void *x = place_of(feed, pair[k], at);
        int type = type_of(feed, pair[k]);
        const uint16_t *x16 = x;
        const Py_ssize_t j = 0;
        if (type == F16) values[k] = LOAD_F16;
        else widen_plainly(x, type, 1, &values[k]);
    }
    return values[0] - values[1];
}

/* Sum the products of all pairs of rows over a block of columns; see _gram.c. */
int add_products(const Feed *feed, Py_ssize_t at, Py_ssize_t count, Py_ssize_t pivot,
                 double *products, double *squared);

/* Sorted columns; see _ranks.c. */
PyObject *rank(PyObject *module, PyObject *args);

#endif
