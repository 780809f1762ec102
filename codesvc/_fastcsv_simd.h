/* The instruction sets, and which of them this processor has.
 *
 * _fastcsv_scan.h is included once for each, with what differs between them as macros:
 *
 *   FC_NAME(name)   the name of what belongs to this instruction set
 *   FC_TARGET       function attribute that lets the compiler use it
 *
 * and with these defined:
 *
 *   block           64 bytes in registers
 *   load(p)         the block at p
 *   equal(v, c)     its bytes that are c
 *   prefix_xor(m)   bit i of the result is the xor of bits 0 to i
 *   popcount(m)     how many bits are set
 *   special(p, end) of 32 bytes at p, a bit for each that ends a plain code, or cannot be in one without a closer look:
 *                   all but 0x21 to 0x7e, and `end`, which is a comma or a quote
 *   copy_32(to, p)  copies 32 bytes
 */
#ifndef CODESVC_FASTCSV_SIMD_H
#define CODESVC_FASTCSV_SIMD_H

#define FC_WINDOW 4096            /* it and the places of its records stay in the first-level cache */
#define FC_LONGEST_SCAN (1 << 30) /* places are 32-bit numbers */

/* What one block leaves to the next: of its last byte, whether it ended a record, was a CR, was a closing quote (1 or 0),
 * or stood in quotes (all bits or none); the line that the next begins on; and where quoting is broken, which ends it. */
typedef struct {
    uint64_t terminator, cr, closing, inside, line, broken;
} fc_carry;

static bool fc_always(void) { return true; }

/* ---- Portable: 8 bytes in a word -------------------------------------------------------------------------------- */

#define FC_EVERY_BYTE 0x0101010101010101u

typedef struct {
    uint64_t words[8];
} fc_portable_block;

static inline uint64_t fc_portable_load_word(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline fc_portable_block fc_portable_load(const uint8_t *p) {
    fc_portable_block v;
    for (int i = 0; i < 8; i++) v.words[i] = fc_portable_load_word(p + 8 * i);
    return v;
}

/* Of a word, the high bit of each byte that is c; and from such a word, 8 bits. */
static inline uint64_t fc_portable_word_equal(uint64_t word, uint8_t c) {
    uint64_t differs = word ^ c * FC_EVERY_BYTE, low = 0x7f * FC_EVERY_BYTE;
    return ~(((differs & low) + low) | differs | low);
}

static inline uint64_t fc_portable_bits(uint64_t word) { return (word >> 7) * 0x0102040810204080u >> 56; }

static inline uint64_t fc_portable_equal(const fc_portable_block *v, uint8_t c) {
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits |= fc_portable_bits(fc_portable_word_equal(v->words[i], c)) << 8 * i;
    return bits;
}

static inline uint64_t fc_portable_prefix_xor(uint64_t bits) {
    for (int shift = 1; shift < 64; shift *= 2) bits ^= bits << shift;
    return bits;
}

static inline uint32_t fc_portable_special(const uint8_t *p, uint8_t end) {
    uint64_t bits = 0, low = 0x7f * FC_EVERY_BYTE;
    for (int i = 0; i < 4; i++) {
        uint64_t word = fc_portable_load_word(p + 8 * i), seven = word & low;
        /* The high bit of `small` is 0 from 0x21 on, that of `large` 1 for 0x7f; no byte carries into the next. */
        uint64_t small = ~(seven + (0x80 - 0x21) * FC_EVERY_BYTE), large = seven + FC_EVERY_BYTE;
        uint64_t special = ((small | large | word) & ~low) | fc_portable_word_equal(word, end);
        bits |= fc_portable_bits(special) << 8 * i;
    }
    return (uint32_t)bits;
}

static inline uint64_t fc_portable_popcount(uint64_t m) {
    m -= m >> 1 & 0x5555555555555555u;
    m = (m & 0x3333333333333333u) + (m >> 2 & 0x3333333333333333u);
    return ((m + (m >> 4)) & 0x0f0f0f0f0f0f0f0fu) * FC_EVERY_BYTE >> 56;
}

static inline void fc_portable_copy_32(uint8_t *to, const uint8_t *p) { memcpy(to, p, 32); }

#define FC_NAME(name) fc_portable_##name
#define FC_TARGET
#include "_fastcsv_scan.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* ---- SSE2: every x86-64 has it ---------------------------------------------------------------------------------- */

typedef struct {
    __m128i quarters[4];
} fc_sse2_block;

static inline fc_sse2_block fc_sse2_load(const uint8_t *p) {
    fc_sse2_block v;
    for (int i = 0; i < 4; i++) v.quarters[i] = _mm_loadu_si128((const __m128i *)(p + 16 * i));
    return v;
}

static inline uint64_t fc_sse2_equal(const fc_sse2_block *v, uint8_t c) {
    __m128i wanted = _mm_set1_epi8((char)c);
    uint64_t bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v->quarters[i], wanted)) << 16 * i;
    return bits;
}

static inline uint64_t fc_sse2_prefix_xor(uint64_t bits) { return fc_portable_prefix_xor(bits); }

static inline uint32_t fc_sse2_special(const uint8_t *p, uint8_t end) {
    uint32_t bits = 0;
    for (int i = 0; i < 2; i++) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + 16 * i));
        /* One more makes 0x7f negative; of signed numbers, all that cannot be are then below 0x22. */
        __m128i special = _mm_cmplt_epi8(_mm_add_epi8(v, _mm_set1_epi8(1)), _mm_set1_epi8(0x22));
        special = _mm_or_si128(special, _mm_cmpeq_epi8(v, _mm_set1_epi8((char)end)));
        bits |= (uint32_t)_mm_movemask_epi8(special) << 16 * i;
    }
    return bits;
}

