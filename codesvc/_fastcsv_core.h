/* Push parser: the first column of each CSV record, checked, encoded as BSON documents. Plain C: no Python, no I/O.
 *
 *   fc_extractor x;
 *   fc_init(&x, ...);
 *   for each chunk: while (fc_feed(&x, &at, end) == FC_RUN_FULL) fc_take_run(&x, &run);
 *   while (fc_finish(&x) == FC_RUN_FULL) fc_take_run(&x, &run);
 *   if (x.run.codes) fc_take_run(&x, &run);
 *   fc_free(&x);
 *
 * Two parsers work hand in hand. The one below takes a byte at a time, can stop and go on at any of them, and knows
 * all the rules. The one of _fastcsv_scan.h takes 64 bytes at a time, and leaves to this one each record that does not
 * lie in the chunk from its first byte to its last, or whose quoting is out of order. Neither keeps a record: of the
 * first column at most max_code_bytes are held, of the others nothing.
 *
 * Accepted codes go to the arena of a run, [uint32 length] code, [uint32 length] code …, until it is full. It is handed
 * out in file order, or sorted and without repeats; batches are cut from it, and written as documents one by one.
 *
 * Rules: RFC 4180, and where it is silent those of Python's csv module with strict=False. What is wrong with a row is
 * told once, in this order: text after a closing quote, a quote open at the end of the file (any column, and both even
 * if the first is blank), too long, control character, not UTF-8.
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

/* After FC_RUN_FULL and FC_NO_MEMORY the same call goes on where it stopped. */
typedef enum { FC_DONE, FC_RUN_FULL, FC_NO_MEMORY } fc_status;

typedef enum { FC_NO_FAILURE, FC_INVALID_ROW, FC_NOT_CSV } fc_failure;

typedef enum { FC_FIELD_START, FC_UNQUOTED, FC_QUOTED, FC_QUOTE_IN_QUOTED } fc_state;

typedef struct {
    uint64_t line;
    fc_fault fault;
} fc_sample;

/* A place between two records, at which another extractor can go on. */
typedef struct {
    uint64_t offset, line; /* of the next record */
    bool after_cr;         /* a LF there belongs to the CR before it */
} fc_point;

typedef struct {
    bool header, strict, sort, all_rejects;
    /* A run ends when it holds so many codes, or before it would exceed so many bytes, of which each code takes its
     * length in the arena and run_bytes_per_code. */
    size_t max_run_codes, max_run_bytes, run_bytes_per_code;
    size_t max_code_bytes, max_samples;
    uint64_t max_row_bytes;
} fc_options;

#define FC_ARENA_START 65536

/* Codes that belong together: in file order one after another in the arena, or sorted and without repeats where
 * `order` points. */
typedef struct {
    uint8_t *arena;
    size_t size, len;
    size_t codes;          /* in the arena */
    const uint8_t **order; /* each at its length */
    size_t order_size, distinct;
} fc_run;

/* Room for `len` bytes more, and FC_OVERRUN behind them. False when there is no memory. */
static bool fc_run_reserve(fc_run *run, size_t len) {
    size_t needed = run->len + len + FC_OVERRUN, size = run->size ? run->size : FC_ARENA_START;
    if (needed <= run->size) return true;
    while (size < needed) size *= 2;
    uint8_t *grown = realloc(run->arena, size);
    if (grown == NULL) return false;
    run->arena = grown;
    run->size = size;
    return true;
}

static void fc_run_free(fc_run *run) {
    free(run->arena);
    free(run->order);
    memset(run, 0, sizeof *run);
}

#include "_fastcsv_sort.h"

typedef struct fc_extractor fc_extractor;

/* What is compiled once for each instruction set. */
typedef struct {
    const char *name;
    bool (*available)(void);
    /* Takes whole records from *at on, which must be where one begins, and moves *at to the first that it leaves to the
     * other parser. NULL: leave all. */
    fc_status (*scan)(fc_extractor *x, const uint8_t **at, const uint8_t *end);
    /* Writes `count` documents, of the codes in `arena` or, if `order` is not NULL, of those that it points to. */
    void (*write)(const fc_template *t, const uint8_t *arena, const uint8_t *const *order, size_t count, uint8_t *out);
} fc_instruction_set;

struct fc_extractor {
    fc_options options;
    fc_template bson;
    const fc_instruction_set *instructions;

    fc_run run; /* that is being filled */
    fc_sorter sorter;

