/* Sums of products of rows, in one order on every machine.
 *
 * A block's sum is that of eight lanes: lane l takes the columns l, l + 8, l + 16, … one after the
 * other. The lanes are added as ((0+4)+(2+6)) + ((1+5)+(3+7)). A matrix library would choose
 * another order for each processor. Products and sums are rounded each for itself (no fused
 * multiply-add), which costs nothing where multipliers and adders work side by side.
 * The twin in numpy is in gram.py.
 */
#include "_feeds.h"

enum { LANES = 8, SIDE = 4, TILE = SIDE * SIDE * LANES, COLUMNS = 256 };

#if defined(__GNUC__) || defined(__clang__)
/* Eight doubles, which compilers split where registers are shorter. */
typedef double Lanes __attribute__((vector_size(64), aligned(8), may_alias));
INLINE void add_part(const double *a, const double *b, Py_ssize_t n, double *sums, const int side,
                     const int same) {
    Lanes sum[SIDE][SIDE];
    for (int k = 0; k < side; k++)
        for (int i = 0; i < (same ? k + 1 : side); i++)
            sum[i][k] = *(const Lanes *)(sums + (i * SIDE + k) * LANES);
    for (Py_ssize_t j = 0; j < n; j += LANES) {
        Lanes x[SIDE];
        for (int i = 0; i < side; i++) x[i] = *(const Lanes *)(a + i * COLUMNS + j);
        for (int k = 0; k < side; k++) {
            Lanes y = same ? x[k] : *(const Lanes *)(b + k * COLUMNS + j);
            for (int i = 0; i < (same ? k + 1 : side); i++) sum[i][k] += x[i] * y;
        }
    }
    for (int k = 0; k < side; k++)
        for (int i = 0; i < (same ? k + 1 : side); i++)
            *(Lanes *)(sums + (i * SIDE + k) * LANES) = sum[i][k];
}
#else
INLINE void add_part(const double *a, const double *b, Py_ssize_t n, double *sums, const int side,
                     const int same) {
    for (int k = 0; k < side; k++)
        for (int i = 0; i < (same ? k + 1 : side); i++) {
            double *sum = sums + (i * SIDE + k) * LANES;
            for (Py_ssize_t j = 0; j < n; j += LANES)
                for (int l = 0; l < LANES; l++)
                    sum[l] += a[i * COLUMNS + j + l] * b[k * COLUMNS + j + l];
        }
}
#endif

/* Two by two pairs at a time fill the registers of most processors; four by four those of AVX-512.
 * Where a and b are the same rows, each pair is multiplied once: i <= k. */
CLONES static void add_tile_in_parts(const double *a, const double *b, Py_ssize_t n, double *sums) {
    for (int i = 0; i < SIDE; i += 2)
        for (int k = a == b ? i : 0; k < SIDE; k += 2) {
            const double *one = a + i * COLUMNS, *other = b + k * COLUMNS;
            double *part = sums + (i * SIDE + k) * LANES;
            if (one == other) add_part(one, other, n, part, 2, 1);
            else add_part(one, other, n, part, 2, 0);
        }
}
#if HAS_CLONES
__attribute__((target("arch=x86-64-v4"))) static void
add_tile_at_once(const double *a, const double *b, Py_ssize_t n, double *sums) {
    if (a == b) add_part(a, b, n, sums, SIDE, 1);
    else add_part(a, b, n, sums, SIDE, 0);
}
#endif
static void add_tile(const double *a, const double *b, Py_ssize_t n, double *sums) {
#if HAS_CLONES
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
        add_tile_at_once(a, b, n, sums);
        return;
    }
#endif
    add_tile_in_parts(a, b, n, sums);
}