/* Not every x86-64 has an instruction for it. */
static inline uint64_t fc_sse2_popcount(uint64_t m) { return fc_portable_popcount(m); }

static inline void fc_sse2_copy_32(uint8_t *to, const uint8_t *p) {
    __m128i low = _mm_loadu_si128((const __m128i *)p), high = _mm_loadu_si128((const __m128i *)(p + 16));
    _mm_storeu_si128((__m128i *)to, low);
    _mm_storeu_si128((__m128i *)(to + 16), high);
}

#define FC_NAME(name) fc_sse2_##name
#define FC_TARGET
#include "_fastcsv_scan.h"

/* ---- AVX2, with BMI and the carry-less multiplication ----------------------------------------------------------- */

#define FC_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt,pclmul")))

typedef struct {
    __m256i low, high;
} fc_avx2_block;

FC_AVX2 static inline fc_avx2_block fc_avx2_load(const uint8_t *p) {
    fc_avx2_block v = {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
    return v;
}

FC_AVX2 static inline uint64_t fc_avx2_equal(const fc_avx2_block *v, uint8_t c) {
    __m256i wanted = _mm256_set1_epi8((char)c);
    uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v->low, wanted));
    uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v->high, wanted));
    return low | (uint64_t)high << 32;
}

FC_AVX2 static inline uint64_t fc_avx2_prefix_xor(uint64_t bits) {
    __m128i product = _mm_clmulepi64_si128(_mm_set_epi64x(0, (int64_t)bits), _mm_set1_epi8(-1), 0);
    return (uint64_t)_mm_cvtsi128_si64(product);
}

FC_AVX2 static inline uint32_t fc_avx2_special(const uint8_t *p, uint8_t end) {
    __m256i v = _mm256_loadu_si256((const __m256i *)p);
    __m256i special = _mm256_cmpgt_epi8(_mm256_set1_epi8(0x22), _mm256_add_epi8(v, _mm256_set1_epi8(1)));
    special = _mm256_or_si256(special, _mm256_cmpeq_epi8(v, _mm256_set1_epi8((char)end)));
    return (uint32_t)_mm256_movemask_epi8(special);
}

FC_AVX2 static inline uint64_t fc_avx2_popcount(uint64_t m) { return (uint64_t)__builtin_popcountll(m); }

/* Compilers break a memcpy of 32 bytes up even where there are registers of that size. */
FC_AVX2 static inline void fc_avx2_copy_32(uint8_t *to, const uint8_t *p) {
    _mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)p));
}

static bool fc_has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("pclmul");
}

#define FC_NAME(name) fc_avx2_##name
#define FC_TARGET FC_AVX2
#include "_fastcsv_scan.h"

/* ---- AVX-512: a comparison of 64 bytes is a mask already --------------------------------------------------------- */

#define FC_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,bmi,bmi2,popcnt,pclmul")))

typedef struct {
    __m512i all;
} fc_avx512_block;

FC_AVX512 static inline fc_avx512_block fc_avx512_load(const uint8_t *p) {
    fc_avx512_block v = {_mm512_loadu_si512(p)};
    return v;
}

FC_AVX512 static inline uint64_t fc_avx512_equal(const fc_avx512_block *v, uint8_t c) {
    return _mm512_cmpeq_epi8_mask(v->all, _mm512_set1_epi8((char)c));
}

FC_AVX512 static inline uint64_t fc_avx512_prefix_xor(uint64_t bits) { return fc_avx2_prefix_xor(bits); }

FC_AVX512 static inline uint32_t fc_avx512_special(const uint8_t *p, uint8_t end) {
    __m256i v = _mm256_loadu_si256((const __m256i *)p);
    /* From 0x21 on, as many as there are to 0x7e. */
    uint32_t plain = _mm256_cmplt_epu8_mask(_mm256_sub_epi8(v, _mm256_set1_epi8(0x21)), _mm256_set1_epi8(0x7f - 0x21));
    return ~plain | _mm256_cmpeq_epi8_mask(v, _mm256_set1_epi8((char)end));
}

FC_AVX512 static inline uint64_t fc_avx512_popcount(uint64_t m) { return fc_avx2_popcount(m); }

FC_AVX512 static inline void fc_avx512_copy_32(uint8_t *to, const uint8_t *p) { fc_avx2_copy_32(to, p); }

static bool fc_has_avx512(void) {
    return fc_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

#define FC_NAME(name) fc_avx512_##name
#define FC_TARGET FC_AVX512
#include "_fastcsv_scan.h"

#endif /* __x86_64__ */

/* ---- Choice ----------------------------------------------------------------------------------------------------- */

/* The best first. */
static const fc_instruction_set fc_instruction_sets[] = {
#if defined(__x86_64__)
    {"avx512", fc_has_avx512, fc_avx512_scan, fc_avx512_write},
    {"avx2", fc_has_avx2, fc_avx2_scan, fc_avx2_write},
    {"sse2", fc_always, fc_sse2_scan, fc_sse2_write},
#endif
    {"portable", fc_always, fc_portable_scan, fc_portable_write},
    {"bytewise", fc_always, NULL, fc_portable_write}, /* for tests: the other parser alone */
};

#define FC_INSTRUCTION_SETS (sizeof fc_instruction_sets / sizeof fc_instruction_sets[0])

#endif
