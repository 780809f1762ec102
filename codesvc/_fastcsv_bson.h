/* BSON as the extractor writes it and as it reads a write command's reply. Plain C: no Python, no I/O.
 *
 * The wire layout (https://bsonspec.org/spec.html; all integers little-endian). [n] marks an int32 length;
 * of a document's, only [total], [id] and [code] depend on the code, and everything else is the same for every code of
 * a file: one template is copied and the three are patched.
 *
 * document                                      statement (an element of the `update` command's `updates`)
 * ┌ [total]                                     ┌ [total]
 * │ 03 "_id\0"                                  │ 03 "q\0"
 * │ ┌ [id]                                      │ ┌ [q]
 * │ │ 02 "campaign_id\0" [n] campaign 00        │ │ 03 "_id\0" <the document's _id, [id] included>
 * │ │ 02 "code\0" [code]     ← head ends     │ └ 00                          ← tail begins
 * │ │             code                          │ 03 "u\0"
 * │ │             00         ← tail begins   │ ┌ [n]
 * │ └ 00                                        │ │ 03 "$set\0"
 * │ 02 "type\0" [n] type 00                     │ │ ┌ [n] 02 "type\0" [n] type 00
 * │ 03 "date\0"                                 │ │ └ 00
 * │ ┌ [n] 09 "saved\0" int64 (ms since epoch)   │ │ 03 "$setOnInsert\0"
 * │ └ 00                                        │ │ ┌ [n] 03 "date\0" <the document's date>
 * └ 00                                          │ │ └ 00
 *                                               │ └ 00
 *                                               │ 08 "upsert\0" 01
 *                                               └ 00
 */
#ifndef CODESVC_FASTCSV_BSON_H
#define CODESVC_FASTCSV_BSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    FC_BSON_DOUBLE = 0x01,
    FC_BSON_STRING = 0x02,
    FC_BSON_DOCUMENT = 0x03,
    FC_BSON_ARRAY = 0x04,
    FC_BSON_BOOL = 0x08,
    FC_BSON_DATE = 0x09,
    FC_BSON_INT32 = 0x10,
    FC_BSON_INT64 = 0x12,
};

/* Where [id] stands in a document: after [total] 03 "_id\0". */
#define FC_ID_AT 9

/* Runs of bytes are copied in whole blocks: so many bytes past a run's end may be read, or written with anything. */
#define FC_OVERRUN 64

#define FC_HEADS 64

/* Codes are kept with their lengths before them, in the processor's byte order. */
#define FC_LENGTH_BYTES 4

static inline uint32_t fc_arena_length(const uint8_t *at) {
    uint32_t len;
    memcpy(&len, at, FC_LENGTH_BYTES);
    return len;
}

typedef struct {
    uint8_t *bytes;       /* NOTE: the one allocation; the other pointers lead into it. */
    uint8_t *heads;       /* `head` with its three lengths set, for codes of 0 to FC_HEADS bytes, head_stride apart */
    uint8_t *head;        /* from [total] to before the code */
    uint8_t *tail;        /* from the code's NUL to the document's end */
    uint8_t *update_tail; /* from the end of `q` to the statement's end */
    size_t head_len, tail_len, update_tail_len, head_stride;
    size_t code_len_at;     /* offset of [code] within the document */
    size_t id_fixed;        /* bytes of `_id`, less the code */
    size_t document_fixed;  /* bytes of a document, less the code */
    size_t statement_fixed; /* bytes of a statement, less the code */
    const uint8_t *type;    /* within `tail`: [n] type 00 */
    size_t type_len;        /* of all three */
} fc_template;

static inline void fc_put_i32(uint8_t *at, size_t value) {
    uint32_t v = (uint32_t)value;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(at, &v, 4);
#else
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (8 * i));
#endif
}

static inline uint32_t fc_get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline int64_t fc_get_i64(const uint8_t *at) {
    return (int64_t)((uint64_t)fc_get_u32(at) | (uint64_t)fc_get_u32(at + 4) << 32);
}

static inline uint8_t *fc_put(uint8_t *at, const void *bytes, size_t len) {
    memcpy(at, bytes, len);
    return at + len;
}

#define FC_PUT_LITERAL(at, literal) fc_put((at), (literal), sizeof(literal) - 1)

