/* Included by _fastcsv_simd.h once for each instruction set: no guard.
 *
 * The scan goes over the chunk in windows, each in two steps: find where records start, 64 bytes at a time; then take
 * the first field of each. Branches that depend on how long records are would cost more than all the rest; there are
 * next to none.
 *
 * 64 bytes are one block; a mask has a bit for each of them, the first byte's lowest. What crosses into the next block
 * is carried.
 *
 *   AB,1⏎"C⏎D",2⏎E          a block (shortened)
 *   ....1..1....1.          line ends
 *   .....1...1....          quotes
 *   .....1111.....          inside: from an opening quote to before the closing one, the running xor of the quotes
 *   ....1.......1.          terminators: line ends that are not inside
 *   .....1.......1          starts of records: the byte after each terminator
 *
 * Prefix-xor of quotes: Langdale and Lemire, "Parsing Gigabytes of JSON per Second", https://arxiv.org/abs/1902.08318;
 * its use on CSV: https://github.com/geofflangdale/simdcsv. It holds only while each opening quote stands at the start
 * of a field and each closing one at its end. The first that does not makes the rest of the block meaningless, and its
 * record goes to the other parser.
 */

/* The next n starts; when there are no more, anything. */
#define FC_PUT_STARTS(n)                                                            \
    for (int k = 0; k < (n); k++) {                                                 \
        *to++ = offset + (uint32_t)__builtin_ctzll(starts | (uint64_t)1 << 63);     \
        starts &= starts - 1;                                                       \
    }

/* Of the 64 bytes `v` at `block`, the starts of records; one that follows them is carried. Sets c->broken if quoting is
 * out of order, or may be, after the chunk's last byte. */
FC_TARGET static inline uint64_t FC_NAME(starts)(fc_carry *c, const FC_NAME(block) *v, const uint8_t *block,
                                                 const uint8_t *begin) {
    uint64_t lf = FC_NAME(equal)(v, '\n'), cr = FC_NAME(equal)(v, '\r'), quotes = FC_NAME(equal)(v, '"');
    uint64_t terminators = lf, lf_of_crlf = 0, line_ends = lf;
    if (cr | quotes | c->cr | c->inside | c->closing) {
        if (cr | c->cr) {
            lf_of_crlf = lf & (cr << 1 | c->cr);
            c->cr = cr >> 63;
            terminators = lf | cr;
            line_ends = terminators & ~lf_of_crlf;
        }
        if (quotes | c->inside | c->closing) {
            uint64_t inside = FC_NAME(prefix_xor)(quotes) ^ c->inside;
            uint64_t delimiters = (terminators | FC_NAME(equal)(v, ',')) & ~inside;
            uint64_t comma_before = block == begin || block[-1] == ','; /* a record's start is as good */
            uint64_t field_starts = delimiters << 1 | c->terminator | comma_before;
            uint64_t closing = quotes & ~inside, after_closing = closing << 1 | c->closing;
            terminators &= ~inside;
            c->broken = (quotes & inside & ~field_starts & ~after_closing) | (after_closing & ~delimiters & ~quotes);
            c->closing = closing >> 63;
            c->inside = (uint64_t)0 - (inside >> 63);
        }
    }
    uint64_t starts = (terminators << 1 | c->terminator) & ~lf_of_crlf;
    c->terminator = terminators >> 63;
    if (c->broken) return starts & ((c->broken & -c->broken) - 1);
    c->line += FC_NAME(popcount)(line_ends);
    return starts;
}

/* Finds where records start in [*at, window_end), as distances from `begin`; returns how many do. Moves *at to the first
 * block that it has not done; it stops early at one in which quoting is broken. */
