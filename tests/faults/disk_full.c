/* Loaded into mongod before the C library (ld.so(8), LD_PRELOAD): while the file that FAULTS_DISK_FULL names is there,
   no regular file grows or changes, as on a full disk. What goes to sockets and to the log, by write(2), passes. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int full(void) {
    const char *sign = getenv("FAULTS_DISK_FULL");
    return sign != NULL && access(sign, F_OK) == 0;
}

#define REFUSED(name, result, parameters, arguments)                                   \
    result name parameters {                                                           \
        static result(*real) parameters;                                               \
        if (full()) {                                                                  \
            errno = ENOSPC;                                                            \
            return -1;                                                                 \
        }                                                                              \
        if (real == NULL) {                                                            \
            real = (result(*) parameters)dlsym(RTLD_NEXT, #name);                      \
        }                                                                              \
        return real arguments;                                                         \
    }

REFUSED(pwrite, ssize_t, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at))
REFUSED(pwrite64, ssize_t, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at))
REFUSED(fallocate, int, (int file, int mode, off_t at, off_t length), (file, mode, at, length))
REFUSED(fallocate64, int, (int file, int mode, off64_t at, off64_t length), (file, mode, at, length))