static inline uint8_t *fc_put_string(uint8_t *at, const uint8_t *text, size_t len) {
    fc_put_i32(at, len + 1);
    at = fc_put(at + 4, text, len);
    *at = 0;
    return at + 1;
}

static inline uint8_t *fc_put_date(uint8_t *at, int64_t saved_ms) {
    fc_put_i32(at, 4 + 7 + 8 + 1);
    at = FC_PUT_LITERAL(at + 4, "\x09saved\0");
    for (int i = 0; i < 8; i++) *at++ = (uint8_t)((uint64_t)saved_ms >> (8 * i));
    *at++ = 0;
    return at;
}

static inline void fc_put_lengths(const fc_template *t, uint8_t *document, size_t code_len) {
    fc_put_i32(document, t->document_fixed + code_len);
    fc_put_i32(document + FC_ID_AT, t->id_fixed + code_len);
    fc_put_i32(document + t->code_len_at, code_len + 1);
}

/* False when there is no memory. `fc_template_free` in either case. */
static bool fc_template_init(fc_template *t, const uint8_t *campaign, size_t campaign_len, const uint8_t *type,
                             size_t type_len, int64_t saved_ms) {
    memset(t, 0, sizeof *t);
    t->head_stride = (campaign_len + 64 + 63) / 64 * 64;
    size_t heads_len = (FC_HEADS + 1) * t->head_stride;
    t->bytes = calloc(1, heads_len + campaign_len + 2 * type_len + 256 + FC_OVERRUN);
    if (t->bytes == NULL) return false;

    t->heads = t->bytes;
    uint8_t *at = t->head = t->bytes + heads_len;
    at = FC_PUT_LITERAL(at, "\0\0\0\0\x03_id\0\0\0\0\0\x02" "campaign_id\0");
    at = fc_put_string(at, campaign, campaign_len);
    at = FC_PUT_LITERAL(at, "\x02" "code\0");
    t->code_len_at = (size_t)(at - t->head);
    at = FC_PUT_LITERAL(at, "\0\0\0\0");
    t->head_len = (size_t)(at - t->head);

    t->tail = at;
    at = FC_PUT_LITERAL(at, "\0\0\x02type\0");
    t->type = at;
    at = fc_put_string(at, type, type_len);
    t->type_len = (size_t)(at - t->type);
    at = FC_PUT_LITERAL(at, "\x03" "date\0");
    at = fc_put_date(at, saved_ms);
    *at++ = 0;
    t->tail_len = (size_t)(at - t->tail);

    t->update_tail = at;
    at = FC_PUT_LITERAL(at, "\0\x03u\0");
    uint8_t *u = at;
    at = FC_PUT_LITERAL(at, "\0\0\0\0\x03$set\0");
    uint8_t *set = at;
    at = FC_PUT_LITERAL(at, "\0\0\0\0\x02type\0");
    at = fc_put_string(at, type, type_len);
    *at++ = 0;
    fc_put_i32(set, (size_t)(at - set));
    at = FC_PUT_LITERAL(at, "\x03$setOnInsert\0");
    uint8_t *on_insert = at;
    at = FC_PUT_LITERAL(at, "\0\0\0\0\x03" "date\0");
    at = fc_put_date(at, saved_ms);
    *at++ = 0;
    fc_put_i32(on_insert, (size_t)(at - on_insert));
    *at++ = 0;
    fc_put_i32(u, (size_t)(at - u));
    at = FC_PUT_LITERAL(at, "\x08upsert\0\x01\0");
    t->update_tail_len = (size_t)(at - t->update_tail);

    t->id_fixed = t->head_len - FC_ID_AT + 2;
    t->document_fixed = t->head_len + t->tail_len;
    t->statement_fixed = (4 + 3) + (4 + 5) + t->id_fixed + t->update_tail_len;
    for (size_t len = 0; len <= FC_HEADS; len++) {
        memcpy(t->heads + len * t->head_stride, t->head, t->head_len);
        fc_put_lengths(t, t->heads + len * t->head_stride, len);
    }
    return true;
}

static void fc_template_free(fc_template *t) {
    free(t->bytes);
    memset(t, 0, sizeof *t);
}