    /* The file. */
    uint64_t offset; /* of the next byte; up to date between two calls */
    uint64_t line;   /* of the next byte; the first is 1 */
    uint8_t bom;   /* bytes of the byte order mark seen, FC_BOM_PAST when it can no longer come */
    bool after_cr; /* the last byte was a CR: a LF now belongs to it */
    bool skip_record;
    uint64_t codes, invalid_count;
    fc_sample *samples;
    fc_sample *rejects; /* of late, in order, where all invalid rows are asked for */
    size_t rejected, rejects_size;
    bool rejects_lost; /* for want of memory */
    fc_failure failure;
    fc_sample failed;

    /* The record. */
    fc_state state;
    bool first_column, first_quoted;
    fc_fault fault; /* of its quoting */
    uint64_t record_line, record_bytes;
    uint64_t record_offset; /* of its first byte, once there is one */
    uint8_t *code;       /* the first max_code_bytes bytes of the first column, unescaped, without leading blanks */
    size_t code_len;     /* of all of them, held or not */
    size_t code_trimmed; /* to the end of the last one that is no blank */
    fc_fault field_fault; /* what fc_take_field has found */
};

#define FC_BOM_PAST 4

static fc_status fc_parse(fc_extractor *x, const uint8_t **at, const uint8_t *end);
static fc_status fc_take_record(fc_extractor *x, const uint8_t **at, const uint8_t *end);
static fc_status fc_end_record(fc_extractor *x);
static void fc_reject(fc_extractor *x, uint64_t line, fc_fault fault);
static fc_fault fc_check_code(const fc_extractor *x);

/* The length of the code in x->code; 0 if it is blank. */
static inline size_t fc_final_len(const fc_extractor *x) {
    return x->code_trimmed == 0 ? 0 : x->first_quoted ? x->code_len : x->code_trimmed;
}

static inline void fc_start_record(fc_extractor *x) {
    x->state = FC_FIELD_START;
    x->first_column = true;
    x->first_quoted = false;
    x->fault = FC_FINE;
    x->record_line = x->line;
    x->record_bytes = 0;
    x->code_len = x->code_trimmed = 0;
}

/* False when there is no memory. `fc_free` in either case. `point`: where to go on in a file; NULL for its start. */
static bool fc_init(fc_extractor *x, const fc_options *options, const fc_instruction_set *instructions,
                    const uint8_t *campaign, size_t campaign_len, const uint8_t *type, size_t type_len,
                    int64_t saved_ms, const fc_point *point) {
    memset(x, 0, sizeof *x);
    x->options = *options;
    x->instructions = instructions;
    x->line = 1;
    x->skip_record = options->header;
    if (point != NULL) {
        x->offset = point->offset;
        x->line = point->line;
        x->after_cr = point->after_cr;
        x->bom = FC_BOM_PAST;
        x->skip_record = false;
    }
    fc_start_record(x);
    x->code = malloc(options->max_code_bytes);
    x->samples = malloc((options->max_samples + 1) * sizeof *x->samples);
    bool encodes = fc_template_init(&x->bson, campaign, campaign_len, type, type_len, saved_ms);
    return encodes && x->code != NULL && x->samples != NULL && fc_run_reserve(&x->run, 0);
}

static void fc_free(fc_extractor *x) {
    fc_template_free(&x->bson);
    free(x->code);
    free(x->samples);
    free(x->rejects);
    fc_run_free(&x->run);
    fc_sorter_free(&x->sorter);
    memset(x, 0, sizeof *x);
}

/* Where the record starts that is not done yet: every code and invalid row before it has been taken, and no other.
 * False, and no point, before the first record that counts, and after a failure. */
static bool fc_point_of(const fc_extractor *x, fc_point *point) {
    if (x->bom != FC_BOM_PAST || x->skip_record || x->failure != FC_NO_FAILURE) return false;
    bool begun = x->record_bytes != 0;
    point->offset = begun ? x->record_offset : x->offset;
    point->line = begun ? x->record_line : x->line;
    point->after_cr = !begun && x->after_cr;
    return true;
}

/* ---- The run ---------------------------------------------------------------------------------------------------- */

static inline size_t fc_run_bytes(const fc_extractor *x) {
    return x->run.len + x->run.codes * x->options.run_bytes_per_code;
}

