/* CRC-32 as zlib's: of entries, and of the journal's records. */
#include "lane.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* --- with tables, eight bytes at a time. `sum` is what the checksum is the complement of. ------------------- */

static uint32_t tables[8][256];

static void
make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0);
        tables[0][byte] = sum;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][before & 255];
        }
}

static uint32_t
add_portably(uint32_t sum, const uint8_t *at, size_t size)
{
    if (tables[0][1] == 0)
        make_tables();
    for (; size >= 8; at += 8, size -= 8) {
        uint32_t low = sum ^ (uint32_t)number_from(at, 4), high = (uint32_t)number_from(at + 4, 4);
        sum = tables[7][low & 255] ^ tables[6][low >> 8 & 255] ^ tables[5][low >> 16 & 255] ^ tables[4][low >> 24]
              ^ tables[3][high & 255] ^ tables[2][high >> 8 & 255] ^ tables[1][high >> 16 & 255]
              ^ tables[0][high >> 24];
    }
    for (; size > 0; at++, size--)
        sum = sum >> 8 ^ tables[0][(sum ^ *at) & 255];
    return sum;
}

/* --- by carry-less multiplication, 64 bytes at a time ------------------------------------------------------- */

#if defined(__x86_64__)

#define FOLDED_BYTES 64 /* at least so many */

typedef __m128i Block;

__attribute__((target("pclmul,sse4.1"))) static inline Block
block_at(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

/* `block`, as far ahead as the factors move it, added to `onto`. */
__attribute__((target("pclmul,sse4.1"))) static inline Block
fold(Block block, Block factors, Block onto)
{
    Block low = _mm_clmulepi64_si128(block, factors, 0x00), high = _mm_clmulepi64_si128(block, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), onto);
}

/* What is left of 128 bits, modulo the polynomial: to 64 bits, to 32, and Barrett's reduction. */
__attribute__((target("pclmul,sse4.1"))) static inline uint32_t
reduced(Block sum, Block by_one_block)
{
    const Block low_words = _mm_setr_epi32(-1, 0, -1, 0), by_half = _mm_set_epi64x(0, 0x163CD6124LL);
    const Block polynomial = _mm_set_epi64x(0x1F7011641LL, 0x1DB710641LL); /* its inverse beside it */
    sum = _mm_xor_si128(_mm_srli_si128(sum, 8), _mm_clmulepi64_si128(sum, by_one_block, 0x10));
    Block rest = _mm_srli_si128(sum, 4);
    sum = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(sum, low_words), by_half, 0x00), rest);
    Block quotient = _mm_clmulepi64_si128(_mm_and_si128(sum, low_words), polynomial, 0x10);
    Block multiple = _mm_clmulepi64_si128(_mm_and_si128(quotient, low_words), polynomial, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(sum, multiple), 1);
}

/* Of a multiple of 16 bytes. (Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel 2009: the algorithm, and the constants for this polynomial, bits reflected.) */
__attribute__((target("pclmul,sse4.1"))) static uint32_t
add_blocks(uint32_t sum, const uint8_t *at, size_t size)
{
    const Block by_four = _mm_set_epi64x(0x1C6E41596LL, 0x154442BD4LL);
    const Block by_one = _mm_set_epi64x(0x0CCAA009ELL, 0x1751997D0LL);
    Block four[4];
    for (int block = 0; block < 4; block++)
        four[block] = block_at(at + 16 * block);
    four[0] = _mm_xor_si128(four[0], _mm_cvtsi32_si128((int)sum));
    for (at += 64, size -= 64; size >= 64; at += 64, size -= 64)
        for (int block = 0; block < 4; block++)
            four[block] = fold(four[block], by_four, block_at(at + 16 * block));
    Block one = four[0];
    for (int block = 1; block < 4; block++)
        one = fold(one, by_one, four[block]);
    for (; size >= 16; at += 16, size -= 16)
        one = fold(one, by_one, block_at(at));
    return reduced(one, by_one);
}

static uint32_t
add(uint32_t sum, const uint8_t *at, size_t size)
{
    static int is_fast = -1;
    if (is_fast < 0)
        is_fast = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    size_t folded = is_fast && size >= FOLDED_BYTES ? size & ~(size_t)15 : 0;
    if (folded > 0)
        sum = add_blocks(sum, at, folded);
    return add_portably(sum, at + folded, size - folded);
}

#else

static uint32_t
add(uint32_t sum, const uint8_t *at, size_t size)
{
    return add_portably(sum, at, size);
}

#endif

uint32_t
crc32_of(const uint8_t *at, size_t size)
{
    return ~add(~0u, at, size);
}

static PyObject *
crc32_with(uint32_t (*add_with)(uint32_t, const uint8_t *, size_t), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    unsigned long before = count == 2 ? PyLong_AsUnsignedLong(args[1]) : 0;
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "crc32(data, before)");
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t sum = ~add_with(~(uint32_t)before, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(sum);
}

/* crc32(data, before=0): the checksum of what had the checksum `before` and of the data behind it. */
PyObject *
lane_crc32(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return crc32_with(add, args, count);
}

PyObject *
lane_crc32_portably(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return crc32_with(add_portably, args, count);
}
