# cython: auto_pickle=False, autotestdict=False
"""The native core: CSV bytes in, batches of encoded BSON documents out; and the replies to them, counted.

The work is done in plain C (_fastcsv_core.h and what it includes) with the GIL released. What is here allocates buffers,
hands them out, and turns outcomes into Python objects.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from operator import index as as_index


cdef extern from *:
    """
    /* An object whose only reference is the one of the list that it was found in. Without the GIL a second thread could
     * be about to take another. */
    static int fc_is_free(PyObject *object) {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        return Py_REFCNT(object) == 1;
    #endif
    }

    /* Makes a bytes object look new: of that size, at most the one it was made with, and with no hash remembered. */
    static void fc_bytes_reset(PyObject *bytes, size_t size) {
        Py_SET_SIZE((PyVarObject *)bytes, (Py_ssize_t)size);
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        ((PyBytesObject *)bytes)->ob_shash = -1;
    #pragma GCC diagnostic pop
    }
    """
    bint fc_is_free(PyObject*) noexcept
    void fc_bytes_reset(PyObject*, size_t) noexcept


cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    PyObject* PyList_GET_ITEM(list, Py_ssize_t)


cdef extern from "_fastcsv_core.h":
    ctypedef struct fc_template:
        size_t document_fixed
        size_t statement_fixed
        size_t id_fixed

    bint fc_template_init(fc_template*, const uint8_t*, size_t, const uint8_t*, size_t, int64_t) noexcept nogil
    void fc_template_free(fc_template*) noexcept nogil
    uint8_t* fc_put_statement(const fc_template*, uint8_t*, const uint8_t*, size_t) noexcept nogil
    const size_t FC_WITHIN_FIXED
    const size_t FC_AMONG_FIXED
    void fc_put_within(const fc_template*, uint8_t*, const uint8_t*, size_t, const uint8_t*, size_t) noexcept nogil
    size_t fc_digits(size_t) noexcept nogil
    uint8_t* fc_begin_among(uint8_t*, size_t) noexcept nogil
    uint8_t* fc_put_among(const fc_template*, uint8_t*, size_t, const uint8_t*, size_t) noexcept nogil

    ctypedef enum fc_reply_status:
        FC_REPLY_OK
        FC_REPLY_INVALID
        FC_REPLY_NO_MEMORY

    ctypedef struct fc_reply:
        bint ok
        int64_t n
        int64_t n_modified
        int64_t upserted
        int64_t other_errors
        int64_t* duplicates
        size_t duplicate_count
        int64_t first_other_index
        int64_t first_other_code
        bint has_write_concern_error
        int64_t write_concern_error

    fc_reply_status fc_read_reply(const uint8_t*, size_t, fc_reply*) noexcept nogil
    void fc_reply_free(fc_reply*) noexcept nogil
    int FC_NOT_SEEN
    int FC_SEEN
    int FC_SEEN_OTHER_TYPE

    fc_reply_status fc_mark_seen(const fc_template*, const uint8_t*, size_t, const uint8_t* const*, size_t*, size_t,
                                 uint8_t*, size_t*, int64_t*) noexcept nogil

    ctypedef enum fc_fault:
        FC_FINE
        FC_TEXT_AFTER_QUOTE
        FC_OPEN_QUOTE
        FC_TOO_LONG
        FC_CONTROL_CHARACTER
        FC_NOT_UTF8
        FC_RECORD_TOO_LONG

    ctypedef enum fc_status:
        FC_DONE
        FC_RUN_FULL
        FC_NO_MEMORY

    ctypedef enum fc_failure:
        FC_NO_FAILURE
        FC_INVALID_ROW
        FC_NOT_CSV

    ctypedef struct fc_sample:
        uint64_t line
        fc_fault fault

    ctypedef struct fc_point:
        uint64_t offset
        uint64_t line
        bint after_cr

    ctypedef struct fc_options:
        bint header
        bint strict
        bint sort
        bint all_rejects
        size_t max_run_codes
        size_t max_run_bytes
        size_t run_bytes_per_code
        size_t max_code_bytes
        size_t max_samples
        uint64_t max_row_bytes

    ctypedef struct fc_run:
        uint8_t* arena
        size_t size
        size_t len
        size_t codes
        const uint8_t** order
        size_t distinct

    void fc_run_free(fc_run*) noexcept nogil
    uint32_t fc_arena_length(const uint8_t*) noexcept nogil

    ctypedef struct fc_extractor:
        fc_options options
        fc_template bson
        fc_run run
        uint64_t codes
        uint64_t invalid_count
        fc_sample* samples
        fc_sample* rejects
        size_t rejected
        bint rejects_lost
        uint64_t record_line
        fc_failure failure
        fc_sample failed

    ctypedef struct fc_instruction_set:
        const char* name
        bint (*available)() noexcept nogil
        void (*write)(const fc_template*, const uint8_t*, const uint8_t* const*, size_t, uint8_t*) noexcept nogil

    const fc_instruction_set* fc_instruction_sets
    const size_t FC_INSTRUCTION_SETS
    const size_t FC_OVERRUN
    const size_t FC_LENGTH_BYTES
    const size_t FC_REJECT_FRAME

    bint fc_init(fc_extractor*, const fc_options*, const fc_instruction_set*, const uint8_t*, size_t, const uint8_t*,
                 size_t, int64_t, const fc_point*) noexcept nogil
    bint fc_point_of(const fc_extractor*, fc_point*) noexcept nogil
    void fc_free(fc_extractor*) noexcept nogil
    uint8_t* fc_write_rejects(const fc_sample*, size_t, const char* const*, uint8_t*) noexcept nogil
    fc_status fc_feed(fc_extractor*, const uint8_t**, const uint8_t*) noexcept nogil
    fc_status fc_finish(fc_extractor*) noexcept nogil
    bint fc_take_run(fc_extractor*, fc_run*) noexcept nogil
    void fc_move_run(fc_extractor*, fc_run*) noexcept nogil
    size_t fc_cut(const fc_run*, size_t, size_t, size_t, size_t, size_t*) noexcept nogil


cdef extern from "_fastcsv_distinct.h":
    ctypedef struct fc_distinct:
        uint64_t key[2]
        uint64_t first
        uint64_t last
        uint64_t* hashes
        size_t capacity
        size_t len

    uint64_t fc_word(const uint8_t*, size_t) noexcept nogil
    uint64_t fc_siphash(const uint64_t*, const uint8_t*, size_t) noexcept nogil
    void fc_distinct_settle(fc_distinct*) noexcept nogil
    bint fc_distinct_add(fc_distinct*, const uint8_t*, size_t) noexcept nogil


NOT_SEEN, SEEN, SEEN_OTHER_TYPE = FC_NOT_SEEN, FC_SEEN, FC_SEEN_OTHER_TYPE

cdef enum:
    _FAULTS = 7  # values of fc_fault

# A run that is sorted is kept whole in memory: so many bytes of codes at most.
cdef size_t _RUN_BYTES = 32 << 20


@cython.final
cdef class Extractor:
    """Push parser: the first column of each record, checked, straight into batches of BSON documents.

    RFC 4180 with a comma; records end at LF, CRLF or a lone CR; a UTF-8 byte order mark at the file's start
    is not part of it. Rules on codes and on broken quoting: "Rules" of the public contract. What RFC 4180
    leaves open is read as Python's csv module with strict=False reads it. A row is told to be invalid for the
    first that applies of: text after a closing quote, a quote open at the end of the file (in any column, and
    even if the first is blank), too long, control character, not UTF-8.

    Not for two threads at once (RuntimeError); feed() and finish() release the GIL.

    campaign_id, code_type: go into every document, 1 to 1024 bytes of UTF-8. saved_ms: milliseconds since the
    epoch. header: skip the first record. strict: the first invalid row is a failure. max_batch_codes,
    max_batch_bytes: a batch ends when it holds so many codes, or before its documents or its upserts would
    exceed so many bytes. max_code_bytes, max_row_bytes: a longer code makes its row invalid, a longer record
    (without its line end) is a failure. max_samples: how many invalid rows are described.
    all_invalid: whether take_invalid() hands out all of them. sort: so many codes
    (fewer if they are long) are sorted together by their bytes, for which an index thanks, and cut into batches,
    in which no code comes twice; 0: batches are in file order. start: a point of another extractor of the same file, to
    go on there (offset, line, after CR); `header` is of no account then, and `codes` and the invalid rows begin anew. instruction_set: one of instruction_sets()
    instead of the best; the results are the same.

    Raises ValueError if an argument is out of range.
    """

    cdef fc_extractor core
    cdef bint running, closed
    cdef size_t max_batch_codes, max_batch_bytes
    cdef _Encoding encoding
    cdef _Buffers buffers
    cdef list runs

    def __cinit__(self, *, str campaign_id not None, str code_type not None, saved_ms, bint header=False,
                  bint strict=False, max_batch_codes=50_000, max_batch_bytes=47_000_000, max_code_bytes=256,
                  max_row_bytes=4 << 20, max_samples=100, all_invalid=False, sort=0, start=None,
                  str instruction_set=None):
        cdef bytes campaign = _encoded("campaign_id", campaign_id)
        cdef bytes type_ = _encoded("code_type", code_type)
        cdef int64_t saved = _bounded("saved_ms", saved_ms, -(1 << 63), (1 << 63) - 1)
        cdef fc_options options
        cdef fc_point point
        if start is not None:
            offset, line, after_cr = start
            point.offset = _bounded("the offset of start", offset, 0, 1 << 62)
            point.line = _bounded("the line of start", line, 1, 1 << 62)
            point.after_cr = bool(after_cr)
        options.header = header
        options.strict = strict
        options.all_rejects = bool(all_invalid)
        self.max_batch_codes = _bounded("max_batch_codes", max_batch_codes, 1, (1 << 31) - 1)
        self.max_batch_bytes = _bounded("max_batch_bytes", max_batch_bytes, 1, (1 << 31) - 1)
        options.max_code_bytes = _bounded("max_code_bytes", max_code_bytes, 1, 1 << 20)
        options.max_row_bytes = _bounded("max_row_bytes", max_row_bytes, 1, 1 << 40)
        options.max_samples = _bounded("max_samples", max_samples, 0, 1_000_000)
        self.encoding = _Encoding(campaign, type_, saved, instruction_set)
        self.buffers = _Buffers()
        self.runs = []
        if self.encoding.bson.statement_fixed + options.max_code_bytes > self.max_batch_bytes:
            raise ValueError("max_batch_bytes has no room for one code of max_code_bytes")
        options.sort = _bounded("sort", sort, 0, (1 << 31) - 1) != 0
        if options.sort:
            options.max_run_codes = sort
            options.max_run_bytes = _RUN_BYTES
            options.run_bytes_per_code = 0
        else:
            # Each batch is a run of its own: a statement is the larger of the two forms.
            options.max_run_codes = self.max_batch_codes
            options.max_run_bytes = self.max_batch_bytes
            options.run_bytes_per_code = self.encoding.bson.statement_fixed - FC_LENGTH_BYTES
        if not fc_init(&self.core, &options, self.encoding.instructions, campaign, len(campaign), type_, len(type_),
                       saved, NULL if start is None else &point):
            raise MemoryError

    def __dealloc__(self):
        fc_free(&self.core)

    def feed(self, data not None):
        """Take the file's next bytes, cut anywhere, and return the batches that they complete.

        After a failure the rest of `data` is not looked at. Raises ValueError after finish() or a failure,
        BufferError if `data` is not C-contiguous.
        """
        cdef Py_buffer view
        cdef const uint8_t* at
        cdef const uint8_t* end
        cdef fc_status status
        cdef list batches = []
        if self.closed:
            raise ValueError("feed() after finish()")
        if self.core.failure != FC_NO_FAILURE:
            raise ValueError("feed() after a failure")
        self._enter()
        try:
            self._adopt_memory()
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                if view.len == 0:
                    return batches  # and its address may be NULL
                at = <const uint8_t*>view.buf
                end = at + view.len
                while True:
                    with nogil:
                        status = fc_feed(&self.core, &at, end)
                    if status == FC_DONE:
                        break
                    self._hand_out(status, batches)
            except:
                self.closed = True  # out of memory: codes are lost, so it must not go on
                raise
            finally:
                PyBuffer_Release(&view)
        finally:
            self.running = False
        return batches

    def finish(self):
        """Take the end of the file, or after a failure just flush, and return what remains.

        Called again it returns nothing.
        """
        cdef fc_status status
        cdef list batches = []
        if self.closed:
            return batches
        self._enter()
        try:
            self.closed = True
            while True:
                with nogil:
                    status = fc_finish(&self.core)
                if status == FC_DONE:
                    break
                self._hand_out(status, batches)
            if self.core.run.codes:
                self._hand_out(FC_RUN_FULL, batches)
        finally:
            self.running = False
        return batches

    def flush(self):
        """Return batches of the codes that are pending, now, for want of anything else to do."""
        cdef list batches = []
        if self.core.run.codes and not self.closed:
            self._enter()
            try:
                self._hand_out(FC_RUN_FULL, batches)
            finally:
                self.running = False
        return batches

    @property
    def pending(self):
        """Codes that no batch holds yet."""
        return self.core.run.codes

    @property
    def point(self):
        """Where another extractor can go on, if all codes before that are in batches; otherwise None.

        (offset, line, after CR, codes, invalid rows): where the next record starts, whether a LF there belongs to the CR
        before it, and what this extractor has found before. One that starts there, and is fed the file from that offset
        on, finds what this one would find. None after a failure, and before the first record that is no header.
        """
        return None if self.core.run.codes else self._point()

    @property
    def codes(self):
        """Valid codes accepted so far."""
        return self.core.codes

    @property
    def line(self):
        """The physical line on which the record begins that has not ended yet, or the next one."""
        return self.core.record_line

    @property
    def invalid_count(self):
        """Invalid rows so far."""
        return self.core.invalid_count

    @property
    def invalid_samples(self):
        """(line, reason) of the first max_samples invalid rows.

        The line is the physical one on which the record starts; the file's first is 1, header included.
        """
        cdef size_t i
        cdef size_t count = min(self.core.invalid_count, self.core.options.max_samples)
        return [(self.core.samples[i].line, self._reason(self.core.samples[i].fault)) for i in range(count)]

    def take_invalid(self):
        """Hand out the invalid rows since the last call as lines of CSV, "line,reason", that end in CR LF.

        Nothing unless all_invalid was asked for. Take them after each feed(), since they are kept until then.
        """
        cdef size_t i, size, longest = 0, count = self.core.rejected
        cdef uint8_t* out
        cdef uint8_t* end
        cdef const char* reasons[_FAULTS]
        cdef list texts = []
        cdef bytes text
        if self.core.rejects_lost:
            raise MemoryError
        if count == 0:
            return b""
        for i in range(<size_t>_FAULTS):
            text = b"" if i == FC_FINE else self._reason(<fc_fault>i).encode()
            texts.append(text)
            reasons[i] = PyBytes_AS_STRING(text)
            longest = max(longest, <size_t>len(text))
        self._enter()
        try:
            size = count * (FC_REJECT_FRAME + longest)
            out = <uint8_t*>malloc(size)
            if out == NULL:
                raise MemoryError
            try:
                with nogil:
                    end = fc_write_rejects(self.core.rejects, count, reasons, out)
                self.core.rejected = 0
                return (<char*>out)[:end - out]
            finally:
                free(out)
        finally:
            self.running = False

    @property
    def failure(self):
        """("invalidRow" or "notCsv", line, reason) of the record at which parsing has stopped.

        Codes before it are still delivered, by the feed() that met it and by finish().
        """
        if self.core.failure == FC_NO_FAILURE:
            return None
        kind = "notCsv" if self.core.failure == FC_NOT_CSV else "invalidRow"
        return kind, self.core.failed.line, self._reason(self.core.failed.fault)

    cdef int _enter(self) except -1:
        # feed() lets go of the GIL, so that a second thread could come in.
        if self.running:
            raise RuntimeError("the extractor is at work in another thread")
        self.running = True
        return 0

    cdef int _hand_out(self, fc_status status, list batches) except -1:
        cdef _Run run
        cdef Batch batch
        cdef size_t start = 0
        cdef bint taken
        if status == FC_NO_MEMORY:
            raise MemoryError
        point = self._point()
        run = self._spare_run()
        with nogil:
            taken = fc_take_run(&self.core, &run.codes)
        if not taken:
            raise MemoryError
        if not self.core.options.sort:
            batch = _new_batch(self.encoding, self.buffers, run)
            batch.count = run.codes.codes
            batch.code_bytes = run.codes.len - FC_LENGTH_BYTES * run.codes.codes
            batch.point = point
            batches.append(batch)
            return 0
        while start < run.codes.distinct:
            batch = _new_batch(self.encoding, self.buffers, run)
            with nogil:
                batch.count = fc_cut(&run.codes, start, self.max_batch_codes, self.max_batch_bytes,
                                     self.encoding.bson.statement_fixed, &batch.code_bytes)
            batch.order = run.codes.order + start
            start += batch.count
            batches.append(batch)
        batch.repeats = run.codes.codes - run.codes.distinct
        batch.point = point
        return 0

    cdef object _point(self):
        cdef fc_point point
        if not fc_point_of(&self.core, &point):
            return None
        return point.offset, point.line, bool(point.after_cr), self.core.codes, self.core.invalid_count

    cdef _Run _spare_run(self):
        """The memory of an earlier run, when no batch of it is left: fresh memory costs more than the parsing does."""
        cdef Py_ssize_t i
        cdef _Run run, largest = None
        for i in range(len(self.runs)):
            if fc_is_free(PyList_GET_ITEM(self.runs, i)):
                run = <_Run>PyList_GET_ITEM(self.runs, i)
                if largest is None or run.codes.size > largest.codes.size:
                    largest = run
        if largest is None:
            largest = _Run()
            self.runs.append(largest)
        return largest

    cdef int _adopt_memory(self) except -1:
        """Fill the memory of an earlier run, if that has come free, before one's own grows as large."""
        cdef _Run spare = self._spare_run()
        if spare.codes.size > self.core.run.size:
            fc_move_run(&self.core, &spare.codes)
        return 0

    cdef str _reason(self, fc_fault fault):
        if fault == FC_TEXT_AFTER_QUOTE:
            return "text follows a closing quote"
        if fault == FC_OPEN_QUOTE:
            return "a quote is still open at the end of the file"
        if fault == FC_TOO_LONG:
            return f"the code is longer than {self.core.options.max_code_bytes} bytes"
        if fault == FC_CONTROL_CHARACTER:
            return "the code holds a control character"
        if fault == FC_NOT_UTF8:
            return "the code is not valid UTF-8"
        return f"the record is longer than {self.core.options.max_row_bytes} bytes"


