/* Sorts the codes of a run by their bytes, the shorter first where one is the beginning of the other.
 *
 * Radix sort on 8 bytes of each code at a time, as a big-endian number; zeros, which no code contains, stand for what
 * is past its end. The bytes are counted once; of those that differ between codes only as many take part as it needs to
 * tell most codes apart. Codes that still agree are few, and are sorted among themselves: by insertion, or, if they are
 * many, in this same way, in the end by their next 8 bytes. Of equal codes one is kept.
 */
#ifndef CODESVC_FASTCSV_SORT_H
#define CODESVC_FASTCSV_SORT_H

#define FC_SORT_BY_INSERTION 24
#define FC_SORT_RADIX_DEPTH 64 /* bytes, then by comparison: a hostile file must not drive the recursion deep */

typedef struct {
    uint64_t key;
    const uint8_t *code; /* at its length, in the arena */
} fc_sort_item;

/* NOTE: memory that a run leaves to the next one; freed by fc_sorter_free. */
typedef struct {
    fc_sort_item *items;
    fc_sort_item *spare; /* as many, for the passes to write to */
    size_t size;
    uint32_t counts[8][256]; /* here, since there may be little stack */
} fc_sorter;

static void fc_sort_from(fc_sorter *s, fc_sort_item *items, size_t count, size_t depth);

static void fc_sorter_free(fc_sorter *s) {
    free(s->items);
    free(s->spare);
    s->items = s->spare = NULL;
}

static inline bool fc_same_code(const uint8_t *a, const uint8_t *b) {
    return memcmp(a, b, FC_LENGTH_BYTES) == 0 &&
           memcmp(a + FC_LENGTH_BYTES, b + FC_LENGTH_BYTES, fc_arena_length(a)) == 0;
}

/* Fills in run->order. False when there is no memory. */
static bool fc_sort(fc_sorter *s, fc_run *run) {
    size_t count = run->codes;
    if (count > s->size) {
        fc_sorter_free(s);
        s->items = malloc(count * sizeof *s->items);
        s->spare = malloc(count * sizeof *s->spare);
        s->size = s->items != NULL && s->spare != NULL ? count : 0;
        if (s->size == 0) return false;
    }
    if (count > run->order_size) {
        free(run->order);
        run->order = malloc(count * sizeof *run->order);
        run->order_size = run->order != NULL ? count : 0;
        if (run->order == NULL) return false;
    }
    const uint8_t *at = run->arena;
    for (size_t i = 0; i < count; i++) {
        s->items[i].code = at;
        at += FC_LENGTH_BYTES + fc_arena_length(at);
    }
    fc_sort_from(s, s->items, count, 0);
    const fc_sort_item *last = NULL;
    run->distinct = 0;
    for (size_t i = 0; i < count; i++) {
        const fc_sort_item *item = &s->items[i];
        /* Equal codes went the same way, so that their keys are of the same bytes: a look at the arena is rare. */
        if (last != NULL && last->key == item->key && fc_same_code(last->code, item->code)) continue;
        run->order[run->distinct++] = item->code;
        last = item;
    }
    return true;
}

static inline uint64_t fc_sort_key(const uint8_t *code, size_t depth) {
    size_t len = fc_arena_length(code);
    uint64_t key;
    if (len <= depth) return 0;
    /* NOTE: the arena goes on for FC_OVERRUN bytes after its last code. */
    memcpy(&key, code + FC_LENGTH_BYTES + depth, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    key = __builtin_bswap64(key);
#endif
    return len - depth >= 8 ? key : key & ~(~(uint64_t)0 >> (8 * (len - depth)));
}

/* NOTE: codes that agree in their first `depth` bytes are at least that long. */
static inline bool fc_sort_less(const fc_sort_item *a, const fc_sort_item *b, size_t depth) {
    if (a->key != b->key) return a->key < b->key;
    size_t a_len = fc_arena_length(a->code), b_len = fc_arena_length(b->code);
    size_t common = a_len < b_len ? a_len : b_len;
    int order = memcmp(a->code + FC_LENGTH_BYTES + depth, b->code + FC_LENGTH_BYTES + depth, common - depth);
    return order != 0 ? order < 0 : a_len < b_len;
}

static void fc_sort_by_insertion(fc_sort_item *items, size_t count, size_t depth) {
    for (size_t i = 1; i < count; i++) {
        fc_sort_item item = items[i];
        size_t j = i;
        for (; j > 0 && fc_sort_less(&item, &items[j - 1], depth); j--) items[j] = items[j - 1];
        items[j] = item;
    }
}

/* For codes that agree in their first FC_SORT_RADIX_DEPTH bytes. */
static int fc_sort_compare(const void *a, const void *b) {
    return fc_sort_less(a, b, FC_SORT_RADIX_DEPTH) ? -1 : (int)fc_sort_less(b, a, FC_SORT_RADIX_DEPTH);
}

static void fc_sort_by_keys(fc_sorter *s, fc_sort_item *items, size_t count, size_t depth);

/* By the bytes from `depth` on; those before are the same. */
static void fc_sort_from(fc_sorter *s, fc_sort_item *items, size_t count, size_t depth) {
    for (size_t i = 0; i < count; i++) items[i].key = fc_sort_key(items[i].code, depth);
    if (count <= FC_SORT_BY_INSERTION) fc_sort_by_insertion(items, count, depth);
    else if (depth >= FC_SORT_RADIX_DEPTH) qsort(items, count, sizeof *items, fc_sort_compare);
    else fc_sort_by_keys(s, items, count, depth);
}

static void fc_sort_by_keys(fc_sorter *s, fc_sort_item *items, size_t count, size_t depth) {
    memset(s->counts, 0, sizeof s->counts);
    for (size_t i = 0; i < count; i++)
        for (int byte = 0; byte < 8; byte++) s->counts[byte][items[i].key >> 8 * byte & 0xff]++;

    /* From the most significant byte down to `last`, enough to tell most codes apart, were they random. */
    bool differs[8];
    int last = 8;
    for (uint64_t apart = 1; last > 0 && apart < 4 * count;) {
        uint64_t values = 0;
        last--;
        for (int value = 0; value < 256; value++) values += s->counts[last][value] != 0;
        differs[last] = values > 1;
        apart *= values;
    }

    fc_sort_item *from = items, *to = s->spare;
    for (int byte = last; byte < 8; byte++) {
        if (!differs[byte]) continue;
        uint32_t *place = s->counts[byte], total = 0;
        for (int value = 0; value < 256; value++) {
            uint32_t here = place[value];
            place[value] = total;
            total += here;
        }
        for (size_t i = 0; i < count; i++) to[place[from[i].key >> 8 * byte & 0xff]++] = from[i];
        fc_sort_item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items) memcpy(items, from, count * sizeof *items);

    for (size_t begin = 0, end; begin < count; begin = end) {
        uint64_t prefix = items[begin].key >> 8 * last;
        for (end = begin + 1; end < count && items[end].key >> 8 * last == prefix; end++) {}
        if (end - begin == 1) continue;
        if (end - begin <= FC_SORT_BY_INSERTION) fc_sort_by_insertion(items + begin, end - begin, depth);
        else if (last > 0) fc_sort_by_keys(s, items + begin, end - begin, depth);
        /* All 8 bytes agree. If the last is past the end of one code, it is past the end of each: they are equal. */
        else if ((prefix & 0xff) != 0) fc_sort_from(s, items + begin, end - begin, depth + 8);
    }
}

#endif
