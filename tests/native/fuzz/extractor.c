/* Fuzzes the extractor (LLVM's libFuzzer): a file is read twice, and both readings must come to the same.
 *
 *   once byte by byte, as one chunk, codes in the file's order;
 *   once as the input's first bytes say: by one of the instruction sets, in chunks of some length, sorted or not, in runs
 *   of some length, and perhaps broken off at a place where another extractor goes on.
 *
 * Each chunk is a block of memory of its own that ends where the chunk ends, so that AddressSanitizer sees whoever reads
 * past it.
 */
#include <stdio.h>

#include "_fastcsv_core.h"

static const size_t ROOM[] = {1, 2, 3, 8, 100, 1000, 100000};
static const size_t LONGEST[] = {1, 2, 8, 16, 31, 32, 33, 64, 256};
static const uint64_t ROWS[] = {1, 2, 16, 100, 1000, 1 << 22};
static const size_t CHUNKS[] = {1, 2, 3, 17, 63, 64, 65, 128, 1000, 4096, (size_t)1 << 30};

#define PICK(from, byte) ((from)[(byte) % (sizeof(from) / sizeof *(from))])
#define HEAD 8

typedef struct {
    uint8_t *codes; /* each after its length */
    size_t len, size, count, repeats;
    fc_sample *rejects;
    size_t rejected;
    fc_failure failure;
    fc_sample failed;
} reading;

static void check(bool holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s\n", what);
        abort();
    }
}

static void keep_code(reading *r, const uint8_t *at) {
    size_t len = FC_LENGTH_BYTES + fc_arena_length(at);
    if (r->len + len > r->size) r->codes = realloc(r->codes, r->size = 2 * (r->size + len));
    memcpy(r->codes + r->len, at, len);
    r->len += len;
    r->count++;
}

static int compare_codes(const uint8_t *a, const uint8_t *b) {
    size_t a_len = fc_arena_length(a), b_len = fc_arena_length(b);
    int order = memcmp(a + FC_LENGTH_BYTES, b + FC_LENGTH_BYTES, a_len < b_len ? a_len : b_len);
    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_places(const void *a, const void *b) {
    return compare_codes(*(const uint8_t *const *)a, *(const uint8_t *const *)b);
}

/* Writes the documents of a run, and reads their codes from them. */
static void check_documents(const fc_extractor *x, const fc_run *run, size_t count) {
    const fc_template *t = &x->bson;
    size_t total = 0;
    const uint8_t *at = run->arena;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = x->options.sort ? run->order[i] : at;
        total += t->document_fixed + fc_arena_length(code);
        at += FC_LENGTH_BYTES + fc_arena_length(at);
    }
    uint8_t *out = malloc(total + FC_OVERRUN), *document = out;
    x->instructions->write(t, run->arena, x->options.sort ? run->order : NULL, count, out);
    at = run->arena;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = x->options.sort ? run->order[i] : at;
        size_t len = fc_arena_length(code);
        check(fc_get_u32(document) == t->document_fixed + len, "a document has the length that it says");
        check(memcmp(document + t->head_len, code + FC_LENGTH_BYTES, len) == 0, "a document holds its code");
        check(memcmp(document + t->head_len + len, t->tail, t->tail_len) == 0, "a document ends as all do");
        document += t->document_fixed + len;
        at += FC_LENGTH_BYTES + fc_arena_length(at);
    }
    check(document == out + total, "documents take as much room as was said");
    free(out);
}

static void take_run(fc_extractor *x, fc_run *spare, reading *r) {
    check(fc_take_run(x, spare), "there is memory");
    size_t count = x->options.sort ? spare->distinct : spare->codes;
    check(spare->codes <= x->options.max_run_codes, "a run is not too long");
    const uint8_t *at = spare->arena;
    for (size_t i = 0; i < spare->codes; i++) {
        keep_code(r, at);
        at += FC_LENGTH_BYTES + fc_arena_length(at);
    }
    if (x->options.sort) {
        for (size_t i = 1; i < count; i++)
            check(compare_codes(spare->order[i - 1], spare->order[i]) < 0, "a run is sorted, without repeats");
        /* Every code of the arena is there. */
        const uint8_t **places = malloc((spare->codes + 1) * sizeof *places);
        at = spare->arena;
        for (size_t i = 0; i < spare->codes; i++) {
            places[i] = at;
            at += FC_LENGTH_BYTES + fc_arena_length(at);
        }
        qsort(places, spare->codes, sizeof *places, compare_places);
        size_t distinct = 0;
        for (size_t i = 0; i < spare->codes; i++) {
            if (i > 0 && compare_codes(places[i - 1], places[i]) == 0) continue;
            check(distinct < count, "none is missing");
            check(compare_codes(places[i], spare->order[distinct++]) == 0, "none is another");
        }
        check(distinct == count, "none is too many");
        free(places);
    }
    check_documents(x, spare, count);
}

