/* SHA-1 (FIPS 180-4), of which a token is the first eight bytes. Keys are short: one call, no state. */
#include "lane.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static inline uint32_t
rotate(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void
add_block_portably(uint32_t state[5], const uint8_t *block)
{
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8
               | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
#define ROUND(f, k)                                            \
    do {                                                       \
        uint32_t next = rotate(a, 5) + (f) + e + (k) + w[i];   \
        e = d, d = c, c = rotate(b, 30), b = a, a = next;      \
    } while (0)
    int i = 0;
    for (; i < 20; i++)
        ROUND((b & c) | (~b & d), 0x5A827999u);
    for (; i < 40; i++)
        ROUND(b ^ c ^ d, 0x6ED9EBA1u);
    for (; i < 60; i++)
        ROUND((b & c) | (b & d) | (c & d), 0x8F1BBCDCu);
    for (; i < 80; i++)
        ROUND(b ^ c ^ d, 0xCA62C1D6u);
#undef ROUND
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

#if defined(__x86_64__)

/* By the processor's SHA extensions: four rounds at a time, the words of a group of four made from the four before
 * (Intel, "Intel SHA Extensions", 2013). */
__attribute__((target("sha,sse4.1"))) static void
add_block_fast(uint32_t state[5], const uint8_t *block)
{
    const __m128i turned = _mm_set_epi64x(0x0001020304050607LL, 0x08090A0B0C0D0E0FLL);
    __m128i w[4], e, first = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0x1B);
    __m128i abcd = first, before = first, last = _mm_set_epi32((int)state[4], 0, 0, 0);
    for (int group = 0; group < 4; group++)
        w[group] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * group)), turned);
#define FIVE_GROUPS(from, function)                                                                     \
    for (int group = from; group < from + 5; group++) {                                                 \
        __m128i *now = &w[group & 3], *next = &w[(group + 1) & 3], *third = &w[(group + 2) & 3];        \
        if (group >= 4)                                                                                 \
            *now = _mm_sha1msg2_epu32(_mm_xor_si128(_mm_sha1msg1_epu32(*now, *next), *third),           \
                                      w[(group + 3) & 3]);                                              \
        e = group == 0 ? _mm_add_epi32(last, *now) : _mm_sha1nexte_epu32(before, *now);                 \
        before = abcd;                                                                                  \
        abcd = _mm_sha1rnds4_epu32(abcd, e, function);                                                  \
    }
    FIVE_GROUPS(0, 0)
    FIVE_GROUPS(5, 1)
    FIVE_GROUPS(10, 2)
    FIVE_GROUPS(15, 3)
#undef FIVE_GROUPS
    e = _mm_sha1nexte_epu32(before, last);
    _mm_storeu_si128((__m128i *)state, _mm_shuffle_epi32(_mm_add_epi32(abcd, first), 0x1B));
    state[4] = (uint32_t)_mm_extract_epi32(e, 3);
}

static int
has_extensions(void)
{
    unsigned a, b, c, d, sse = 0;
    if (__get_cpuid(1, &a, &b, &c, &d))
        sse = c >> 19 & 1;
    return sse && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

#endif

typedef void (*AddBlock)(uint32_t state[5], const uint8_t *block);

static AddBlock
fastest(void)
{
    static AddBlock known;
#if defined(__x86_64__)
    if (known == NULL && has_extensions())
        known = add_block_fast;
#endif
    if (known == NULL)
        known = add_block_portably;
    return known;
}

static void
sha1_token(AddBlock add_block, const uint8_t *data, size_t size, uint8_t token[8])
{
    uint32_t state[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
    uint8_t last[128] = {0};
    size_t whole = size / 64, rest = size % 64, tail = rest < 56 ? 64 : 128;
    for (size_t block = 0; block < whole; block++)
        add_block(state, data + 64 * block);
    memcpy(last, data + 64 * whole, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[tail - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < tail; at += 64)
        add_block(state, last + at);
    for (int i = 0; i < 8; i++)
        token[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* As `hash_of` in ring/tokens.py: of what stands between the first `{` and the next `}`, if that is something. */
static void
token_by(AddBlock add_block, const uint8_t *key, size_t size, uint8_t token[8])
{
    const uint8_t *open = memchr(key, '{', size);
    if (open != NULL) {
        const uint8_t *tag = open + 1, *close = memchr(tag, '}', size - (size_t)(tag - key));
        if (close != NULL && close > tag) {
            sha1_token(add_block, tag, (size_t)(close - tag), token);
            return;
        }
    }
    sha1_token(add_block, key, size, token);
}

void
token_bytes(const uint8_t *key, size_t size, uint8_t token[8])
{
    token_by(fastest(), key, size, token);
}

static PyObject *
hash_by(AddBlock add_block, PyObject *key)
{
    uint8_t token[8];
    if (!PyBytes_Check(key))
        return PyErr_Format(PyExc_TypeError, "a key is bytes");
    token_by(add_block, (const uint8_t *)PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key), token);
    return PyBytes_FromStringAndSize((const char *)token, 8);
}

PyObject *
lane_hash_of(PyObject *module, PyObject *key)
{
    return hash_by(fastest(), key);
}

/* The same as on a processor that has no extensions for it, for whoever wants to compare. */
PyObject *
lane_hash_portably(PyObject *module, PyObject *key)
{
    return hash_by(add_block_portably, key);
}