static inline uint8_t *fc_put_id(const fc_template *t, uint8_t *at, const uint8_t *code, size_t len) {
    uint8_t *id = at;
    at = fc_put(at, t->head + FC_ID_AT, t->head_len - FC_ID_AT);
    fc_put_i32(id, t->id_fixed + len);
    fc_put_i32(id + t->code_len_at - FC_ID_AT, len + 1);
    at = fc_put(at, code, len);
    return FC_PUT_LITERAL(at, "\0\0");
}

/* The statement that upserts a code. Writes t->statement_fixed bytes and the code's, returns their end. */
static inline uint8_t *fc_put_statement(const fc_template *t, uint8_t *at, const uint8_t *code, size_t len) {
    fc_put_i32(at, t->statement_fixed + len);
    at = FC_PUT_LITERAL(at + 4, "\x03q\0");
    fc_put_i32(at, 4 + 5 + t->id_fixed + len + 1);
    at = FC_PUT_LITERAL(at + 4, "\x03_id\0");
    at = fc_put_id(t, at, code, len);
    return fc_put(at, t->update_tail, t->update_tail_len);
}

/* ---- Filters ------------------------------------------------------------------------------------------------------
 *
 * within:  [total] 03 "_id\0" [n] 03 "$gte\0" <_id> 03 "$lte\0" <_id> 00 00
 * among:   [total] 03 "_id\0" [n] 04 "$in\0" [n] (03 "0\0" <_id>) (03 "1\0" <_id>) … 00 00 00
 */

#define FC_WITHIN_FIXED (4 + 5 + 4 + 6 + 6 + 2)
#define FC_AMONG_FIXED (4 + 5 + 4 + 5 + 4 + 3)

/* FC_WITHIN_FIXED bytes, and two _id. */
static void fc_put_within(const fc_template *t, uint8_t *at, const uint8_t *from, size_t from_len, const uint8_t *to,
                          size_t to_len) {
    size_t size = FC_WITHIN_FIXED + 2 * t->id_fixed + from_len + to_len;
    fc_put_i32(at, size);
    at = FC_PUT_LITERAL(at + 4, "\x03_id\0");
    fc_put_i32(at, size - 4 - 5 - 1);
    at = FC_PUT_LITERAL(at + 4, "\x03$gte\0");
    at = fc_put_id(t, at, from, from_len);
    at = FC_PUT_LITERAL(at, "\x03$lte\0");
    at = fc_put_id(t, at, to, to_len);
    FC_PUT_LITERAL(at, "\0\0");
}

static inline size_t fc_digits(size_t number) {
    size_t digits = 1;
    for (; number >= 10; number /= 10) digits++;
    return digits;
}

/* Of the filter `among`, everything before its first element; `size` is that of the whole. */
static uint8_t *fc_begin_among(uint8_t *at, size_t size) {
    fc_put_i32(at, size);
    at = FC_PUT_LITERAL(at + 4, "\x03_id\0");
    fc_put_i32(at, size - 4 - 5 - 1);
    at = FC_PUT_LITERAL(at + 4, "\x04$in\0");
    fc_put_i32(at, size - 4 - 5 - 4 - 5 - 2);
    return at + 4;
}

/* The next element: 2 bytes, the digits of its number, and an _id. */
static uint8_t *fc_put_among(const fc_template *t, uint8_t *at, size_t number, const uint8_t *code, size_t len) {
    size_t digits = fc_digits(number);
    *at++ = FC_BSON_DOCUMENT;
    for (size_t i = digits; i-- > 0; number /= 10) at[i] = (uint8_t)('0' + number % 10);
    at += digits;
    *at++ = 0;
    return fc_put_id(t, at, code, len);
}

/* ---- Replies ---------------------------------------------------------------------------------------------------- */

#define FC_DUPLICATE_KEY 11000

typedef struct {
    bool ok;
    int64_t n, n_modified, upserted, other_errors;
    int64_t *duplicates; /* NOTE: malloc'd here, freed by fc_reply_free */
    size_t duplicate_count, duplicate_room;
    int64_t first_other_index, first_other_code;
    bool has_write_concern_error;
    int64_t write_concern_error;
} fc_reply;

