/* Weighted sums of rows in double precision, rounded once.
 *
 * out[j] = round( (w[0]*x[0][j] + ... + w[n-1]*x[n-1][j]) / divisor )
 *
 * The loops are plain C over blocks that stay in the first-level cache; compilers vectorise them.
 * All conversions are integer arithmetic on bit patterns, so that they are exact, the same on
 * every machine, and round once from double to the output's type (a way through float rounds
 * twice). What a result means is decided in linear.py; this file only computes.
 */
#include "_floats.h"

enum { BLOCK = 1024 };

/* Round to nearest, ties to even, straight from double: adding a power of two whose last place is
 * the output's last place lets the adder round, and the difference of bit patterns is the
 * significand. Exponents below the smallest normal one share its last place. */
INLINE uint32_t double_to_small(double value, int mantissa, int min_exponent, uint32_t infinity) {
    uint64_t bits = as_bits(value);
    uint64_t lowest = (uint64_t)(1023 + min_exponent) << 52;
    uint64_t exponent = bits & 0x7FF0000000000000ull;
    uint64_t highest = (uint64_t)(1023 + 512) << 52; /* all types overflow far below */
    uint64_t clamped = exponent < lowest ? lowest : exponent;
    clamped = clamped > highest ? highest : clamped;
    uint64_t anchor = clamped + ((uint64_t)(52 - mantissa) << 52);
    double sum = fabs(value) + as_double(anchor);
    uint64_t magnitude =
        (as_bits(sum) - anchor) + ((clamped - lowest) >> (52 - mantissa));
    return (uint32_t)(magnitude > infinity ? infinity : magnitude);
}

/* Smallest power of two that divides the value: its lowest significant bit. */
INLINE double grain_of(double value) {
    uint64_t bits = as_bits(value) & 0x7FFFFFFFFFFFFFFFull;
    uint64_t fraction = bits & 0x000FFFFFFFFFFFFFull;
    double rest = as_double(bits & (bits - 1));
    return fraction ? as_double(bits) - rest : as_double(bits);
}

typedef struct { double largest; double grain; int nonfinite; } Facts;

#define ACCUMULATE(LOAD)                                                    \
    for (Py_ssize_t j = 0; j < n; j++) {                                    \
        double value = (LOAD);                                              \
        double term = weight * value;                                       \
        acc[j] = first ? term : acc[j] + term;                              \
    }
#define MAGNITUDES(LOAD)                                                    \
    for (Py_ssize_t j = 0; j < n; j++) size[j] = (first ? 0.0 : size[j]) + fabs(weight * (LOAD));
#define SURVEY(LOAD)                                                        \
    for (Py_ssize_t j = 0; j < n; j++) {                                    \
        double value = fabs(LOAD);                                          \
        double step = value > 0 ? grain_of(value) : INFINITY;               \
        largest = value > largest ? value : largest;                        \
        grain = step < grain ? step : grain;                                \
    }

/* Add one input's block to the sums. `size` takes the sum of magnitudes where it is wanted. */
CLONES static void add_block(const void *x, int type, Py_ssize_t n, double weight, int first,
                             int survey, double *restrict acc, double *restrict size,
                             Facts *facts) {
    const uint16_t *x16 = x;
    const uint8_t *x8 = x;
    const float *xf = x;
    const double *xd = x;
    double largest = 0, grain = INFINITY;
    switch (type) {
    case F16: {
        uint16_t top = 0;
        ACCUMULATE(LOAD_F16)
        if (size) MAGNITUDES(LOAD_F16)
        for (Py_ssize_t j = 0; j < n; j++) {
            uint16_t bits = x16[j] & 0x7FFF;
            top = bits > top ? bits : top;
        }
        facts->nonfinite |= top >= 0x7C00;
        largest = small_to_double(top, 16, 10, 0x1p1008);
        grain = 0x1p-24;
        break;
    }
    case BF16: {
        uint16_t top = 0;
        ACCUMULATE(LOAD_BF16)
        if (size) MAGNITUDES(LOAD_BF16)
        for (Py_ssize_t j = 0; j < n; j++) {
            uint16_t bits = x16[j] & 0x7FFF;
            top = bits > top ? bits : top;
        }
        facts->nonfinite |= top >= 0x7F80;
        if (survey) SURVEY(LOAD_BF16)
        break;
    }
    case F8_E4M3:
        ACCUMULATE(LOAD_E4M3)
        if (size) MAGNITUDES(LOAD_E4M3)
        for (Py_ssize_t j = 0; j < n; j++) facts->nonfinite |= (x8[j] & 0x7F) == 0x7F;
        largest = 448;
        grain = 0x1p-9;
        break;
    case F8_E5M2:
        ACCUMULATE(LOAD_E5M2)
        if (size) MAGNITUDES(LOAD_E5M2)
        for (Py_ssize_t j = 0; j < n; j++) facts->nonfinite |= (x8[j] & 0x7F) >= 0x7C;
        largest = 57344;
        grain = 0x1p-16;
        break;
    case F32: {
        int bad = 0;
        ACCUMULATE((double)xf[j])
        if (size) MAGNITUDES((double)xf[j])
        for (Py_ssize_t j = 0; j < n; j++) bad |= !(fabsf(xf[j]) <= 3.4028234663852886e38f);
        facts->nonfinite |= bad;
        if (survey) SURVEY((double)xf[j])
        break;
    }
    default: {
        int bad = 0;
        ACCUMULATE(xd[j])
        if (size) MAGNITUDES(xd[j])
        for (Py_ssize_t j = 0; j < n; j++) bad |= !(fabs(xd[j]) <= 1.7976931348623157e308);
        facts->nonfinite |= bad;
        if (survey) SURVEY(xd[j])
        break;
    }
    }
    if (largest > facts->largest) facts->largest = largest;
    if (grain < facts->grain) facts->grain = grain;
}