static fc_status fc_append(fc_extractor *x, const uint8_t *code, size_t len) {
    if (x->run.codes == x->options.max_run_codes) return FC_RUN_FULL;
    size_t added = FC_LENGTH_BYTES + len;
    if (fc_run_bytes(x) + added + x->options.run_bytes_per_code > x->options.max_run_bytes) return FC_RUN_FULL;
    if (!fc_run_reserve(&x->run, added)) return FC_NO_MEMORY;
    uint32_t prefix = (uint32_t)len;
    memcpy(x->run.arena + x->run.len, &prefix, FC_LENGTH_BYTES);
    memcpy(x->run.arena + x->run.len + FC_LENGTH_BYTES, code, len);
    x->run.len += added;
    x->run.codes++;
    x->codes++;
    return FC_DONE;
}

/* Hands out the run, sorted if it shall be, and goes on in the memory of the one that `run` holds. False, and nothing
 * done, when there is no memory. */
static bool fc_take_run(fc_extractor *x, fc_run *run) {
    if (!fc_run_reserve(run, 0) || (x->options.sort && !fc_sort(&x->sorter, &x->run))) return false;
    fc_run filled = x->run;
    x->run = *run;
    x->run.len = x->run.codes = x->run.distinct = 0;
    *run = filled;
    return true;
}

/* Goes on in the larger memory of `spare`, which gets one's own. */
static void fc_move_run(fc_extractor *x, fc_run *spare) {
    fc_run own = x->run;
    memcpy(spare->arena, own.arena, own.len);
    x->run = *spare;
    x->run.len = own.len;
    x->run.codes = own.codes;
    x->run.distinct = 0;
    *spare = own;
}

/* How many codes from run->order[start] on make a batch: at most `max_codes`, whose bytes and `fixed` for each are at
 * most `max_bytes`. Sets *code_bytes to the sum of their lengths. */
static size_t fc_cut(const fc_run *run, size_t start, size_t max_codes, size_t max_bytes, size_t fixed,
                     size_t *code_bytes) {
    size_t i = start, end = run->distinct - start < max_codes ? run->distinct : start + max_codes, sum = 0;
    for (; i < end; i++) {
        size_t len = fc_arena_length(run->order[i]);
        if (sum + len + (i - start + 1) * fixed > max_bytes) break;
        sum += len;
    }
    *code_bytes = sum;
    return i - start;
}

/* ---- The file --------------------------------------------------------------------------------------------------- */

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
            x->offset++;
            ++*at;
        } else {
            /* Not a mark after all: what looked like one is the file's first bytes. No record ends in them. */
            const uint8_t *begin = mark, *seen = mark + x->bom;
            x->offset -= x->bom;
            x->bom = FC_BOM_PAST;
            fc_take_record(x, &begin, seen);
        }
    }
    fc_status status = fc_parse(x, at, end);
    /* A run is handed out with its last code, not when the next one comes. */
    if (status == FC_DONE && x->run.codes == x->options.max_run_codes) return FC_RUN_FULL;
    return status;
}

/* The end of the file: what stands in the last line, if it has no newline. Nothing after a failure. */
static fc_status fc_finish(fc_extractor *x) {
    if (x->bom == 1 || x->bom == 2) {
        static const uint8_t mark[2] = {0xef, 0xbb};
        const uint8_t *begin = mark, *seen = mark + x->bom;
        x->offset -= x->bom;
        x->bom = FC_BOM_PAST;
        fc_take_record(x, &begin, seen);
    }
    if (x->failure != FC_NO_FAILURE || x->record_bytes == 0) return FC_DONE;
    if (x->state == FC_QUOTED && x->fault == FC_FINE) x->fault = FC_OPEN_QUOTE;
    fc_status status = fc_end_record(x);
    if (status == FC_DONE) fc_start_record(x);
    return status;
}

static fc_status fc_parse(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    bool scan = x->instructions->scan != NULL;
    while (*at < end && x->failure == FC_NO_FAILURE) {
        fc_status status;
        if (scan && x->record_bytes == 0 && !x->skip_record) {
            const uint8_t *begin = *at;
            if (x->after_cr && **at == '\n') ++*at;
            x->after_cr = false;
            status = x->instructions->scan(x, at, end);
            x->offset += (uint64_t)(*at - begin);
            if (status != FC_DONE) return status;
            fc_start_record(x);
            if (*at == end || x->failure != FC_NO_FAILURE) break;
        }
        status = fc_take_record(x, at, end);
        if (status != FC_DONE) return status;
    }
    return FC_DONE;
}