@cython.final
cdef class _Buffers:
    """Bytes objects for batches to be written to, used again when nobody else holds them any more.

    Fresh memory costs ten times what the parsing does: the kernel gives it page by page, and zeroed.
    """

    cdef list buffers
    cdef size_t room  # bytes that each of them can hold

    def __cinit__(self):
        self.buffers = []

    cdef bytes take(self, size_t size):
        """`size` bytes, not initialised, and FC_OVERRUN more behind them."""
        cdef Py_ssize_t i
        cdef PyObject* buffer
        cdef bytes result
        if size + FC_OVERRUN > self.room:
            # Somewhat larger than this batch needs, since the next ones differ a little.
            self.buffers = []
            self.room = size + size // 16 + FC_OVERRUN
        for i in range(len(self.buffers)):
            buffer = PyList_GET_ITEM(self.buffers, i)
            if fc_is_free(buffer):
                fc_bytes_reset(buffer, size)
                return <bytes>buffer
        buffer = PyBytes_FromStringAndSize(NULL, self.room)
        result = <bytes>buffer
        Py_XDECREF(buffer)
        self.buffers.append(result)
        fc_bytes_reset(buffer, size)
        return result


@cython.final
cdef class _Run:
    """Codes that several batches share."""

    cdef fc_run codes

    def __dealloc__(self):
        fc_run_free(&self.codes)