static void feed(fc_extractor *x, fc_run *spare, reading *r, const uint8_t *data, size_t len) {
    uint8_t *chunk = malloc(len ? len : 1);
    memcpy(chunk, data, len);
    const uint8_t *at = chunk;
    fc_status status;
    while ((status = fc_feed(x, &at, chunk + len)) == FC_RUN_FULL) take_run(x, spare, r);
    check(status == FC_DONE, "there is memory");
    check(at == chunk + len || x->failure != FC_NO_FAILURE, "all of a chunk is taken");
    free(chunk);
}

static void finish(fc_extractor *x, fc_run *spare, reading *r) {
    fc_status status;
    while ((status = fc_finish(x)) == FC_RUN_FULL) take_run(x, spare, r);
    check(status == FC_DONE, "there is memory");
}

static void close_extractor(fc_extractor *x, fc_run *spare, reading *r) {
    if (x->run.codes) take_run(x, spare, r);
    r->rejects = realloc(r->rejects, (r->rejected + x->rejected + 1) * sizeof *r->rejects);
    if (x->rejected) memcpy(r->rejects + r->rejected, x->rejects, x->rejected * sizeof *x->rejects);
    r->rejected += x->rejected;
    check(!x->rejects_lost && x->invalid_count == x->rejected, "every invalid row is told");
    r->failure = x->failure;
    r->failed = x->failed;
    fc_run_free(spare);
    fc_free(x);
}

static void begin(fc_extractor *x, const fc_options *options, const fc_instruction_set *set, const fc_point *point) {
    check(fc_init(x, options, set, (const uint8_t *)"c-1", 3, (const uint8_t *)"tm", 2, 1234567890123, point),
          "there is memory");
}

static reading read_whole(const fc_options *options, const uint8_t *data, size_t len) {
    reading r = {0};
    fc_extractor x;
    fc_run spare = {0};
    fc_options plain = *options;
    plain.sort = false;
    begin(&x, &plain, &fc_instruction_sets[FC_INSTRUCTION_SETS - 1], NULL);
    feed(&x, &spare, &r, data, len);
    finish(&x, &spare, &r);
    close_extractor(&x, &spare, &r);
    return r;
}

/* `breaks`: after so many chunks another extractor goes on, if it can. */
static reading read_in_chunks(const fc_options *options, const fc_instruction_set *set, size_t chunk, size_t breaks,
                              const uint8_t *data, size_t len) {
    reading r = {0};
    fc_extractor x;
    fc_run spare = {0};
    begin(&x, options, set, NULL);
    for (size_t at = 0; at < len;) {
        size_t size = len - at < chunk ? len - at : chunk;
        feed(&x, &spare, &r, data + at, size);
        at += size;
        fc_point point;
        if (breaks && --breaks == 0 && fc_point_of(&x, &point)) {
            check(point.offset <= at, "a point is not ahead of what was read");
            close_extractor(&x, &spare, &r);
            begin(&x, options, set, &point);
            at = point.offset;
        }
    }
    finish(&x, &spare, &r);
    close_extractor(&x, &spare, &r);
    return r;
}

static void release(reading *r) {
    free(r->codes);
    free(r->rejects);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size < HEAD) return 0;
    fc_options options = {
        .header = input[0] & 1,
        .strict = input[0] & 2,
        .sort = input[0] & 4,
        .all_rejects = true,
        .max_run_codes = PICK(ROOM, input[1]),
        .max_run_bytes = 1 << 20,
        .run_bytes_per_code = 8,
        .max_code_bytes = PICK(LONGEST, input[2]),
        .max_samples = 3,
        .max_row_bytes = PICK(ROWS, input[3]),
    };
    const fc_instruction_set *set = &fc_instruction_sets[input[4] % FC_INSTRUCTION_SETS];
    if (!set->available()) return 0;
    reading expected = read_whole(&options, input + HEAD, size - HEAD);
    reading found = read_in_chunks(&options, set, PICK(CHUNKS, input[5]), input[6], input + HEAD, size - HEAD);
    check(found.count == expected.count && found.len == expected.len, "as many codes");
    check(expected.len == 0 || memcmp(found.codes, expected.codes, expected.len) == 0, "the same codes");
    check(found.rejected == expected.rejected, "as many invalid rows");
    for (size_t i = 0; i < expected.rejected; i++)
        check(found.rejects[i].line == expected.rejects[i].line && found.rejects[i].fault == expected.rejects[i].fault,
              "the same invalid rows");
    check(found.failure == expected.failure, "the same failure");
    if (expected.failure != FC_NO_FAILURE)
        check(found.failed.line == expected.failed.line && found.failed.fault == expected.failed.fault, "in the same row");
    release(&expected);
    release(&found);
    return 0;
}
