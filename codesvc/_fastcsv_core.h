/* Push parser: the first column of each CSV record, checked, written as BSON documents. Plain C: no Python, no I/O.
 *
 * A state machine that takes one byte at a time and can stop and go on at any of them, so that a record may lie in any
 * number of chunks. It keeps no record: of the first column at most max_code_bytes are held, of the others nothing.
 *
 *   fc_extractor x;
 *   fc_init(&x, ...);
 *   fc_set_output(&x, buffer, size);
 *   while (chunks) while (fc_feed(&x, &at, end) == FC_BATCH_FULL) hand out x.out_len bytes, fc_set_output(...)
 *   while (fc_finish(&x) == FC_BATCH_FULL) the same
 *   hand out the rest; fc_free(&x)
 *
 * Rules: RFC 4180, and where it is silent those of Python's csv module with strict=False. What is wrong with a row is
 * told once, in this order: text after a closing quote, a quote open at the end of the file (any column; both come before
 * a blank first column is passed over), too long, control character, not UTF-8.
 */
#ifndef CODESVC_FASTCSV_CORE_H
#define CODESVC_FASTCSV_CORE_H

#include "_fastcsv_bson.h"

typedef enum {
    FC_FINE,
    FC_TEXT_AFTER_QUOTE,
    FC_OPEN_QUOTE,
    FC_TOO_LONG,
    FC_CONTROL_CHARACTER,
    FC_NOT_UTF8,
    FC_RECORD_TOO_LONG,
} fc_fault;

typedef enum {
    FC_DONE,       /* all input taken (or parsing has failed: see `failure`) */
    FC_BATCH_FULL, /* hand out the batch, set a new output, call again */
    FC_MORE_ROOM,  /* the output is too small for the batch: enlarge it, call again */
} fc_status;

typedef enum { FC_NO_FAILURE, FC_INVALID_ROW, FC_NOT_CSV } fc_failure;

typedef enum { FC_FIELD_START, FC_UNQUOTED, FC_QUOTED, FC_QUOTE_IN_QUOTED } fc_state;

typedef struct {
    uint64_t line;
    fc_fault fault;
} fc_sample;

typedef struct {
    bool header, strict;
    size_t max_batch_codes, max_batch_bytes, max_code_bytes, max_samples;
    uint64_t max_row_bytes;
} fc_options;

typedef struct {
    fc_options options;
    fc_template bson;

    /* The batch. NOTE: `out` is the caller's. */
    uint8_t *out;
    size_t out_size, out_len;
    size_t batch_codes, batch_statement_bytes;

    /* The file. */
    uint64_t line; /* of the next byte; the first is 1 */
    uint8_t bom;   /* bytes of the byte order mark seen, FC_BOM_PAST when it can no longer come */
    bool after_cr; /* the last byte was a CR: a LF now belongs to it */
    bool skip_record;
    uint64_t codes, invalid_count;
    fc_sample *samples;
    fc_failure failure;
    fc_sample failed;

    /* The record. */
    fc_state state;
    bool first_column, first_quoted;
    fc_fault fault; /* of its quoting */
    uint64_t record_line, record_bytes;
    uint8_t *code;       /* the first max_code_bytes bytes of the first column, unescaped, without leading blanks */
    size_t code_len;     /* of all of them, held or not */
    size_t code_trimmed; /* to the end of the last one that is no blank */
} fc_extractor;

#define FC_BOM_PAST 4

static fc_status fc_take(fc_extractor *x, const uint8_t **at, const uint8_t *end);
static fc_status fc_end_record(fc_extractor *x, bool end_of_file);
static fc_fault fc_check_code(const uint8_t *code, size_t len);

static inline void fc_start_record(fc_extractor *x) {
    x->state = FC_FIELD_START;
    x->first_column = true;
    x->first_quoted = false;
    x->fault = FC_FINE;
    x->record_line = x->line;
    x->record_bytes = 0;
    x->code_len = x->code_trimmed = 0;
}