@cython.final
cdef class Batch:
    """Codes of one bulk write. Immutable; made by an Extractor, and encoded when they are asked for.

    repeats: how many codes were left out of a sorted run's batches, because one of them holds the code already; the
    run's last batch tells for all of them. point: in a run's last batch, where another extractor can go on when this
    batch and all before it are written (see Extractor.point); otherwise, and after a failure, None.
    """

    cdef size_t count, code_bytes
    cdef const uint8_t** order  # NULL: those of the run, in file order
    cdef const uint8_t** own_order  # NOTE: malloc'd here
    cdef _Run run
    cdef bytes encoded
    cdef _Encoding encoding
    cdef _Buffers buffers

    cdef readonly object repeats, point

    def __cinit__(self):
        self.repeats = 0

    def __dealloc__(self):
        free(self.own_order)

    def __len__(self):
        return self.count

    @property
    def documents(self):
        """Concatenated documents for an `insert` command; the same object each time.

        `{_id: {campaign_id, code}, type, date: {saved}}`; https://bsonspec.org/spec.html.
        """
        cdef uint8_t* out
        cdef bytes encoded
        if self.encoded is None:
            self._encoding()
            encoded = self.buffers.take(self.count * self.encoding.bson.document_fixed + self.code_bytes)
            out = <uint8_t*>PyBytes_AS_STRING(encoded)
            with nogil:
                self.encoding.instructions.write(&self.encoding.bson, self.run.codes.arena, self.order, self.count, out)
            out[len(encoded)] = 0  # bytes end with a NUL that is not counted, and the writer has overrun it
            self.encoded = encoded
        return self.encoded

    def upserts(self, indexes=None):
        """Concatenated statements for an `update` command: for all codes, or those at `indexes`, in that order.

        `{q: {_id}, u: {$set: {type}, $setOnInsert: {date: {saved}}}, upsert: true}`: for a new code it makes the
        document that an insert makes. Raises IndexError if an index is not 0 to len() - 1.
        """
        cdef const fc_template* bson = &self._encoding().bson
        cdef const uint8_t* const* codes = self._codes()
        cdef const uint8_t** chosen = NULL
        cdef const uint8_t* code
        cdef uint8_t* out
        cdef size_t i, wanted = self.count, code_bytes = self.code_bytes
        try:
            if indexes is not None:
                wanted = len(indexes)
                code_bytes = 0
                chosen = <const uint8_t**>malloc(wanted * sizeof(const uint8_t*) + 1)
                if chosen is NULL:
                    raise MemoryError
                for i in range(wanted):
                    chosen[i] = codes[_position(indexes[i], self.count)]
                    code_bytes += fc_arena_length(chosen[i])
                codes = chosen
            result = <bytes>_new_bytes(wanted * bson.statement_fixed + code_bytes)
            out = <uint8_t*>PyBytes_AS_STRING(result)
            with nogil:
                for i in range(wanted):
                    code = codes[i]
                    out = fc_put_statement(bson, out, code + FC_LENGTH_BYTES, fc_arena_length(code))
        finally:
            free(chosen)
        return result

    def codes(self):
        """All codes, decoded."""
        cdef const uint8_t* const* codes = self._codes()
        cdef size_t i
        return [_text(codes[i]) for i in range(self.count)]

    def within(self, start, stop):
        """Filter of a `find` for every code from the one at `start` to the last before `stop`, and all between them.

        `{_id: {$gte, $lte}}`. The batch must be sorted. Raises IndexError if it has no such codes.
        """
        cdef const uint8_t* const* codes = self._sorted_codes()
        cdef size_t first = _position(start, self.count), last = _position(as_index(stop) - 1, self.count, first)
        cdef size_t first_len = fc_arena_length(codes[first]), last_len = fc_arena_length(codes[last])
        cdef const fc_template* bson = &self.encoding.bson
        result = <bytes>_new_bytes(FC_WITHIN_FIXED + 2 * bson.id_fixed + first_len + last_len)
        fc_put_within(bson, <uint8_t*>PyBytes_AS_STRING(result), codes[first] + FC_LENGTH_BYTES, first_len,
                      codes[last] + FC_LENGTH_BYTES, last_len)
        return result

    def among(self, start, stop):
        """Filter of a `find` for the codes from the one at `start` to the last before `stop`, and no others.

        `{_id: {$in}}`. Raises IndexError if the batch has no such codes.
        """
        cdef const uint8_t* const* codes = self._codes()
        cdef size_t i, first = _position(start, self.count), last = _position(as_index(stop) - 1, self.count, first)
        cdef size_t size = FC_AMONG_FIXED
        cdef const fc_template* bson = &self.encoding.bson
        cdef uint8_t* out
        for i in range(first, last + 1):
            size += 2 + fc_digits(i - first) + bson.id_fixed + fc_arena_length(codes[i])
        result = <bytes>_new_bytes(size)
        out = fc_begin_among(<uint8_t*>PyBytes_AS_STRING(result), size)
        with nogil:
            for i in range(first, last + 1):
                out = fc_put_among(bson, out, i - first, codes[i] + FC_LENGTH_BYTES, fc_arena_length(codes[i]))
            memset(out, 0, 3)
        return result

    def mark(self, bytes reply not None, start, stop, bytearray marks not None):
        """Mark the codes from `start` on, before `stop`, that the reply to a `find` shows; return (documents, position, cursor).

        The reply is raw BSON, its documents are `{_id}` or `{_id, type}`, sorted by `_id`; the batch must be sorted.
        `marks` has a byte for each code of the batch: SEEN, or SEEN_OTHER_TYPE where the document names another type
        than the batch's; other bytes stay. All codes before `position` are not after the last document. `cursor` is
        the id of the cursor that has more, or 0. Raises ValueError if the reply is not what it should be.
        """
        cdef const uint8_t* const* codes = self._sorted_codes()
        cdef size_t size = len(reply), at = as_index(start), end = as_index(stop), documents
        cdef int64_t cursor
        cdef const uint8_t* bytes_ = <const uint8_t*>PyBytes_AS_STRING(reply)
        cdef uint8_t* marks_
        cdef fc_reply_status status
        if not at <= end <= self.count == <size_t>len(marks):
            raise IndexError("no such codes in this batch")
        marks_ = <uint8_t*>PyByteArray_AS_STRING(marks)
        # Without the GIL another thread could shorten `marks`.
        status = fc_mark_seen(&self.encoding.bson, bytes_, size, codes, &at, end, marks_, &documents, &cursor)
        if status != FC_REPLY_OK:
            raise ValueError("not the BSON of a reply to a find")
        return documents, at, cursor

    def pick(self, bytearray marks not None, mark):
        """Return a batch of the codes whose byte in `marks` is `mark`, in the same order."""
        cdef const uint8_t* const* codes = self._codes()
        cdef uint8_t wanted = mark
        cdef size_t i
        cdef const uint8_t* marks_ = <const uint8_t*>PyByteArray_AS_STRING(marks)
        cdef Batch batch = _new_batch(self.encoding, self.buffers, self.run)
        if <size_t>len(marks) != self.count:
            raise ValueError("marks must have a byte for each code")
        batch.own_order = batch.order = <const uint8_t**>malloc(self.count * sizeof(const uint8_t*) + 1)
        if batch.order is NULL:
            raise MemoryError
        for i in range(self.count):
            if marks_[i] == wanted:
                batch.order[batch.count] = codes[i]
                batch.count += 1
                batch.code_bytes += fc_arena_length(codes[i])
        return batch

    def __repr__(self):
        return f"<Batch of {self.count} codes>"

    cdef _Encoding _encoding(self):
        if self.encoding is None:
            raise ValueError("not a batch of an Extractor")
        return self.encoding

    cdef const uint8_t* const* _codes(self) except NULL:
        cdef const uint8_t* at
        cdef size_t i
        self._encoding()
        if self.order is NULL and self.own_order is NULL:
            self.own_order = <const uint8_t**>malloc(self.count * sizeof(const uint8_t*) + 1)
            if self.own_order is NULL:
                raise MemoryError
            at = self.run.codes.arena
            for i in range(self.count):
                self.own_order[i] = at
                at += FC_LENGTH_BYTES + fc_arena_length(at)
        return self.order if self.order is not NULL else self.own_order

    cdef const uint8_t* const* _sorted_codes(self) except NULL:
        if self.order is NULL:
            raise ValueError("the batch is not sorted")
        return self.order


