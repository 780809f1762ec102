/* Included by _fastcsv_simd.h once for each instruction set: no guard.
 *
 * The scan goes over the chunk in windows, each in two steps: find where records start, 64 bytes at a time; then take
 * the first field of each. Branches that depend on how long records are cost more than the rest: there are next to none.
 *
 * 64 bytes are one block; a mask has a bit for each of them, the first byte's lowest. What crosses into the next block
 * is carried.
 *
 *   AB,1⏎"C⏎D",2⏎E          a block (shortened)
 *   ....1.1.1.1..1.          quotes and line ends: in quotes a line end is content
 *   .....1111.......         inside: from an opening quote to before the closing one, the running xor of the quotes
 *   ....1........1.          terminators: line ends not inside
 *   .....1........1          starts of records: the byte after each terminator
 *
 * Prefix-xor of quotes: Langdale and Lemire, "Parsing Gigabytes of JSON per Second", https://arxiv.org/abs/1902.08318;
 * its use on CSV: https://github.com/geofflangdale/simdcsv. It holds only while each opening quote stands at the start
 * of a field and each closing one at its end. The first that does not makes the rest of the block meaningless, and its
 * record goes to the other parser.
 */

/* The next n starts, or nothing of meaning when there are no more. */
#define FC_PUT_STARTS(n)                                                                 \
    for (int k = 0; k < (n); k++) {                                                      \
        *to++ = offset + (uint32_t)__builtin_ctzll(starts | (uint64_t)1 << 63);          \
        starts &= starts - 1;                                                            \
    }

/* Copies a code of up to 64 bytes, and sets `len` to where the first special byte is. */
#define FC_TAKE_PLAIN(code, end)                                                \
    uint32_t found = FC_NAME(special)((code), (end));                           \
    FC_NAME(copy_32)(out + FC_LENGTH_BYTES, (code));                            \
    if (found != 0) {                                                           \
        len = (size_t)__builtin_ctz(found);                                     \
    } else {                                                                    \
        FC_NAME(copy_32)(out + FC_LENGTH_BYTES + 32, (code) + 32);              \
        found = FC_NAME(special)((code) + 32, (end));                           \
        len = found != 0 ? 32 + (size_t)__builtin_ctz(found) : 64;              \
    }