typedef enum { FC_REPLY_OK, FC_REPLY_INVALID, FC_REPLY_NO_MEMORY } fc_reply_status;

typedef struct {
    uint8_t type;
    const char *name;
    size_t name_len;
    const uint8_t *value, *value_end;
} fc_element;

/* A document's elements, one after another. `end` is the place of its closing NUL. */
typedef struct {
    const uint8_t *at, *end;
} fc_elements;

static bool fc_elements_of(fc_elements *e, const uint8_t *bytes, const uint8_t *limit) {
    if (limit - bytes < 5) return false;
    uint32_t len = fc_get_u32(bytes);
    if (len < 5 || len > (size_t)(limit - bytes) || bytes[len - 1] != 0) return false;
    e->at = bytes + 4;
    e->end = bytes + len - 1;
    return true;
}

/* Where a value of `type` that starts at `at` ends. False if that is past `end`, or there is no such type. */
static bool fc_value_end(uint8_t type, const uint8_t *at, const uint8_t *end, const uint8_t **value_end) {
    size_t room = (size_t)(end - at), len;
    switch (type) {
        case 0x06: case 0x0a: case 0x7f: case 0xff: len = 0; break; /* undefined, null, max key, min key */
        case 0x08: len = 1; break;
        case 0x10: len = 4; break;
        case 0x01: case 0x09: case 0x11: case 0x12: len = 8; break;
        case 0x07: len = 12; break; /* ObjectId */
        case 0x13: len = 16; break; /* Decimal128 */
        case 0x02: case 0x0c: case 0x0d: case 0x0e: /* string, DBPointer, code, symbol */
            if (room < 5) return false;
            len = fc_get_u32(at);
            if (len < 1 || len > room - 4 || at[4 + len - 1] != 0) return false;
            len += 4;
            if (type == 0x0c) len += 12;
            break;
        case 0x05: /* binary: length, subtype, bytes */
            if (room < 5 || fc_get_u32(at) > room - 5) return false;
            len = (size_t)fc_get_u32(at) + 5;
            break;
        case 0x0b: { /* regular expression: two C strings */
            const uint8_t *pattern_end = memchr(at, 0, room);
            if (pattern_end == NULL) return false;
            const uint8_t *options_end = memchr(pattern_end + 1, 0, (size_t)(end - pattern_end - 1));
            if (options_end == NULL) return false;
            len = (size_t)(options_end + 1 - at);
            break;
        }
        case 0x03: case 0x04: { /* document, array: only its edges; its elements are checked if they are read */
            fc_elements nested;
            if (!fc_elements_of(&nested, at, end)) return false;
            len = (size_t)(nested.end + 1 - at);
            break;
        }
        case 0x0f: /* code with scope: its length covers itself */
            if (room < 4) return false;
            len = fc_get_u32(at);
            if (len < 14) return false;
            break;
        default: return false;
    }
    if (len > room) return false;
    *value_end = at + len;
    return true;
}

/* 1: `out` holds the next element; 0: there are no more; -1: not BSON. */
static int fc_next_element(fc_elements *e, fc_element *out) {
    if (e->at == e->end) return 0;
    out->type = *e->at++;
    const uint8_t *name_end = memchr(e->at, 0, (size_t)(e->end - e->at));
    if (name_end == NULL) return -1;
    out->name = (const char *)e->at;
    out->name_len = (size_t)(name_end - e->at);
    out->value = name_end + 1;
    if (!fc_value_end(out->type, out->value, e->end, &out->value_end)) return -1;
    e->at = out->value_end;
    return 1;
}

static inline bool fc_named(const fc_element *e, const char *name) {
    return e->name_len == strlen(name) && memcmp(e->name, name, e->name_len) == 0;
}

static bool fc_integer(const fc_element *e, int64_t *out) {
    switch (e->type) {
        case FC_BSON_INT32: *out = (int32_t)fc_get_u32(e->value); return true;
        case FC_BSON_INT64: *out = fc_get_i64(e->value); return true;
        case FC_BSON_BOOL: *out = e->value[0] != 0; return true;
        case FC_BSON_DOUBLE: {
            int64_t bits = fc_get_i64(e->value);
            double value;
            memcpy(&value, &bits, 8);
            /* Beyond 2^53 a double no longer counts, and the conversion of NaN or a huge one is undefined in C. */
            if (!(value >= -9007199254740992.0 && value <= 9007199254740992.0)) return false;
            *out = (int64_t)value;
            return (double)*out == value;
        }
        default: return false;
    }
}