cdef Batch _new_batch(_Encoding encoding, _Buffers buffers, _Run run):
    cdef Batch batch = Batch.__new__(Batch)
    batch.encoding = encoding
    batch.buffers = buffers
    batch.run = run
    return batch


cdef str _text(const uint8_t* code):
    return (<const char*>code + FC_LENGTH_BYTES)[:fc_arena_length(code)].decode("utf-8")


@cython.final
cdef class _Encoding:
    """The template, shared by the batches of one extractor, which may be gone before they are."""

    cdef fc_template bson
    cdef const fc_instruction_set* instructions

    def __cinit__(self, bytes campaign not None, bytes type_ not None, int64_t saved_ms, str instruction_set):
        self.instructions = _instructions(instruction_set)
        if not fc_template_init(&self.bson, campaign, len(campaign), type_, len(type_), saved_ms):
            raise MemoryError

    def __dealloc__(self):
        fc_template_free(&self.bson)


@cython.final
cdef class Distinct:
    """Counts distinct codes in bounded memory: those whose hashes are from `first` to `last`.

    At the beginning, `last` is the greatest hash, 2**64 - 1. When there is no room left, the greater hashes are
    forgotten and `last` becomes less. key: 16 bytes that whoever makes the codes cannot know. capacity: hashes that are
    kept at most, of 8 bytes each; 2 or more.

    Not for two threads at once (RuntimeError); every method releases the GIL.
    """

    cdef fc_distinct core
    cdef bint running

    def __cinit__(self, *, bytes key not None, first=0, capacity):
        cdef const uint8_t* bytes_ = <const uint8_t*>PyBytes_AS_STRING(key)
        if len(key) != 16:
            raise ValueError("key must be 16 bytes")
        self.core.key[0], self.core.key[1] = fc_word(bytes_, 8), fc_word(bytes_ + 8, 8)
        self.core.first = _bounded("first", first, 0, (1 << 64) - 1)
        self.core.last = <uint64_t>-1
        self.core.capacity = _bounded("capacity", capacity, 2, 1 << 40)

    def __dealloc__(self):
        free(self.core.hashes)

    @property
    def first(self):
        """The least hash that is counted."""
        return self.core.first

    @property
    def last(self):
        """The greatest hash that is counted."""
        return self.core.last

    def select(self, Batch batch not None):
        """Return a byte for each code of a batch: 1 where its hash is one of those that are counted, else 0."""
        cdef const uint8_t* const* codes = batch._codes()
        cdef size_t i, count = batch.count
        cdef uint64_t hash_
        cdef bytearray marks = bytearray(count)
        cdef uint8_t* marks_ = <uint8_t*>PyByteArray_AS_STRING(marks)
        self._enter()
        try:
            with nogil:
                for i in range(count):
                    hash_ = fc_siphash(self.core.key, codes[i] + FC_LENGTH_BYTES, fc_arena_length(codes[i]))
                    marks_[i] = self.core.first <= hash_ <= self.core.last
        finally:
            self.running = False
        return marks

    def add(self, Batch batch not None):
        """Count the codes of a batch, as far as their hashes are among those that are counted."""
        cdef const uint8_t* const* codes = batch._codes()
        cdef size_t i, count = batch.count
        cdef bint added = True
        self._enter()
        try:
            with nogil:
                for i in range(count):
                    added = fc_distinct_add(&self.core, codes[i] + FC_LENGTH_BYTES, fc_arena_length(codes[i]))
                    if not added:
                        break
        finally:
            self.running = False
        if not added:
            raise MemoryError

    def count(self):
        """Return how many codes were added, each counted once."""
        self._enter()
        try:
            with nogil:
                fc_distinct_settle(&self.core)
        finally:
            self.running = False
        return self.core.len

    cdef int _enter(self) except -1:
        if self.running:
            raise RuntimeError("the codes are counted in another thread")
        self.running = True
        return 0


