/* Requests as nearly all clients send them: arrays of bulk strings, `GET key` and `SET key value`. */
#include "lane.h"

#define DIGITS_MAX 7 /* longer lengths are looked at by RequestParser, which has the bounds */

/* Reads `$<length>\r\n<bytes>\r\n`. 1: read, 0: not all of it is there, -1: something else. */
static int
read_bulk(const uint8_t **at, const uint8_t *end, Slice *slice)
{
    const uint8_t *p = *at;
    size_t size = 0;
    int digits = 0;
    if (p == end)
        return 0;
    if (*p++ != '$')
        return -1;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        if (++digits > DIGITS_MAX || (digits == 2 && size == 0))
            return -1;
        size = 10 * size + (size_t)(*p - '0');
    }
    if (p == end)
        return 0;
    if (*p++ != '\r' || digits == 0)
        return -1;
    if (p == end)
        return 0;
    if (*p++ != '\n')
        return -1;
    if ((size_t)(end - p) < size + 2)
        return 0;
    if (p[size] != '\r' || p[size + 1] != '\n')
        return -1;
    slice->at = p;
    slice->size = size;
    *at = p + size + 2;
    return 1;
}

static int
is_word(const Slice *slice, const char *lower)
{
    return slice->size == 3 && (slice->at[0] | 32) == lower[0] && (slice->at[1] | 32) == lower[1]
           && (slice->at[2] | 32) == lower[2];
}

Kind
read_request(const uint8_t *at, const uint8_t *end, Slice *key, Slice *value, size_t *used)
{
    const uint8_t *p = at;
    Slice word;
    if (end - p < 4)
        return *p == '*' ? UNFINISHED : SPECIAL;
    if (p[0] != '*' || (p[1] != '2' && p[1] != '3') || p[2] != '\r' || p[3] != '\n')
        return SPECIAL;
    int count = p[1] - '0';
    p += 4;
    int found = read_bulk(&p, end, &word);
    if (found <= 0)
        return found < 0 ? SPECIAL : UNFINISHED;
    if (count == 2 ? !is_word(&word, "get") : !is_word(&word, "set") && !is_word(&word, "put"))
        return SPECIAL;
    found = read_bulk(&p, end, key);
    if (found > 0 && count == 3)
        found = read_bulk(&p, end, value);
    if (found <= 0)
        return found < 0 ? SPECIAL : UNFINISHED;
    *used = (size_t)(p - at);
    return count == 2 ? PLAIN_GET : PLAIN_SET;
}

/* `$<size>\r\n`, which begins a value: snprintf would take a tenth of a short answer's time. */
size_t
put_bulk_head(char *to, size_t size)
{
    char digits[20], *at = digits + sizeof digits, *start = to;
    do
        *--at = (char)('0' + size % 10);
    while ((size /= 10) > 0);
    *to++ = '$';
    size_t count = (size_t)(digits + sizeof digits - at);
    memcpy(to, at, count);
    memcpy(to + count, "\r\n", 2);
    return (size_t)(to - start) + count + 2;
}