/* Round a block of sums into the output. */
CLONES static void put_block(const double *restrict acc, Py_ssize_t n, void *out, int type,
                             int *overflow) {
    uint16_t *o16 = out;
    uint8_t *o8 = out;
    float *of = out;
    double *od = out;
    int bad = 0;
    switch (type) {
    case F16:
        for (Py_ssize_t j = 0; j < n; j++) {
            uint32_t bits = double_to_small(acc[j], 10, -14, 0x7C00);
            bad |= bits >= 0x7C00;
            o16[j] = (uint16_t)(bits | ((as_bits(acc[j]) >> 63) << 15));
        }
        break;
    case BF16:
        for (Py_ssize_t j = 0; j < n; j++) {
            uint32_t bits = double_to_small(acc[j], 7, -126, 0x7F80);
            bad |= bits >= 0x7F80;
            o16[j] = (uint16_t)(bits | ((as_bits(acc[j]) >> 63) << 15));
        }
        break;
    case F8_E4M3: /* no infinity: what is too large becomes NaN */
        for (Py_ssize_t j = 0; j < n; j++) {
            uint32_t bits = double_to_small(acc[j], 3, -6, 0x7F);
            bad |= bits >= 0x7F;
            o8[j] = (uint8_t)(bits | ((as_bits(acc[j]) >> 63) << 7));
        }
        break;
    case F8_E5M2:
        for (Py_ssize_t j = 0; j < n; j++) {
            uint32_t bits = double_to_small(acc[j], 2, -14, 0x7C);
            bad |= bits >= 0x7C;
            o8[j] = (uint8_t)(bits | ((as_bits(acc[j]) >> 63) << 7));
        }
        break;
    case F32:
        for (Py_ssize_t j = 0; j < n; j++) {
            of[j] = (float)acc[j];
            bad |= !(fabsf(of[j]) <= 3.4028234663852886e38f);
        }
        break;
    default:
        for (Py_ssize_t j = 0; j < n; j++) {
            od[j] = acc[j];
            bad |= !(fabs(od[j]) <= 1.7976931348623157e308);
        }
    }
    *overflow |= bad;
}

CLONES static void scale_block(double *acc, Py_ssize_t n, double divisor) {
    int exponent;
    if (divisor == 1.0) return;
    if (frexp(divisor, &exponent) == 0.5) { /* a power of two: multiplying is exact and faster */
        double factor = 1.0 / divisor;
        for (Py_ssize_t j = 0; j < n; j++) acc[j] *= factor;
    } else {
        for (Py_ssize_t j = 0; j < n; j++) acc[j] /= divisor;
    }
}

/* combine(out, out_type, inputs, types, weights, divisor, slack) ->
 *     (largest, grain, nonfinite, overflow, doubtful)
 * slack < 0: survey the inputs. slack >= 0: list the elements whose rounding changes when the sum
 * moves by slack * (sum of magnitudes). */
