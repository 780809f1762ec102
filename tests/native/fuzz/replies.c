/* Fuzzes what reads MongoDB's replies (LLVM's libFuzzer): whatever bytes come, nothing outside of them is read, and what
 * is told of them adds up. The first byte says which of the two readers gets the rest. */
#include <stdio.h>

#include "_fastcsv_core.h"

#define CODES 4

static void check(bool holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s\n", what);
        abort();
    }
}

static void read_write_reply(const uint8_t *bytes, size_t len) {
    fc_reply reply;
    fc_reply_status status = fc_read_reply(bytes, len, &reply);
    check(status != FC_REPLY_NO_MEMORY, "there is memory");
    if (status == FC_REPLY_OK) {
        check(reply.upserted >= 0 && reply.other_errors >= 0, "nothing is counted below zero");
        check(reply.duplicate_count * 5 <= len, "no more duplicates than there is room for in the reply");
    }
    fc_reply_free(&reply);
}

static void read_found(const uint8_t *bytes, size_t len) {
    static const char *texts[CODES] = {"A", "AB", "B", "\xc3\xbc"};
    uint8_t arena[CODES][FC_LENGTH_BYTES + 8];
    const uint8_t *codes[CODES];
    uint8_t marks[CODES + 2] = {0};
    for (int i = 0; i < CODES; i++) {
        uint32_t length = (uint32_t)strlen(texts[i]);
        memcpy(arena[i], &length, FC_LENGTH_BYTES);
        memcpy(arena[i] + FC_LENGTH_BYTES, texts[i], length);
        codes[i] = arena[i];
    }
    fc_template t;
    check(fc_template_init(&t, (const uint8_t *)"c", 1, (const uint8_t *)"tm", 2, 0), "there is memory");
    size_t at = 1, documents;
    int64_t cursor;
    if (fc_mark_seen(&t, bytes, len, codes, &at, CODES - 1, marks + 1, &documents, &cursor) == FC_REPLY_OK)
        check(documents * 5 <= len, "no more documents than there is room for in the reply");
    check(at >= 1 && at <= CODES - 1, "no code beyond the last is looked at");
    check(!marks[0] && !marks[1] && !marks[CODES] && !marks[CODES + 1], "no code is marked that was not asked for");
    for (int i = 0; i < CODES; i++) check(marks[i + 1] <= FC_SEEN_OTHER_TYPE, "a mark is one of three");
    fc_template_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size == 0) return 0;
    uint8_t *bytes = malloc(size);
    memcpy(bytes, input + 1, size - 1);
    bytes = realloc(bytes, size - 1 ? size - 1 : 1);
    (input[0] & 1 ? read_write_reply : read_found)(bytes, size - 1);
    free(bytes);
    return 0;
}