@cython.final
cdef class WriteReply:
    """What the reply to an `insert` or `update` command says; made by read_write_reply.

    upserted: length of the `upserted` array. duplicates: `index` of each write error of code 11000
    (DuplicateKey), in the reply's order. other_errors: number of write errors of other codes.
    first_other_error: (`index`, `code`) of the first of those. write_concern_error: `code` of
    `writeConcernError`, 0 if it has none; None if there is no write concern error.
    """

    cdef readonly bint ok
    cdef readonly object n, n_modified, upserted, other_errors, first_other_error, write_concern_error
    cdef readonly list duplicates

    def __cinit__(self):
        self.n = self.n_modified = self.upserted = self.other_errors = 0
        self.duplicates = []

    def __repr__(self):
        return (
            f"<WriteReply ok={self.ok} n={self.n} n_modified={self.n_modified} upserted={self.upserted} "
            f"duplicates={len(self.duplicates)} other_errors={self.other_errors} "
            f"first_other_error={self.first_other_error} write_concern_error={self.write_concern_error}>"
        )


def read_write_reply(bytes reply not None):
    """Read the raw BSON of a write command's reply without an object per element.

    Numbers may be int32, int64 or double. Fields that are not asked for are skipped, and of documents in them
    only the edges are checked. Raises ValueError if it is not BSON, or a field asked for has another type.
    """
    cdef fc_reply r
    cdef fc_reply_status status
    cdef WriteReply result
    cdef size_t i, size = len(reply)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(reply)
    with nogil:
        status = fc_read_reply(at, size, &r)
    try:
        if status == FC_REPLY_NO_MEMORY:
            raise MemoryError
        if status == FC_REPLY_INVALID:
            raise ValueError("not the BSON of a reply to a write command")
        result = WriteReply.__new__(WriteReply)
        result.ok = r.ok
        result.n = r.n
        result.n_modified = r.n_modified
        result.upserted = r.upserted
        result.duplicates = [r.duplicates[i] for i in range(r.duplicate_count)]
        result.other_errors = r.other_errors
        result.first_other_error = (r.first_other_index, r.first_other_code) if r.other_errors else None
        result.write_concern_error = r.write_concern_error if r.has_write_concern_error else None
    finally:
        fc_reply_free(&r)
    return result