static inline void fc_fail(fc_extractor *x, fc_failure failure, uint64_t line, fc_fault fault) {
    x->failure = failure;
    x->failed.line = line;
    x->failed.fault = fault;
}

/* ---- Byte by byte ----------------------------------------------------------------------------------------------- */

static inline void fc_add_to_code(fc_extractor *x, uint8_t c) {
    bool blank = c == ' ' || c == '\t';
    if (blank && x->code_len == 0 && !x->first_quoted) return;
    if (x->code_len < x->options.max_code_bytes) x->code[x->code_len] = c;
    x->code_len++;
    if (!blank) x->code_trimmed = x->code_len;
}

/* The first byte from p on that may matter in a later column. */
static inline const uint8_t *fc_skip_content(fc_state state, const uint8_t *p, const uint8_t *end) {
    if (state == FC_UNQUOTED)
        while (p < end && *p != ',' && *p != '\n' && *p != '\r') p++;
    else if (state == FC_QUOTED)
        while (p < end && *p != '"' && *p != '\n' && *p != '\r') p++;
    return p;
}

/* Up to the end of the record, or of the bytes, or to a failure. */
static fc_status fc_take_record(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    const uint8_t *p = *at;
    fc_status status = FC_DONE;
    if (x->record_bytes == 0) x->record_offset = x->offset;
    while (p < end) {
        if (!x->first_column && !x->after_cr) {
            const uint8_t *content = p;
            uint64_t allowed = x->options.max_row_bytes - x->record_bytes;
            p = fc_skip_content(x->state, p, (uint64_t)(end - p) < allowed ? end : p + allowed);
            x->record_bytes += (uint64_t)(p - content);
            if (p == end) break;
        }
        uint8_t c = *p;
        bool ends_line = (c == '\n' && !x->after_cr) || c == '\r';
        if ((c == '\n' || c == '\r') && x->state != FC_QUOTED) {
            if (!ends_line) { /* the CR before it has ended the record */
                x->after_cr = false;
                p++;
                x->record_offset++;
                continue;
            }
            status = fc_end_record(x);
            /* NOTE: unless it is done, nothing has changed, and this same byte comes again. */
            if (status != FC_DONE || x->failure != FC_NO_FAILURE) break;
            x->line++;
            x->after_cr = c == '\r';
            p++;
            fc_start_record(x);
            break;
        }
        if (x->record_bytes == x->options.max_row_bytes) {
            fc_fail(x, FC_NOT_CSV, x->record_line, FC_RECORD_TOO_LONG);
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
    x->offset += (uint64_t)(p - *at);
    *at = p;
    return status;
}

static fc_status fc_end_record(fc_extractor *x) {
    if (x->skip_record) {
        x->skip_record = false;
        return FC_DONE;
    }
    fc_fault fault = x->fault != FC_FINE ? x->fault : fc_check_code(x);
    if (fault != FC_FINE) {
        fc_reject(x, x->record_line, fault);
        return FC_DONE;
    }
    return x->code_trimmed == 0 ? FC_DONE : fc_append(x, x->code, fc_final_len(x));
}

static void fc_keep_reject(fc_extractor *x, uint64_t line, fc_fault fault) {
    if (x->rejected == x->rejects_size) {
        size_t size = x->rejects_size ? 2 * x->rejects_size : 1024;
        fc_sample *grown = realloc(x->rejects, size * sizeof *grown);
        if (grown == NULL) {
            x->rejects_lost = true;
            return;
        }
        x->rejects = grown;
        x->rejects_size = size;
    }
    x->rejects[x->rejected].line = line;
    x->rejects[x->rejected].fault = fault;
    x->rejected++;
}

/* The longest line number, the comma and the line's end. */
#define FC_REJECT_FRAME 23

/* Writes "line,reason" CR LF for each; `out` has room for FC_REJECT_FRAME and the longest reason for each of them. */
static uint8_t *fc_write_rejects(const fc_sample *rejects, size_t count, const char *const *reasons, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        uint8_t digits[20];
        size_t length = 0, reason = strlen(reasons[rejects[i].fault]);
        uint64_t line = rejects[i].line;
        do digits[length++] = (uint8_t)('0' + line % 10);
        while ((line /= 10) != 0);
        while (length > 0) *out++ = digits[--length];
        *out++ = ',';
        memcpy(out, reasons[rejects[i].fault], reason);
        out += reason;
        *out++ = '\r';
        *out++ = '\n';
    }
    return out;
}

static void fc_reject(fc_extractor *x, uint64_t line, fc_fault fault) {
    if (x->invalid_count < x->options.max_samples) {
        x->samples[x->invalid_count].line = line;
        x->samples[x->invalid_count].fault = fault;
    }
    x->invalid_count++;
    if (x->options.all_rejects) fc_keep_reject(x, line, fault);
    if (x->options.strict) fc_fail(x, FC_INVALID_ROW, line, fault);
}

/* Control characters before UTF-8, wherever in the code they stand. */
static fc_fault fc_check_code(const fc_extractor *x) {
    const uint8_t *code = x->code;
    size_t len = fc_final_len(x);
    bool ascii = true;
    if (len > x->options.max_code_bytes) return FC_TOO_LONG;
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
        if (c >= 0xc2 && c <= 0xdf) {
            more = 1;
        } else if (c >= 0xe0 && c <= 0xef) {
            more = 2;
            if (c == 0xe0) low = 0xa0;
            if (c == 0xed) high = 0x9f;
        } else if (c >= 0xf0 && c <= 0xf4) {
            more = 3;
            if (c == 0xf0) low = 0x90;
            if (c == 0xf4) high = 0x8f;
        } else {
            return FC_NOT_UTF8;
        }
        for (; more > 0; more--, i++, low = 0x80, high = 0xbf)
            if (i == len || code[i] < low || code[i] > high) return FC_NOT_UTF8;
    }
    return FC_FINE;
}

