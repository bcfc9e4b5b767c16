/* Preloaded into a process, fails one call of those that write files, or that allocate memory.

   The number of the call counts over all processes that are watched: the one that calls
   faults_watch, and what it starts. They share a file, which FAULTS_STATE names. */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILES = 1, MEMORY = 2 };

struct state {
    _Atomic long count; /* calls so far */
    long at;            /* the call that fails, from 1 on; 0 is none */
    long kind;          /* FILES or MEMORY */
};

static struct state *state;
static int is_watched;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void faults_watch(void) { is_watched = 1; }

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULTS_STATE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return;
    state = memory;
    is_watched = getenv("FAULTS_WATCHED") != NULL;
}

static int fails(long kind, int error) {
    if (!is_watched || !state || state->kind != kind) return 0;
    if (atomic_fetch_add(&state->count, 1) + 1 != state->at) return 0;
    errno = error;
    return 1;
}

/* Pipes and terminals are no disks; what the program says is no result. */
static int is_regular(int file) {
    if (file <= STDERR_FILENO) return 0;
    struct stat found;
    int before = errno, regular = fstat(file, &found) == 0 && S_ISREG(found.st_mode);
    errno = before;
    return regular;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITES(result, name, parameters, arguments, file) \
    result name parameters { \
        NEXT(name); \
        if (is_watched && is_regular(file) && fails(FILES, ENOSPC)) return -1; \
        return next arguments; \
    }

WRITES(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), f)
WRITES(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), f)
WRITES(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), f)
WRITES(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), f)
WRITES(int, ftruncate, (int f, off_t n), (f, n), f)
WRITES(int, ftruncate64, (int f, off64_t n), (f, n), f)
WRITES(int, fchmod, (int f, mode_t m), (f, m), f)

#define CHANGES(name, parameters, arguments, error) \
    int name parameters { \
        NEXT(name); \
        if (fails(FILES, error)) return -1; \
        return next arguments; \
    }

CHANGES(fsync, (int f), (f), EIO)
CHANGES(fdatasync, (int f), (f), EIO)
CHANGES(rename, (const char *a, const char *b), (a, b), ENOSPC)
CHANGES(renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), ENOSPC)
CHANGES(mkdir, (const char *p, mode_t m), (p, m), ENOSPC)
CHANGES(mkdirat, (int d, const char *p, mode_t m), (d, p, m), ENOSPC)
CHANGES(chmod, (const char *p, mode_t m), (p, m), EIO)
CHANGES(chown, (const char *p, uid_t u, gid_t g), (p, u, g), EIO)
CHANGES(memfd_create, (const char *p, unsigned int f), (p, f), ENOMEM)

#define OPENS(name, parameters, arguments) \
    int name parameters { \
        mode_t mode = 0; \
        NEXT(name); \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(FILES, ENOSPC)) return -1; \
        return next arguments; \
    }

OPENS(open, (const char *p, int flags, ...), (p, flags, mode))
OPENS(open64, (const char *p, int flags, ...), (p, flags, mode))
OPENS(openat, (int d, const char *p, int flags, ...), (d, p, flags, mode))
OPENS(openat64, (int d, const char *p, int flags, ...), (d, p, flags, mode))

#define STREAMS(name) \
    FILE *name(const char *p, const char *mode) { \
        NEXT(name); \
        if (strpbrk(mode, "wa+") && fails(FILES, ENOSPC)) return NULL; \
        return next(p, mode); \
    }

STREAMS(fopen)
STREAMS(fopen64)

size_t fwrite(const void *b, size_t size, size_t n, FILE *f) {
    NEXT(fwrite);
    if (is_watched && is_regular(fileno(f)) && fails(FILES, ENOSPC)) return 0;
    return next(b, size, n, f);
}

void *malloc(size_t n) { return fails(MEMORY, ENOMEM) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return fails(MEMORY, ENOMEM) ? NULL : __libc_calloc(n, m); }
void *realloc(void *p, size_t n) {
    return n && fails(MEMORY, ENOMEM) ? NULL : __libc_realloc(p, n);
}
void *memalign(size_t a, size_t n) {
    return fails(MEMORY, ENOMEM) ? NULL : __libc_memalign(a, n);
}
void *aligned_alloc(size_t a, size_t n) { return memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    if (fails(MEMORY, ENOMEM)) return ENOMEM;
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}

#define MAPS(name, offset) \
    void *name(void *p, size_t n, int how, int flags, int file, offset at) { \
        NEXT(name); \
        if ((flags & MAP_ANONYMOUS) && fails(MEMORY, ENOMEM)) return MAP_FAILED; \
        return next(p, n, how, flags, file, at); \
    }

MAPS(mmap, off_t)
MAPS(mmap64, off64_t)
