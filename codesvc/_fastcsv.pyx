# cython: auto_pickle=False, autotestdict=False
"""The native core: CSV bytes in, batches of encoded BSON documents out; and the replies to them, counted.

The work is done in plain C (_fastcsv_core.h and what it includes) with the GIL released. What is here allocates buffers,
hands them out, and turns outcomes into Python objects.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from operator import index as as_index


cdef extern from *:
    """
    /* A bytes object whose only reference is the one of the list that it was found in. Without the GIL a second thread
     * could be about to take another. */
    static int fc_bytes_is_free(PyObject *bytes) {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        return Py_REFCNT(bytes) == 1;
    #endif
    }

    /* Makes it look new: of that size, at most the one it was made with, and with no hash remembered. */
    static void fc_bytes_reset(PyObject *bytes, size_t size) {
        Py_SET_SIZE((PyVarObject *)bytes, (Py_ssize_t)size);
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        ((PyBytesObject *)bytes)->ob_shash = -1;
    #pragma GCC diagnostic pop
    }
    """
    bint fc_bytes_is_free(PyObject*) noexcept
    void fc_bytes_reset(PyObject*, size_t) noexcept


cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    PyObject* PyList_GET_ITEM(list, Py_ssize_t)


cdef extern from "_fastcsv_core.h":
    ctypedef struct fc_template:
        size_t document_fixed
        size_t statement_fixed
        size_t head_len

    bint fc_template_init(fc_template*, const uint8_t*, size_t, const uint8_t*, size_t, int64_t) noexcept nogil
    void fc_template_free(fc_template*) noexcept nogil
    uint8_t* fc_put_statement(const fc_template*, uint8_t*, const uint8_t*) noexcept nogil
    uint32_t fc_get_u32(const uint8_t*) noexcept nogil

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
        FC_BATCH_FULL
        FC_NO_MEMORY

    ctypedef enum fc_failure:
        FC_NO_FAILURE
        FC_INVALID_ROW
        FC_NOT_CSV

    ctypedef struct fc_sample:
        uint64_t line
        fc_fault fault

    ctypedef struct fc_options:
        bint header
        bint strict
        bint sort
        size_t max_batch_codes
        size_t max_batch_bytes
        size_t max_code_bytes
        size_t max_samples
        uint64_t max_row_bytes

    ctypedef struct fc_extractor:
        fc_options options
        fc_template bson
        size_t batch_codes
        uint64_t codes
        uint64_t invalid_count
        fc_sample* samples
        fc_failure failure
        fc_sample failed

    ctypedef struct fc_instruction_set:
        const char* name
        bint (*available)() noexcept nogil

    const fc_instruction_set* fc_instruction_sets
    const size_t FC_INSTRUCTION_SETS
    const size_t FC_OVERRUN

    bint fc_init(fc_extractor*, const fc_options*, const fc_instruction_set*, const uint8_t*, size_t, const uint8_t*,
                 size_t, int64_t) noexcept nogil
    void fc_free(fc_extractor*) noexcept nogil
    fc_status fc_feed(fc_extractor*, const uint8_t**, const uint8_t*) noexcept nogil
    fc_status fc_finish(fc_extractor*) noexcept nogil
    size_t fc_document_bytes(const fc_extractor*) noexcept nogil
    size_t fc_statement_bytes(const fc_extractor*) noexcept nogil
    bint fc_write_batch(fc_extractor*, uint8_t*) noexcept nogil


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
    (without its line end) is a failure. max_samples: how many invalid rows are described. sort: each batch is
    sorted by its codes' bytes, for which an index thanks; otherwise it is in file order. instruction_set: one
    of instruction_sets() instead of the best; the results are the same.

    Raises ValueError if an argument is out of range.
    """

    cdef fc_extractor core
    cdef bint running, closed
    cdef _Encoding encoding
    cdef _Buffers buffers

    def __cinit__(self, *, str campaign_id not None, str code_type not None, saved_ms, bint header=False,
                  bint strict=False, max_batch_codes=50_000, max_batch_bytes=47_000_000, max_code_bytes=256,
                  max_row_bytes=4 << 20, max_samples=100, bint sort=False, str instruction_set=None):
        cdef bytes campaign = _encoded("campaign_id", campaign_id)
        cdef bytes type_ = _encoded("code_type", code_type)
        cdef int64_t saved = _bounded("saved_ms", saved_ms, -(1 << 63), (1 << 63) - 1)
        cdef fc_options options
        options.header = header
        options.strict = strict
        options.sort = sort
        options.max_batch_codes = _bounded("max_batch_codes", max_batch_codes, 1, (1 << 31) - 1)
        options.max_batch_bytes = _bounded("max_batch_bytes", max_batch_bytes, 1, (1 << 31) - 1)
        options.max_code_bytes = _bounded("max_code_bytes", max_code_bytes, 1, 1 << 20)
        options.max_row_bytes = _bounded("max_row_bytes", max_row_bytes, 1, 1 << 40)
        options.max_samples = _bounded("max_samples", max_samples, 0, 1_000_000)
        self.encoding = _Encoding(campaign, type_, saved)
        self.buffers = _Buffers()
        if not fc_init(&self.core, &options, _instructions(instruction_set), campaign, len(campaign), type_,
                       len(type_), saved):
            raise MemoryError
        if self.core.bson.statement_fixed + options.max_code_bytes > options.max_batch_bytes:
            raise ValueError("max_batch_bytes has no room for one code of max_code_bytes")

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
            if self.core.batch_codes:
                self._hand_out(FC_BATCH_FULL, batches)
        finally:
            self.running = False
        return batches

    @property
    def codes(self):
        """Valid codes accepted so far."""
        return self.core.codes

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
        cdef Batch batch
        cdef uint8_t* out
        cdef bint written
        if status == FC_NO_MEMORY:
            raise MemoryError
        batch = Batch.__new__(Batch)
        batch.count = self.core.batch_codes
        batch.statement_bytes = fc_statement_bytes(&self.core)
        batch.encoding = self.encoding
        batch.encoded = self.buffers.take(fc_document_bytes(&self.core))
        out = <uint8_t*>PyBytes_AS_STRING(batch.encoded)
        with nogil:
            written = fc_write_batch(&self.core, out)
        if not written:
            raise MemoryError
        out[len(batch.encoded)] = 0  # bytes end with a NUL that is not counted, and the writer has overrun it
        batches.append(batch)
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
            if fc_bytes_is_free(buffer):
                fc_bytes_reset(buffer, size)
                return <bytes>buffer
        buffer = PyBytes_FromStringAndSize(NULL, self.room)
        result = <bytes>buffer
        Py_XDECREF(buffer)
        self.buffers.append(result)
        fc_bytes_reset(buffer, size)
        return result