FC_TARGET __attribute__((noinline)) static size_t FC_NAME(find_starts)(fc_carry *carry, const uint8_t **at,
                                                                       const uint8_t *window_end, const uint8_t *begin,
                                                                       const uint8_t *end, uint32_t *starts_at) {
    const uint8_t *block = *at;
    fc_carry c = *carry;
    uint32_t *to = starts_at;
    for (; block < window_end; block += 64) {
        FC_NAME(block) v;
        if (end - block >= 64) {
            v = FC_NAME(load)(block);
        } else {
            uint8_t last[64] = {0};
            memcpy(last, block, (size_t)(end - block));
            v = FC_NAME(load)(last);
        }
        uint64_t starts = FC_NAME(starts)(&c, &v, block, begin);
        uint32_t offset = (uint32_t)(block - begin), *next = to + FC_NAME(popcount)(starts);
        /* A fixed number without a branch, mostly enough; what is too much is overwritten from `next` on. */
        FC_PUT_STARTS(2)
        if (starts) {
            FC_PUT_STARTS(4)
            while (starts) FC_PUT_STARTS(1)
        }
        to = next;
        if (c.broken) break;
    }
    *carry = c;
    *at = block;
    return (size_t)(to - starts_at);
}

/* Copies a code of up to 64 bytes, and sets `len` to where the first special byte is. */
#define FC_TAKE_PLAIN(code, end)                                       \
    uint32_t found = FC_NAME(special)((code), (end));                  \
    FC_NAME(copy_32)(out + FC_LENGTH_BYTES, (code));                   \
    if (found != 0) {                                                  \
        len = (uint32_t)__builtin_ctz(found);                          \
    } else {                                                           \
        FC_NAME(copy_32)(out + FC_LENGTH_BYTES + 32, (code) + 32);     \
        found = FC_NAME(special)((code) + 32, (end));                  \
        len = found != 0 ? 32 + (uint32_t)__builtin_ctz(found) : 64;   \
    }

/* Takes the codes of `count` records, of which the first starts at *start and the others at `starts_at`, until one is
 * not plain: more than `longest` bytes, or with anything to trim, unescape or check, or blank. Moves *start to that
 * one, or to the record after the last, and *out behind the codes; returns how many they are.
 *
 * NOTE: a function of its own, for the loop's sake: there are not enough registers for all that its caller has in hand.
 * It looks at up to 67 bytes of each record. */
FC_TARGET __attribute__((noinline)) static size_t FC_NAME(take_plain)(const uint8_t **start, const uint8_t *begin,
                                                                      const uint32_t *starts_at, size_t count,
                                                                      size_t longest, uint8_t **arena_end) {
    const uint8_t *record = *start;
    uint8_t *out = *arena_end;
    size_t i = 0;
    for (; i < count; i++) {
        uint32_t len;
        if (*record != '"') {
            FC_TAKE_PLAIN(record, ',')
            uint8_t after = record[len];
            if (after != '\n' && after != ',' && after != '\r') break;
        } else {
            FC_TAKE_PLAIN(record + 1, '"')
            if (record[1 + len] != '"' || record[2 + len] == '"') break;
        }
        if (len - 1 >= longest) break;
        memcpy(out, &len, FC_LENGTH_BYTES);
        out += FC_LENGTH_BYTES + len;
        record = begin + starts_at[i];
    }
    *start = record;
    *arena_end = out;
    return i;
}