static fc_reply_status fc_read_write_errors(const fc_element *array, fc_reply *r) {
    fc_elements errors;
    fc_element error, field;
    int more;
    if (array->type != FC_BSON_ARRAY || !fc_elements_of(&errors, array->value, array->value_end))
        return FC_REPLY_INVALID;
    while ((more = fc_next_element(&errors, &error)) > 0) {
        fc_elements fields;
        int64_t index = -1, code = 0;
        bool has_code = false;
        if (error.type != FC_BSON_DOCUMENT || !fc_elements_of(&fields, error.value, error.value_end))
            return FC_REPLY_INVALID;
        while ((more = fc_next_element(&fields, &field)) > 0) {
            if (fc_named(&field, "index")) {
                if (!fc_integer(&field, &index)) return FC_REPLY_INVALID;
            } else if (fc_named(&field, "code")) {
                if (!fc_integer(&field, &code)) return FC_REPLY_INVALID;
                has_code = true;
            }
        }
        if (more < 0 || index < 0 || !has_code) return FC_REPLY_INVALID;
        if (code != FC_DUPLICATE_KEY) {
            if (r->other_errors++ == 0) {
                r->first_other_index = index;
                r->first_other_code = code;
            }
            continue;
        }
        if (r->duplicate_count == r->duplicate_room) {
            size_t room = r->duplicate_room ? 2 * r->duplicate_room : 64;
            int64_t *grown = realloc(r->duplicates, room * sizeof *grown);
            if (grown == NULL) return FC_REPLY_NO_MEMORY;
            r->duplicates = grown;
            r->duplicate_room = room;
        }
        r->duplicates[r->duplicate_count++] = index;
    }
    return more < 0 ? FC_REPLY_INVALID : FC_REPLY_OK;
}

/* Reads the reply to an `insert` or `update` command, and nothing outside bytes[0..len). `fc_reply_free` in any case. */
static fc_reply_status fc_read_reply(const uint8_t *bytes, size_t len, fc_reply *r) {
    fc_elements reply;
    fc_element e, nested;
    int more;
    memset(r, 0, sizeof *r);
    if (!fc_elements_of(&reply, bytes, bytes + len) || reply.end + 1 != bytes + len) return FC_REPLY_INVALID;
    while ((more = fc_next_element(&reply, &e)) > 0) {
        int64_t value = 0;
        if (fc_named(&e, "ok")) {
            if (!fc_integer(&e, &value)) return FC_REPLY_INVALID;
            r->ok = value == 1;
        } else if (fc_named(&e, "n")) {
            if (!fc_integer(&e, &r->n)) return FC_REPLY_INVALID;
        } else if (fc_named(&e, "nModified")) {
            if (!fc_integer(&e, &r->n_modified)) return FC_REPLY_INVALID;
        } else if (fc_named(&e, "upserted")) {
            fc_elements entries;
            if (e.type != FC_BSON_ARRAY || !fc_elements_of(&entries, e.value, e.value_end)) return FC_REPLY_INVALID;
            while ((more = fc_next_element(&entries, &nested)) > 0) r->upserted++;
            if (more < 0) return FC_REPLY_INVALID;
        } else if (fc_named(&e, "writeErrors")) {
            fc_reply_status status = fc_read_write_errors(&e, r);
            if (status != FC_REPLY_OK) return status;
        } else if (fc_named(&e, "writeConcernError")) {
            fc_elements fields;
            if (e.type != FC_BSON_DOCUMENT || !fc_elements_of(&fields, e.value, e.value_end)) return FC_REPLY_INVALID;
            r->has_write_concern_error = true;
            while ((more = fc_next_element(&fields, &nested)) > 0)
                if (fc_named(&nested, "code") && !fc_integer(&nested, &r->write_concern_error)) return FC_REPLY_INVALID;
            if (more < 0) return FC_REPLY_INVALID;
        }
    }
    return more < 0 ? FC_REPLY_INVALID : FC_REPLY_OK;
}