/* ---- What the scan leaves to be done with care ------------------------------------------------------------------ */

/* How many codes of at most `longest` bytes the run and its arena have room for. */
static size_t fc_room(fc_extractor *x, size_t longest) {
    size_t codes = x->options.max_run_codes - x->run.codes;
    size_t each = FC_LENGTH_BYTES + longest + x->options.run_bytes_per_code;
    size_t by_bytes = (x->options.max_run_bytes - fc_run_bytes(x)) / each;
    if (by_bytes < codes) codes = by_bytes;
    if (codes > 1024) codes = 1024;
    return fc_run_reserve(&x->run, codes * (FC_LENGTH_BYTES + longest)) ? codes : 0;
}

/* Takes over `count` codes that were put behind the arena's end and go up to `out`. */
static inline void fc_settle(fc_extractor *x, const uint8_t *out, size_t count) {
    x->run.len = (size_t)(out - x->run.arena);
    x->run.codes += count;
    x->codes += count;
}

/* The first column of a record that starts at `field` and whose quoting is in order; the next record starts at `next`.
 * Trims or unescapes it, checks it (field_fault), and appends it if it is neither blank nor at fault. Unless it returns
 * FC_DONE, nothing has changed. `room` is what fc_room(x, longest) said, less what has been used of it since. */
static fc_status fc_take_field(fc_extractor *x, const uint8_t *field, const uint8_t *next, size_t longest,
                               size_t *room) {
    x->first_quoted = *field == '"';
    x->code_len = x->code_trimmed = 0;
    field += x->first_quoted;
    for (; field < next; field++) {
        uint8_t c = *field;
        if (x->first_quoted) {
            if (c == '"' && (++field == next || *field != '"')) break;
        } else if (c == ',' || c == '\n' || c == '\r') {
            break;
        }
        fc_add_to_code(x, c);
    }
    x->field_fault = fc_check_code(x);
    if (x->field_fault == FC_FINE && x->code_trimmed != 0) {
        fc_status status = fc_append(x, x->code, fc_final_len(x));
        if (status != FC_DONE) return status;
        *room = *room > 0 && fc_final_len(x) <= longest ? *room - 1 : 0;
    }
    if (*room == 0) *room = fc_room(x, longest);
    return FC_DONE;
}

/* The line of `at`, if that of `known` is `line`. No line ends before `begin` matter. */
static uint64_t fc_line_of(const uint8_t *at, const uint8_t *known, const uint8_t *begin, uint64_t line) {
    const uint8_t *p = at < known ? at : known, *q = at < known ? known : at;
    uint64_t count = 0;
    for (; p < q; p++) count += *p == '\r' || (*p == '\n' && !(p > begin && p[-1] == '\r'));
    return at < known ? line - count : line + count;
}

#include "_fastcsv_simd.h"

#endif