@cython.final
cdef class Batch:
    """Codes of one bulk write, encoded. Immutable; made by an Extractor."""

    cdef size_t count, statement_bytes
    cdef bytes encoded
    cdef _Encoding encoding

    def __cinit__(self):
        self.encoded = b""

    def __len__(self):
        return self.count

    @property
    def documents(self):
        """Concatenated documents for an `insert` command; the same object each time.

        `{_id: {campaign_id, code}, type, date: {saved}}`; https://bsonspec.org/spec.html.
        """
        return self.encoded

    def upserts(self, indexes=None):
        """Concatenated statements for an `update` command: for all codes, or those at `indexes`, in that order.

        `{q: {_id}, u: {$set: {type}, $setOnInsert: {date: {saved}}}, upsert: true}`: for a new code it makes the
        document that an insert makes. Raises IndexError if an index is not 0 to len() - 1.
        """
        cdef const uint8_t* document
        cdef const fc_template* bson
        cdef const uint8_t** documents = NULL
        cdef uint8_t* out
        cdef size_t i, size, wanted
        if self.encoding is None:
            raise ValueError("not a batch of an Extractor")
        bson = &self.encoding.bson
        document = <const uint8_t*>PyBytes_AS_STRING(self.encoded)
        if indexes is None:
            result = <bytes>_new_bytes(self.statement_bytes)
            out = <uint8_t*>PyBytes_AS_STRING(result)
            with nogil:
                for i in range(self.count):
                    out = fc_put_statement(bson, out, document)
                    document += fc_get_u32(document)
            return result
        wanted = len(indexes)
        documents = <const uint8_t**>malloc((self.count + wanted) * sizeof(const uint8_t*) + 1)
        if documents is NULL:
            raise MemoryError
        try:
            for i in range(self.count):
                documents[i] = document
                document += fc_get_u32(document)
            size = 0
            for i in range(wanted):
                document = documents[_position(indexes[i], self.count)]
                documents[self.count + i] = document
                size += fc_get_u32(document) - bson.document_fixed + bson.statement_fixed
            result = <bytes>_new_bytes(size)
            out = <uint8_t*>PyBytes_AS_STRING(result)
            with nogil:
                for i in range(wanted):
                    out = fc_put_statement(bson, out, documents[self.count + i])
        finally:
            free(documents)
        return result

    def codes(self):
        """All codes, decoded."""
        cdef const uint8_t* document
        cdef size_t i, len_
        cdef list codes = []
        document = <const uint8_t*>PyBytes_AS_STRING(self.encoded)
        for i in range(self.count):
            len_ = fc_get_u32(document)
            codes.append((<const char*>document + self.encoding.bson.head_len)
                         [:len_ - self.encoding.bson.document_fixed].decode("utf-8"))
            document += len_
        return codes

    def __repr__(self):
        return f"<Batch of {self.count} codes, {len(self.encoded)} bytes>"


@cython.final
cdef class _Encoding:
    """The template, shared by the batches of one extractor, which may be gone before they are."""

    cdef fc_template bson

    def __cinit__(self, bytes campaign not None, bytes type_ not None, int64_t saved_ms):
        if not fc_template_init(&self.bson, campaign, len(campaign), type_, len(type_), saved_ms):
            raise MemoryError

    def __dealloc__(self):
        fc_template_free(&self.bson)


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


cdef size_t _position(value, size_t count) except? 0:
    value = as_index(value)
    if not 0 <= value < count:
        raise IndexError("no such code in this batch")
    return value