/* What a `find` for codes has shown of each: nothing, that it is there with our type, or with another. */
enum { FC_NOT_SEEN, FC_SEEN, FC_SEEN_OTHER_TYPE };

/* The code of an _id of our campaign; NULL if it is another's, or not as codesvc makes them. */
static const uint8_t *fc_code_of_id(const fc_template *t, const uint8_t *id, const uint8_t *id_end, size_t *len) {
    size_t head = t->head_len - FC_ID_AT, size = (size_t)(id_end - id); /* [id] to before the code */
    size_t fixed_text = head - 4 - 4;
    if (size < t->id_fixed || memcmp(id + 4, t->head + FC_ID_AT + 4, fixed_text) != 0) return NULL;
    *len = size - t->id_fixed;
    if (fc_get_u32(id + head - 4) != *len + 1) return NULL;
    return id + head;
}

static inline int fc_compare_codes(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order != 0 ? order : a_len < b_len ? -1 : a_len > b_len;
}

/* Goes through the documents of a `find`'s reply, {_id, type} with or without type and sorted by _id, and our own codes,
 * sorted too, side by side: codes[i] points to a code at its length. Sets `marks` of the codes from *at on, before
 * `stop`, that are among the documents; leaves *at behind the last code that is not after the last document, *documents
 * at how many those are, and *cursor_id at the reply's. */
static fc_reply_status fc_mark_seen(const fc_template *t, const uint8_t *bytes, size_t len, const uint8_t *const *codes,
                                    size_t *at, size_t stop, uint8_t *marks, size_t *documents,
                                    int64_t *cursor_id) {
    fc_elements reply, cursor, batch = {NULL, NULL}, fields;
    fc_element e, found, document, field;
    int more;
    *documents = 0;
    *cursor_id = 0;
    if (!fc_elements_of(&reply, bytes, bytes + len) || reply.end + 1 != bytes + len) return FC_REPLY_INVALID;
    do more = fc_next_element(&reply, &e);
    while (more > 0 && !fc_named(&e, "cursor"));
    if (more <= 0 || e.type != FC_BSON_DOCUMENT || !fc_elements_of(&cursor, e.value, e.value_end))
        return FC_REPLY_INVALID;
    while ((more = fc_next_element(&cursor, &found)) > 0) {
        if (fc_named(&found, "id")) {
            if (!fc_integer(&found, cursor_id)) return FC_REPLY_INVALID;
        } else if (fc_named(&found, "firstBatch")) {
            if (found.type != FC_BSON_ARRAY || !fc_elements_of(&batch, found.value, found.value_end))
                return FC_REPLY_INVALID;
        }
    }
    if (more < 0 || batch.at == NULL) return FC_REPLY_INVALID;
    while ((more = fc_next_element(&batch, &document)) > 0) {
        const uint8_t *code = NULL;
        size_t code_len = 0;
        uint8_t mark = FC_SEEN;
        if (document.type != FC_BSON_DOCUMENT || !fc_elements_of(&fields, document.value, document.value_end))
            return FC_REPLY_INVALID;
        while ((more = fc_next_element(&fields, &field)) > 0) {
            if (fc_named(&field, "_id") && field.type == FC_BSON_DOCUMENT) {
                code = fc_code_of_id(t, field.value, field.value_end, &code_len);
            } else if (fc_named(&field, "type")) {
                bool ours = field.type == FC_BSON_STRING && (size_t)(field.value_end - field.value) == t->type_len &&
                            memcmp(field.value, t->type, t->type_len) == 0;
                if (!ours) mark = FC_SEEN_OTHER_TYPE;
            }
        }
        if (more < 0) return FC_REPLY_INVALID;
        ++*documents;
        if (code == NULL) continue;
        for (; *at < stop; ++*at) {
            const uint8_t *own = codes[*at];
            int order = fc_compare_codes(own + FC_LENGTH_BYTES, fc_arena_length(own), code, code_len);
            if (order == 0) marks[*at] = mark;
            if (order > 0) break;
        }
    }
    return more < 0 ? FC_REPLY_INVALID : FC_REPLY_OK;
}

static void fc_reply_free(fc_reply *r) {
    free(r->duplicates);
    r->duplicates = NULL;
}

#endif