INLINE double sum_of(const double *l) {
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

CLONES static void subtract_from(double *row, const double *other, Py_ssize_t n) {
    for (Py_ssize_t j = 0; j < n; j++) row[j] -= other[j];
}

/* Make a strip as it is multiplied: differences to the pivot, and zeros up to whole lanes. */
static int make_differences(const Feed *feed, Py_ssize_t at, Py_ssize_t size, Py_ssize_t pivot,
                            double *strip) {
    int bad = make_strip(feed, at, size, strip, COLUMNS);
    for (Py_ssize_t i = 0; i < feed->n_rows; i++) {
        double *row = strip + i * COLUMNS;
        if (pivot >= 0 && i != pivot) subtract_from(row, strip + pivot * COLUMNS, size);
        for (Py_ssize_t j = size; j % LANES; j++) row[j] = 0.0;
    }
    return bad;
}

CLONES static void add_gap(const double *one, const double *other, Py_ssize_t n, double *sums) {
    double sum[LANES];
    memcpy(sum, sums, sizeof sum);
    for (Py_ssize_t j = 0; j < n; j += LANES)
        for (int l = 0; l < LANES; l++) {
            double gap = one[j + l] - other[j + l];
            sum[l] += gap * gap;
        }
    memcpy(sums, sum, sizeof sum);
}

typedef struct { int32_t one, other; double sums[LANES]; } Gap;

/* Take the distances of near rows from the rows themselves. Of rows that seem to be equal only the
 * first is compared with the others, once it is certain that they are. */
static int look_closely(const Feed *feed, Py_ssize_t at, Py_ssize_t count, Py_ssize_t pivot,
                        const uint8_t *near, double *squared, double *strip) {
    Py_ssize_t n = feed->n_rows;
    int32_t *first = malloc((size_t)n * sizeof *first);
    uint8_t *known = calloc((size_t)(n * n), 1);
    Gap *gaps = malloc((size_t)(n * n / 2 + 1) * sizeof *gaps);
    Py_ssize_t n_gaps = -1;
    int done = first && known && gaps ? 0 : -1;
    if (!done)
        for (int32_t j = 0; j < n; j++) {
            first[j] = j;
            for (int32_t i = 0; i < j && first[j] == j; i++)
                if (near[i * n + j] && first[i] == i && squared[i * n + j] == 0) first[j] = i;
        }
    while (!done && n_gaps) {
        n_gaps = 0;
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = i + 1; j < n; j++)
                if (near[i * n + j] && !known[i * n + j] && first[i] == i &&
                    (first[j] == j || first[j] == i)) {
                    known[i * n + j] = 1;
                    memset(&gaps[n_gaps], 0, sizeof *gaps);
                    gaps[n_gaps].one = i;
                    gaps[n_gaps++].other = j;
                }
        for (Py_ssize_t start = 0; start < count && n_gaps; start += COLUMNS) {
            Py_ssize_t size = count - start < COLUMNS ? count - start : COLUMNS;
            make_differences(feed, at + start, size, pivot, strip);
            for (Py_ssize_t k = 0; k < n_gaps; k++)
                add_gap(strip + gaps[k].one * COLUMNS, strip + gaps[k].other * COLUMNS, size,
                        gaps[k].sums);
        }
        for (Py_ssize_t k = 0; k < n_gaps; k++) {
            Py_ssize_t i = gaps[k].one, j = gaps[k].other;
            double sum = sum_of(gaps[k].sums);
            squared[i * n + j] = squared[j * n + i] = sum;
            if (first[j] == i && sum != 0) first[j] = (int32_t)j;
        }
    }
    if (!done)
        for (Py_ssize_t j = 0; j < n; j++) {
            Py_ssize_t i = first[j];
            if (i == j) continue;
            for (Py_ssize_t k = 0; k < n; k++)
                if (k != j) squared[j * n + k] = squared[k * n + j] = k == i ? 0 : squared[i * n + k];
        }
    free(first);
    free(known);
    free(gaps);
    return done;
}

/* A block's distances from its products; the near ones are looked at closely. */
static int find_distances(const Feed *feed, Py_ssize_t at, Py_ssize_t count, Py_ssize_t pivot,
                          const double *products, double *squared, double *strip) {
    Py_ssize_t n = feed->n_rows;
    uint8_t *near = calloc((size_t)(n * n), 1);
    int any = 0, result = 0;
    if (!near) return -1;
    for (Py_ssize_t i = 0; i < n; i++)
        for (Py_ssize_t j = 0; j < n; j++) {
            double one = i == pivot ? 0 : products[i * n + i];
            double other = j == pivot ? 0 : products[j * n + j];
            double sizes = one + other, gap = sizes - 2 * products[i * n + j];
            if (i == pivot || j == pivot) gap = sizes;
            else any |= near[i * n + j] = i != j && gap <= 1e-5 * sizes;
            squared[i * n + j] = i == j ? 0 : gap;
        }
    if (any) result = look_closely(feed, at, count, pivot, near, squared, strip);
    free(near);
    return result;
}

/* Adds one block's products and squared distances, shape [n, n]. The pivot's own row would be
 * zeros; the pivot stands there itself, so that its products come with the rest. A pivot of -1 is
 * none. Gives whether something is not finite, or -1 where there is no memory. */
int add_products(const Feed *feed, Py_ssize_t at, Py_ssize_t count, Py_ssize_t pivot,
                 double *products, double *squared) {
    Py_ssize_t n = feed->n_rows, n_tiles = (n + SIDE - 1) / SIDE;
    size_t n_sums = (size_t)(n_tiles * (n_tiles + 1) / 2) * TILE;
    double *strip = calloc((size_t)(n_tiles * SIDE) * COLUMNS, sizeof(double));
    double *sums = calloc(n_sums, sizeof(double));
    double *block = malloc((size_t)(2 * n * n) * sizeof(double));
    int bad = strip && sums && block ? 0 : -1;
    if (!bad) {
        for (Py_ssize_t start = 0; start < count; start += COLUMNS) {
            Py_ssize_t size = count - start < COLUMNS ? count - start : COLUMNS;
            bad |= make_differences(feed, at + start, size, pivot, strip);
            double *tile = sums;
            for (Py_ssize_t i = 0; i < n_tiles; i++)
                for (Py_ssize_t k = i; k < n_tiles; k++, tile += TILE)
                    add_tile(strip + i * SIDE * COLUMNS, strip + k * SIDE * COLUMNS, size, tile);
        }
        const double *tile = sums;
        for (Py_ssize_t i = 0; i < n_tiles; i++)
            for (Py_ssize_t k = i; k < n_tiles; k++, tile += TILE)
                for (Py_ssize_t p = 0; p < TILE / LANES; p++) {
                    Py_ssize_t row = i * SIDE + p / SIDE, column = k * SIDE + p % SIDE;
                    if (row <= column && column < n)
                        block[row * n + column] = block[column * n + row] = sum_of(tile + p * LANES);
                }
        if (find_distances(feed, at, count, pivot, block, block + n * n, strip) < 0) bad = -1;
        for (Py_ssize_t k = 0; k < n * n && bad >= 0; k++) {
            products[k] += block[k];
            squared[k] += block[n * n + k];
        }
    }
    free(strip);
    free(sums);
    free(block);
    return bad;
}
