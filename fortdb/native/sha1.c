/* SHA-1 (FIPS 180-4), of which a token is the first eight bytes. Keys are short: one call, no state. */
#include "lane.h"

static inline uint32_t
rotate(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void
add_block(uint32_t state[5], const uint8_t *block)
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

static void
sha1_token(const uint8_t *data, size_t size, uint8_t token[8])
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
void
token_bytes(const uint8_t *key, size_t size, uint8_t token[8])
{
    const uint8_t *open = memchr(key, '{', size);
    if (open != NULL) {
        const uint8_t *tag = open + 1, *close = memchr(tag, '}', size - (size_t)(tag - key));
        if (close != NULL && close > tag) {
            sha1_token(tag, (size_t)(close - tag), token);
            return;
        }
    }
    sha1_token(key, size, token);
}

PyObject *
lane_hash_of(PyObject *module, PyObject *key)
{
    uint8_t token[8];
    if (!PyBytes_Check(key))
        return PyErr_Format(PyExc_TypeError, "a key is bytes");
    token_bytes((const uint8_t *)PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key), token);
    return PyBytes_FromStringAndSize((const char *)token, 8);
}