FC_TARGET static fc_status FC_NAME(scan)(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    const uint8_t *const begin = *at;
    if (end - begin > FC_LONGEST_SCAN) end = begin + FC_LONGEST_SCAN;
    const uint8_t *block = begin;
    const uint8_t *start = begin; /* of the record that comes next */
    const uint8_t *known = begin; /* a place of which the line is known */
    uint64_t known_line = x->line;
    fc_carry carry = {.line = x->line};
    uint32_t starts_at[FC_WINDOW + 16];
    fc_status status = FC_DONE;
    bool stop = false;

    /* Plain codes of at most `longest` bytes are copied here and now: `room` of them before the limits must be looked
     * at again. */
    const size_t longest = x->options.max_code_bytes < 64 ? x->options.max_code_bytes : 64;
    size_t room = fc_room(x, longest);
    uint8_t *out = x->run.arena + x->run.len;
    const ptrdiff_t max_row_bytes = (ptrdiff_t)x->options.max_row_bytes;
    const uint8_t *const all_plain_before = end - begin >= 68 ? end - 67 : begin;

    while (block < end && !stop) {
        const uint8_t *window_end = end - block > FC_WINDOW ? block + FC_WINDOW : end;
        size_t count = FC_NAME(find_starts)(&carry, &block, window_end, begin, end, starts_at);
        stop = carry.broken != 0;

        /* A record that is too long, unless by its line end only. */
        for (size_t i = 0; i < count; i++) {
            if (begin + starts_at[i] - (i == 0 ? start : begin + starts_at[i - 1]) > max_row_bytes) {
                count = i;
                stop = true;
            }
            if (max_row_bytes >= FC_WINDOW) break; /* only the first may have begun before the window */
        }

        for (size_t i = 0; i < count;) {
            size_t plain = count - i < room ? count - i : room;
            while (plain > 0 && (plain == 1 ? start : begin + starts_at[i + plain - 2]) >= all_plain_before) plain--;
            plain = FC_NAME(take_plain)(&start, begin, starts_at + i, plain, longest, &out);
            fc_settle(x, out, plain);
            room -= plain;
            i += plain;
            if (i == count) break;

            status = fc_take_field(x, start, begin + starts_at[i], longest, &room);
            out = x->run.arena + x->run.len;
            if (status != FC_DONE) goto stop;
            if (x->field_fault != FC_FINE) {
                known_line = fc_line_of(start, known, begin, known_line);
                known = start;
                fc_reject(x, known_line, x->field_fault);
                if (x->failure != FC_NO_FAILURE) goto stop;
            }
            start = begin + starts_at[i++];
        }
        known = block < end ? block : end;
        known_line = carry.line;
    }

stop:
    *at = start;
    x->line = fc_line_of(start, known, begin, known_line);
    x->after_cr = start > begin && start[-1] == '\r';
    return status;
}

/* Runs of bytes are copied in blocks of 32, past their end: what comes next overwrites it. */
#define FC_COPY(from, len)                                                     \
    do {                                                                       \
        for (size_t k = 0; k < (len); k += 32) FC_NAME(copy_32)(out + k, (from) + k); \
        out += (len);                                                          \
    } while (0)

FC_TARGET static void FC_NAME(write)(const fc_template *t, const uint8_t *arena, const uint8_t *const *order,
                                     size_t count, uint8_t *out) {
    /* NOTE: copies, since for all the compiler knows `out` overwrites *t. */
    const fc_template own = *t;
    const uint8_t *const heads = own.heads, *const tail = own.tail;
    const size_t head_len = own.head_len, tail_len = own.tail_len, head_stride = own.head_stride;
    /* Codes of so many bytes need no loop: one block, and two for what is before and behind them. */
    const size_t one_block = head_len <= 64 && tail_len <= 64 ? 32 : 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = (order != NULL ? order[i] : arena) + FC_LENGTH_BYTES;
        size_t len = fc_arena_length(code - FC_LENGTH_BYTES);
        arena = code + len;
        if (len <= one_block) {
            const uint8_t *head = heads + len * head_stride;
            FC_NAME(copy_32)(out, head);
            FC_NAME(copy_32)(out + 32, head + 32);
            out += head_len;
            FC_NAME(copy_32)(out, code);
            out += len;
            FC_NAME(copy_32)(out, tail);
            FC_NAME(copy_32)(out + 32, tail + 32);
            out += tail_len;
            continue;
        }
        if (len <= FC_HEADS) {
            const uint8_t *head = heads + len * head_stride;
            FC_COPY(head, head_len);
        } else {
            uint8_t *document = out;
            FC_COPY(own.head, head_len);
            fc_put_lengths(&own, document, len);
        }
        FC_COPY(code, len);
        FC_COPY(tail, tail_len);
    }
}

#undef FC_COPY
#undef FC_PUT_STARTS
#undef FC_TAKE_PLAIN
#undef FC_NAME
#undef FC_TARGET