FC_TARGET static fc_status FC_NAME(scan)(fc_extractor *x, const uint8_t **at, const uint8_t *end) {
    const uint8_t *const begin = *at;
    if (end - begin > FC_LONGEST_SCAN) end = begin + FC_LONGEST_SCAN;
    const uint8_t *block = begin;
    const uint8_t *start = begin;                  /* of the record that comes next */
    const uint8_t *known = begin;                  /* a place of which the line is known */
    uint64_t line = x->line, known_line = x->line; /* of the block, of that place */
    uint64_t terminator_carry = 0, cr_carry = 0, closing_carry = 0, inside_carry = 0, broken = 0;
    uint32_t starts_at[FC_WINDOW + 16];
    fc_status status = FC_DONE;

    /* Plain codes of at most `longest` bytes are copied here and now: `room` of them before the limits must be looked
     * at again. */
    const size_t longest = x->options.max_code_bytes < 64 ? x->options.max_code_bytes : 64;
    size_t room = fc_room(x, longest), taken = 0;
    uint8_t *out = x->arena + x->arena_len;
    const uint64_t max_row_bytes = x->options.max_row_bytes;
    const uint8_t *const all_plain_before = end - begin >= 68 ? end - 67 : begin;

    while (block < end && !broken) {
        const uint8_t *window_end = end - block > FC_WINDOW ? block + FC_WINDOW : end;
        uint32_t *to = starts_at;
        size_t count = 0;
        for (; block < window_end; block += 64) {
            const uint8_t *bytes = block;
            uint8_t last[64];
            uint64_t valid = ~(uint64_t)0;
            if (end - block < 64) {
                memset(last, 0, 64);
                memcpy(last, block, (size_t)(end - block));
                valid = ((uint64_t)1 << (end - block)) - 1;
                bytes = last;
            }
            FC_NAME(block) v = FC_NAME(load)(bytes);
            uint64_t lf = FC_NAME(equal)(&v, '\n'), cr = FC_NAME(equal)(&v, '\r'), quotes = FC_NAME(equal)(&v, '"');
            uint64_t line_ends = lf, lf_of_crlf = 0, terminators = lf | cr;
            if (cr | cr_carry) {
                lf_of_crlf = lf & (cr << 1 | cr_carry);
                line_ends = terminators & ~lf_of_crlf;
                cr_carry = cr >> 63;
            }
            if (quotes | inside_carry | closing_carry) {
                uint64_t inside = FC_NAME(prefix_xor)(quotes) ^ inside_carry;
                terminators &= ~inside;
                uint64_t delimiters = terminators | (FC_NAME(equal)(&v, ',') & ~inside);
                uint64_t field_starts = delimiters << 1 | (!inside_carry && fc_is_field_start(block, begin));
                uint64_t closing = quotes & ~inside, after_closing = closing << 1 | closing_carry;
                broken = (quotes & inside & ~field_starts & ~after_closing) | (after_closing & ~delimiters & ~quotes);
                broken &= valid;
                closing_carry = closing >> 63;
                inside_carry = (uint64_t)0 - (inside >> 63);
            }
            uint64_t starts = (terminators << 1 | terminator_carry) & ~lf_of_crlf;
            terminator_carry = terminators >> 63;
            if (broken) starts &= (broken & -broken) - 1;
            uint32_t offset = (uint32_t)(block - begin);
            to = starts_at + count;
            count += (size_t)FC_NAME(popcount)(starts);
            FC_PUT_STARTS(2)
            if (starts) {
                FC_PUT_STARTS(4)
                while (starts) FC_PUT_STARTS(1)
            }
            if (broken) break;
            line += (uint64_t)FC_NAME(popcount)(line_ends);
        }
        if (block == end && terminator_carry) starts_at[count++] = (uint32_t)(end - begin);

        for (size_t i = 0; i < count; i++) {
            const uint8_t *next = begin + starts_at[i];
            size_t len;
            bool plain;
            if ((uint64_t)(next - start) > max_row_bytes) { /* too long, unless by its line end only */
                broken = 1;
                goto stop;
            }
            /* NOTE: past the code two more bytes are looked at. */
            if (start < all_plain_before && taken < room) {
                if (*start != '"') {
                    FC_TAKE_PLAIN(start, ',')
                    plain = start[len] == '\n' || start[len] == ',' || start[len] == '\r';
                } else {
                    FC_TAKE_PLAIN(start + 1, '"')
                    plain = start[1 + len] == '"' && start[2 + len] != '"';
                }
            } else {
                plain = false;
                len = 0;
            }
            if (plain && len - 1 < longest) {
                uint32_t prefix = (uint32_t)len;
                memcpy(out, &prefix, FC_LENGTH_BYTES);
                out += FC_LENGTH_BYTES + len;
                taken++;
            } else {
                fc_settle(x, out, taken);
                room -= taken;
                taken = 0;
                status = fc_take_field(x, start, next, longest, &room);
                out = x->arena + x->arena_len;
                if (status != FC_DONE) goto stop;
                if (x->field_fault != FC_FINE) {
                    known_line = fc_line_of(start, known, begin, known_line);
                    known = start;
                    fc_reject(x, known_line, x->field_fault);
                    if (x->failure != FC_NO_FAILURE) goto stop;
                }
            }
            start = next;
        }
        known = block < end ? block : end;
        known_line = line;
    }

stop:
    fc_settle(x, out, taken);
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
    for (size_t i = 0; i < count; i++) {
        const uint8_t *code = (order != NULL ? order[i] : arena) + FC_LENGTH_BYTES;
        size_t len = fc_arena_length(code - FC_LENGTH_BYTES);
        arena = code + len;
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