/* False when there is no memory. `fc_free` in either case. */
static bool fc_init(fc_extractor *x, const fc_options *options, const uint8_t *campaign, size_t campaign_len,
                    const uint8_t *type, size_t type_len, int64_t saved_ms) {
    memset(x, 0, sizeof *x);
    x->options = *options;
    x->line = 1;
    x->skip_record = options->header;
    fc_start_record(x);
    x->code = malloc(options->max_code_bytes);
    x->samples = malloc((options->max_samples + 1) * sizeof *x->samples);
    return fc_template_init(&x->bson, campaign, campaign_len, type, type_len, saved_ms) && x->code && x->samples;
}

static void fc_free(fc_extractor *x) {
    fc_template_free(&x->bson);
    free(x->code);
    free(x->samples);
    memset(x, 0, sizeof *x);
}

/* An empty output for the next batch. */
static inline void fc_set_output(fc_extractor *x, uint8_t *out, size_t size) {
    x->out = out;
    x->out_size = size;
    x->out_len = x->batch_codes = x->batch_statement_bytes = 0;
}

/* Takes bytes from *at on, and moves it to the first one not taken. */
static fc_status fc_feed(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    static const uint8_t mark[3] = {0xef, 0xbb, 0xbf};
    while (x->bom != FC_BOM_PAST) {
        if (x->bom == 3) {
            x->bom = FC_BOM_PAST;
        } else if (*at == end) {
            return FC_DONE;
        } else if (**at == mark[x->bom]) {
            x->bom++;
            ++*at;
        } else {
            /* Not a mark after all: what looked like one is the file's first bytes. No batch can fill up on two. */
            const uint8_t *begin = mark, *seen = mark + x->bom;
            x->bom = FC_BOM_PAST;
            fc_take(x, &begin, seen);
        }
    }
    return fc_take(x, at, end);
}

/* The end of the file: what stands in the last line, if it has no newline. Nothing after a failure. */
static fc_status fc_finish(fc_extractor *x) {
    if (x->bom == 1 || x->bom == 2) {
        static const uint8_t mark[2] = {0xef, 0xbb};
        const uint8_t *begin = mark, *seen = mark + x->bom;
        x->bom = FC_BOM_PAST;
        fc_take(x, &begin, seen);
    }
    if (x->failure != FC_NO_FAILURE || x->record_bytes == 0) return FC_DONE;
    if (x->state == FC_QUOTED && x->fault == FC_FINE) x->fault = FC_OPEN_QUOTE;
    return fc_end_record(x, true);
}

static inline void fc_fail(fc_extractor *x, fc_failure failure, fc_fault fault) {
    x->failure = failure;
    x->failed.line = x->record_line;
    x->failed.fault = fault;
}

static inline void fc_add_to_code(fc_extractor *x, uint8_t c) {
    bool blank = c == ' ' || c == '\t';
    if (blank && x->code_len == 0 && !x->first_quoted) return;
    if (x->code_len < x->options.max_code_bytes) x->code[x->code_len] = c;
    x->code_len++;
    if (!blank) x->code_trimmed = x->code_len;
}

static fc_status fc_take(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    const uint8_t *p = *at;
    fc_status status = FC_DONE;
    while (p < end && x->failure == FC_NO_FAILURE) {
        uint8_t c = *p;
        bool ends_line = (c == '\n' && !x->after_cr) || c == '\r';
        if ((c == '\n' || c == '\r') && x->state != FC_QUOTED) {
            if (c == '\n' && x->after_cr) { /* the CR has ended the record */
                x->after_cr = false;
                p++;
                continue;
            }
            status = fc_end_record(x, false);
            /* NOTE: with FC_MORE_ROOM, and with FC_BATCH_FULL for a code that did not fit, nothing has changed, and this
             * same byte comes again. */
            if (status != FC_DONE) break;
            if (x->failure != FC_NO_FAILURE) break;
            x->line++;
            x->after_cr = c == '\r';
            p++;
            fc_start_record(x);
            if (x->batch_codes == x->options.max_batch_codes) {
                status = FC_BATCH_FULL;
                break;
            }
            continue;
        }
        if (x->record_bytes == x->options.max_row_bytes) {
            fc_fail(x, FC_NOT_CSV, FC_RECORD_TOO_LONG);
            break;
        }
        x->record_bytes++;
        x->line += ends_line;
        x->after_cr = c == '\r';
        p++;
        switch (x->state) {
            case FC_FIELD_START:
                if (c == '"') {
                    x->state = FC_QUOTED;
                    if (x->first_column) x->first_quoted = true;
                    break;
                }
                x->state = FC_UNQUOTED;
                /* fall through */
            case FC_UNQUOTED:
                if (c == ',') {
                    x->state = FC_FIELD_START;
                    x->first_column = false;
                } else if (x->first_column) {
                    fc_add_to_code(x, c);
                }
                break;
            case FC_QUOTED:
                if (c == '"') {
                    x->state = FC_QUOTE_IN_QUOTED;
                } else if (x->first_column) {
                    fc_add_to_code(x, c);
                }
                break;
            case FC_QUOTE_IN_QUOTED:
                if (c == ',') {
                    x->state = FC_FIELD_START;
                    x->first_column = false;
                } else if (c == '"') {
                    x->state = FC_QUOTED;
                    if (x->first_column) fc_add_to_code(x, c);
                } else {
                    x->state = FC_UNQUOTED;
                    if (x->fault == FC_FINE) x->fault = FC_TEXT_AFTER_QUOTE;
                }
                break;
        }
    }
    *at = p;
    return status;
}

