/* Counts distinct codes in bounded memory, by their hashes.
 *
 * Hashes are appended; when there is no room left they are sorted, and of equal ones one is kept. If that does not free
 * a quarter of the room, only the lower half of them is kept, and from then on only hashes up to `last` are taken: of those
 * from `first` to `last`, none is missing. Whoever wants the others goes through the codes again, from `last` + 1 on.
 *
 * SipHash-2-4 with a key that nobody knows (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), so that no
 * file can be made whose codes meet. Two of n codes meet with a probability of n * n / 2^65: for 50 million, 1 in 14,000.
 */
#ifndef CODESVC_FASTCSV_DISTINCT_H
#define CODESVC_FASTCSV_DISTINCT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FC_DISTINCT_START 8192
#define FC_HASHES_BY_INSERTION 32

typedef struct {
    uint64_t key[2];
    uint64_t first, last;
    uint64_t *hashes; /* NOTE: malloc'd; the first `sorted` of them in order, each once */
    size_t size, capacity, len, sorted;
} fc_distinct;

static inline uint64_t fc_rotated(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline void fc_sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = fc_rotated(v[1], 13) ^ v[0];
    v[3] = fc_rotated(v[3], 16) ^ v[2];
    v[0] = fc_rotated(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = fc_rotated(v[1], 17) ^ v[2];
    v[3] = fc_rotated(v[3], 21) ^ v[0];
    v[2] = fc_rotated(v[2], 32);
}

/* A little-endian number of at most 8 bytes. */
static inline uint64_t fc_word(const uint8_t *bytes, size_t len) {
    uint64_t word = 0;
    for (size_t i = 0; i < len; i++) word |= (uint64_t)bytes[i] << 8 * i;
    return word;
}

static uint64_t fc_siphash(const uint64_t key[2], const uint8_t *bytes, size_t len) {
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                     key[1] ^ 0x7465646279746573};
    size_t left = len;
    for (;;) {
        bool ends = left < 8;
        uint64_t word = ends ? fc_word(bytes, left) | (uint64_t)(len & 0xff) << 56 : fc_word(bytes, 8);
        v[3] ^= word;
        fc_sip_round(v);
        fc_sip_round(v);
        v[0] ^= word;
        if (ends) break;
        bytes += 8;
        left -= 8;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) fc_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* By the byte at `shift` and those below it, in place (American flag sort: McIlroy, Bostic, McIlroy, "Engineering radix
 * sort", 1993): there is no room for a second array. */
static void fc_sort_hashes(uint64_t *hashes, size_t count, int shift) {
    if (count <= FC_HASHES_BY_INSERTION) {
        for (size_t i = 1; i < count; i++) {
            uint64_t hash = hashes[i];
            size_t j = i;
            for (; j > 0 && hashes[j - 1] > hash; j--) hashes[j] = hashes[j - 1];
            hashes[j] = hash;
        }
        return;
    }
    size_t at[256] = {0}, ends[256], total = 0;
    for (size_t i = 0; i < count; i++) at[hashes[i] >> shift & 0xff]++;
    for (int value = 0; value < 256; value++) {
        size_t here = at[value];
        at[value] = total;
        ends[value] = total += here;
    }
    for (int value = 0; value < 256; value++) {
        while (at[value] < ends[value]) {
            uint64_t hash = hashes[at[value]];
            for (int other; (other = (int)(hash >> shift & 0xff)) != value;) {
                uint64_t swap = hashes[at[other]];
                hashes[at[other]++] = hash;
                hash = swap;
            }
            hashes[at[value]++] = hash;
        }
    }
    if (shift == 0) return;
    for (size_t value = 0, begin = 0; value < 256; begin = ends[value++])
        fc_sort_hashes(hashes + begin, ends[value] - begin, shift - 8);
}

/* Keeps one of equal hashes. */
static void fc_distinct_settle(fc_distinct *d) {
    if (d->sorted == d->len) return;
    fc_sort_hashes(d->hashes, d->len, 56);
    size_t kept = 0;
    for (size_t i = 0; i < d->len; i++)
        if (i == 0 || d->hashes[i] != d->hashes[kept - 1]) d->hashes[kept++] = d->hashes[i];
    d->len = d->sorted = kept;
}

/* Room for one more. False when there is no memory. */
static bool fc_distinct_make_room(fc_distinct *d) {
    if (d->len < d->size) return true;
    if (d->size < d->capacity) {
        size_t size = d->size ? 2 * d->size : FC_DISTINCT_START;
        if (size > d->capacity) size = d->capacity;
        uint64_t *grown = realloc(d->hashes, size * sizeof *grown);
        if (grown == NULL) return false;
        d->hashes = grown;
        d->size = size;
        return true;
    }
    fc_distinct_settle(d);
    if (d->len >= d->capacity - d->capacity / 4) {
        d->len = d->sorted = d->capacity / 2;
        d->last = d->hashes[d->len - 1];
    }
    return true;
}

/* False when there is no memory. */
static bool fc_distinct_add(fc_distinct *d, const uint8_t *code, size_t len) {
    uint64_t hash = fc_siphash(d->key, code, len);
    if (hash < d->first || hash > d->last) return true;
    if (!fc_distinct_make_room(d)) return false;
    if (hash <= d->last) d->hashes[d->len++] = hash;
    return true;
}

#endif