def instruction_sets():
    """Names of the instruction sets that the parser can use on this processor, the best first."""
    cdef size_t i
    names = [
        fc_instruction_sets[i].name.decode() for i in range(FC_INSTRUCTION_SETS) if fc_instruction_sets[i].available()
    ]
    return tuple(names)


cdef const fc_instruction_set* _instructions(str name) except NULL:
    cdef size_t i
    for i in range(FC_INSTRUCTION_SETS):
        if fc_instruction_sets[i].available() and name in (None, fc_instruction_sets[i].name.decode()):
            return &fc_instruction_sets[i]
    raise ValueError("instruction_set must be one of instruction_sets()")


cdef bytes _encoded(str name, str value):
    cdef bytes encoded = value.encode()
    if not 1 <= len(encoded) <= 1024:
        raise ValueError(f"{name} must be 1 to 1024 bytes of UTF-8")
    return encoded


cdef object _bounded(str name, value, low, high):
    value = as_index(value)
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}")
    return value


cdef object _new_bytes(size_t size):
    cdef PyObject* made = PyBytes_FromStringAndSize(NULL, size)
    result = <object>made
    Py_XDECREF(made)
    return result


cdef size_t _position(value, size_t count, size_t least=0) except? 0:
    value = as_index(value)
    if not least <= value < count:
        raise IndexError("no such code in this batch")
    return value