static PyObject *combine(PyObject *module, PyObject *args) {
    PyObject *out_object, *inputs, *types, *weights, *result = NULL, *doubtful = NULL;
    int out_type;
    double divisor, slack;
    (void)module;
    if (!PyArg_ParseTuple(args, "OiO!O!O!dd", &out_object, &out_type, &PyList_Type, &inputs,
                          &PyList_Type, &types, &PyList_Type, &weights, &divisor, &slack))
        return NULL;
    Py_ssize_t n_inputs = PyList_Size(inputs);
    if (out_type < 0 || out_type >= N_TYPES || n_inputs < 1 || PyList_Size(types) != n_inputs ||
        PyList_Size(weights) != n_inputs) {
        PyErr_SetString(PyExc_ValueError, "inputs, types and weights must have one length");
        return NULL;
    }
    Py_buffer out, *views = calloc((size_t)n_inputs, sizeof(Py_buffer));
    int *codes = calloc((size_t)n_inputs, sizeof(int));
    double *factors = calloc((size_t)n_inputs, sizeof(double));
    Facts *facts = calloc((size_t)n_inputs, sizeof(Facts));
    uint32_t *found = NULL;
    Py_ssize_t n_views = 0, n_found = 0, room = 0;
    int overflow = 0, no_memory = 0;
    if (!views || !codes || !factors || !facts) {
        PyErr_NoMemory();
        goto free_arrays;
    }
    if (PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0) goto free_arrays;
    Py_ssize_t n = out.len / ITEM[out_type];
    for (; n_views < n_inputs; n_views++) {
        codes[n_views] = (int)PyLong_AsLong(PyList_GetItem(types, n_views));
        factors[n_views] = PyFloat_AsDouble(PyList_GetItem(weights, n_views));
        facts[n_views].grain = INFINITY;
        if (PyErr_Occurred()) goto release;
        if (codes[n_views] < 0 || codes[n_views] >= N_TYPES) {
            PyErr_SetString(PyExc_ValueError, "unknown type");
            goto release;
        }
        if (PyObject_GetBuffer(PyList_GetItem(inputs, n_views), &views[n_views], PyBUF_SIMPLE) < 0)
            goto release;
        if (views[n_views].len != n * ITEM[codes[n_views]]) {
            PyErr_SetString(PyExc_ValueError, "every row must have as many elements as the output");
            n_views++;
            goto release;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    double acc[BLOCK], size[BLOCK], moved[BLOCK];
    uint8_t low[BLOCK * 8], high[BLOCK * 8];
    int ignored = 0;
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        Py_ssize_t count = n - start < BLOCK ? n - start : BLOCK;
        for (Py_ssize_t i = 0; i < n_inputs; i++)
            add_block((const char *)views[i].buf + start * ITEM[codes[i]], codes[i], count,
                      factors[i], i == 0, slack < 0, acc, slack >= 0 ? size : NULL, &facts[i]);
        scale_block(acc, count, divisor);
        put_block(acc, count, (char *)out.buf + start * ITEM[out_type], out_type, &overflow);
        if (slack >= 0) {
            double step = slack / fabs(divisor);
            for (Py_ssize_t j = 0; j < count; j++) moved[j] = acc[j] - size[j] * step;
            put_block(moved, count, low, out_type, &ignored);
            for (Py_ssize_t j = 0; j < count; j++) moved[j] = acc[j] + size[j] * step;
            put_block(moved, count, high, out_type, &ignored);
            size_t item = (size_t)ITEM[out_type];
            for (Py_ssize_t j = 0; j < count && !no_memory; j++) {
                if (memcmp(low + (size_t)j * item, high + (size_t)j * item, item) == 0) continue;
                if (n_found == room) {
                    room = room ? 2 * room : 64;
                    uint32_t *grown = realloc(found, (size_t)room * sizeof(uint32_t));
                    if (!grown) { no_memory = 1; break; }
                    found = grown;
                }
                found[n_found++] = (uint32_t)(start + j);
            }
        }
    }
    Py_END_ALLOW_THREADS
    if (no_memory) {
        PyErr_NoMemory();
        goto release;
    }
    double largest = 0, grain = INFINITY;
    int nonfinite = 0;
    for (Py_ssize_t i = 0; i < n_inputs; i++) {
        double reach = facts[i].largest * fabs(factors[i]);
        largest += reach;
        if (facts[i].grain < grain) grain = facts[i].grain;
        nonfinite |= facts[i].nonfinite;
    }
    doubtful = PyBytes_FromStringAndSize((const char *)found, n_found * (Py_ssize_t)sizeof(uint32_t));
    if (doubtful)
        result = Py_BuildValue("(ddiiO)", largest, grain, nonfinite, overflow, doubtful);
    Py_XDECREF(doubtful);
release:
    for (Py_ssize_t i = 0; i < n_views; i++) PyBuffer_Release(&views[i]);
    PyBuffer_Release(&out);
free_arrays:
    free(found);
    free(facts);
    free(factors);
    free(codes);
    free(views);
    return result;
}

static PyMethodDef methods[] = {
    {"combine", combine, METH_VARARGS, "Weighted sum of rows, rounded once; see linear.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_linear", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__linear(void) { return PyModule_Create(&definition); }