/* Decides on the record that ends here. FC_DONE, or nothing has changed and the call must be repeated with more room. */
static fc_status fc_end_record(fc_extractor *x, bool end_of_file) {
    if (x->skip_record) {
        x->skip_record = false;
        if (end_of_file) fc_start_record(x);
        return FC_DONE;
    }
    fc_fault fault = x->fault;
    size_t len = x->first_quoted ? x->code_len : x->code_trimmed;
    if (fault == FC_FINE) {
        if (x->code_trimmed == 0) len = 0; /* blank: passed over */
        else if (len > x->options.max_code_bytes) fault = FC_TOO_LONG;
        else fault = fc_check_code(x->code, len);
    }
    if (fault != FC_FINE) {
        if (x->invalid_count < x->options.max_samples) {
            x->samples[x->invalid_count].line = x->record_line;
            x->samples[x->invalid_count].fault = fault;
        }
        x->invalid_count++;
        if (x->options.strict) fc_fail(x, FC_INVALID_ROW, fault);
    } else if (len > 0) {
        if (x->batch_statement_bytes + x->bson.statement_fixed + len > x->options.max_batch_bytes) return FC_BATCH_FULL;
        if (x->out_len + x->bson.document_fixed + len > x->out_size) return FC_MORE_ROOM;
        fc_put_document(&x->bson, x->out + x->out_len, x->code, len);
        x->out_len += x->bson.document_fixed + len;
        x->batch_statement_bytes += x->bson.statement_fixed + len;
        x->batch_codes++;
        x->codes++;
    }
    if (end_of_file) fc_start_record(x);
    return FC_DONE;
}

/* Control characters before UTF-8, wherever in the code they stand. */
static fc_fault fc_check_code(const uint8_t *code, size_t len) {
    bool ascii = true;
    for (size_t i = 0; i < len; i++) {
        if (code[i] < 0x20 || code[i] == 0x7f) return FC_CONTROL_CHARACTER;
        ascii &= code[i] < 0x80;
    }
    if (ascii) return FC_FINE;
    /* Well-formed byte sequences: The Unicode Standard, table 3-7. */
    for (size_t i = 0; i < len;) {
        uint8_t c = code[i++], low = 0x80, high = 0xbf;
        int more;
        if (c < 0x80) continue;
        else if (c >= 0xc2 && c <= 0xdf) more = 1;
        else if (c >= 0xe0 && c <= 0xef) {
            more = 2;
            if (c == 0xe0) low = 0xa0;
            if (c == 0xed) high = 0x9f;
        } else if (c >= 0xf0 && c <= 0xf4) {
            more = 3;
            if (c == 0xf0) low = 0x90;
            if (c == 0xf4) high = 0x8f;
        } else return FC_NOT_UTF8;
        for (; more > 0; more--, i++, low = 0x80, high = 0xbf)
            if (i == len || code[i] < low || code[i] > high) return FC_NOT_UTF8;
    }
    return FC_FINE;
}

#endif
