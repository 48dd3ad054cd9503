/*
 * Preloaded into a program, writes down what it does to the files of one directory, so that the tests
 * can tell what a power cut at any moment would have left there (power.rs, which has the format).
 *
 * POWER_DIR: the directory, without links. POWER_LOG: the log, outside of it, appended to.
 * POWER_SYNC_MS: before each sync of such a file waits for so long: a slow disk.
 *
 * A change and its record are one step under a lock, so records stand in the order of the changes. A
 * sync is recorded when it has ended, with the time at which it began: what was written meanwhile may
 * not be in it. What is written through a mapping is not seen: SQLite maps only its -shm files, which
 * it builds anew after a crash.
 */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536

/* One record: this head, then the first path, then the second path or the bytes written. */
struct head {
    uint64_t at_ns;    /* CLOCK_MONOTONIC after the change */
    uint64_t began_ns; /* of a sync: before it */
    uint64_t offset;   /* of a write; size of a truncation */
    uint64_t n_bytes;  /* length of what follows the first path */
    uint32_t n_path;
    uint32_t pid;
    uint32_t what; /* 'c' made, 't' size set, 'w' written, 's' synced, 'r' renamed, 'u' removed, 'd' directory */
    uint32_t magic;
};

#define MAGIC 0x72777067u /* "gpwr" */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char *paths[FDS_MAX];
static char dir[PATH_MAX];
static size_t n_dir;
static int out = -1;
static long sync_ms;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fallocate)(int, int, off64_t, off64_t);
static int (*real_posix_fallocate)(int, off64_t, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_renameat2)(int, const char *, int, const char *, unsigned);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_mkdirat)(int, const char *, mode_t);

static void fail(const char *what) {
    fprintf(stderr, "power.c: %s: %s\n", what, strerror(errno));
    abort();
}

static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) fail(name);
    return found;
}

static void start(void) {
    const char *at = getenv("POWER_DIR"), *log = getenv("POWER_LOG"), *ms = getenv("POWER_SYNC_MS");
    real_write = find("write");
    real_pwrite = find("pwrite64");
    real_writev = find("writev");
    real_pwritev = find("pwritev64");
    real_openat = find("openat64");
    real_close = find("close");
    real_ftruncate = find("ftruncate64");
    real_fallocate = find("fallocate64");
    real_posix_fallocate = find("posix_fallocate64");
    real_fsync = find("fsync");
    real_fdatasync = find("fdatasync");
    real_renameat2 = find("renameat2");
    real_unlinkat = find("unlinkat");
    real_mkdirat = find("mkdirat");
    sync_ms = ms ? atol(ms) : 0;
    if (!at || strlen(at) >= sizeof dir) return;
    n_dir = strlen(strcpy(dir, at));
    if (log) {
        out = real_openat(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (out < 0) fail(log);
    }
}

static void ready(void) { pthread_once(&once, start); }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int is_ours(const char *path) {
    return n_dir && !strncmp(path, dir, n_dir) && (path[n_dir] == '/' || !path[n_dir]);
}

/* The full path of a name, whose last part need not exist; 0 when it is none of ours. */
static int full(int at, const char *name, char *to) {
    char parent[PATH_MAX], link[64];
    const char *last;
    if (!n_dir) return 0;
    if (name[0] != '/') {
        ssize_t n;
        if (at == AT_FDCWD) {
            if (!getcwd(parent, sizeof parent)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            n = readlink(link, parent, sizeof parent - 1);
            if (n < 0) return 0;
            parent[n] = 0;
        }
        if (snprintf(to, PATH_MAX, "%s/%s", parent, name) >= PATH_MAX) return 0;
    } else if (snprintf(to, PATH_MAX, "%s", name) >= PATH_MAX) {
        return 0;
    }
    /* The directory may be named through links: resolve all but the last part. */
    last = strrchr(to, '/');
    if (last && last != to && last[1]) {
        char copy[PATH_MAX], whole[PATH_MAX];
        size_t n = (size_t)(last - to);
        memcpy(copy, to, n);
        copy[n] = 0;
        if (realpath(copy, whole)) {
            char name_only[PATH_MAX];
            snprintf(name_only, sizeof name_only, "%s", last + 1);
            if (strlen(whole) + strlen(name_only) + 2 > PATH_MAX) return 0;
            strcpy(to, whole);
            strcat(to, "/");
            strcat(to, name_only);
        }
    }
    return is_ours(to);
}

static void put(const void *bytes, size_t n) {
    const char *from = bytes;
    while (n) {
        ssize_t done = real_write(out, from, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) fail("the log cannot be written");
        from += done;
        n -= (size_t)done;
    }
}

/* Writes a record; the lock is held. `bytes` may be NULL, then the parts of `iov` are the bytes. */
static void note(uint32_t what, const char *path, uint64_t began, uint64_t offset, const void *bytes,
                 uint64_t n, const struct iovec *iov) {
    struct head head = {now_ns(), began, offset, n, (uint32_t)strlen(path), (uint32_t)getpid(), what, MAGIC};
    int kept = errno;
    if (out >= 0) {
        put(&head, sizeof head);
        put(path, head.n_path);
        if (bytes) put(bytes, n);
        for (; !bytes && iov && n; iov++) {
            size_t part = iov->iov_len < n ? iov->iov_len : (size_t)n;
            put(iov->iov_base, part);
            n -= part;
        }
    }
    errno = kept;
}

static const char *of(int fd) {
    return fd >= 0 && fd < FDS_MAX ? paths[fd] : NULL;
}

static void forget(int fd) {
    if (fd >= 0 && fd < FDS_MAX && paths[fd]) {
        free(paths[fd]);
        paths[fd] = NULL;
    }
}

static int do_open(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat64 known;
    int fd, is_new;
    ready();
    if (!full(at, name, path)) {
        return real_openat(at, name, flags, mode);
    }
    pthread_mutex_lock(&lock);
    is_new = (flags & O_CREAT) && lstat64(path, &known) != 0;
    fd = real_openat(at, name, flags, mode);
    if (fd >= 0) {
        if (fd >= FDS_MAX) fail("too many files");
        forget(fd);
        paths[fd] = strdup(path);
        if (is_new) note('c', path, 0, 0, NULL, 0, NULL);
        else if ((flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) note('t', path, 0, 0, NULL, 0, NULL);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, mode)                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                  \
        va_list more;                                       \
        va_start(more, flags);                              \
        mode = va_arg(more, mode_t);                        \
        va_end(more);                                       \
    }

int open(const char *name, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode)
    return do_open(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode)
    return do_open(AT_FDCWD, name, flags, mode);
}

int openat(int at, const char *name, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode)
    return do_open(at, name, flags, mode);
}

int openat64(int at, const char *name, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode)
    return do_open(at, name, flags, mode);
}

int creat(const char *name, mode_t mode) { return do_open(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return do_open(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    int done;
    ready();
    if (!of(fd)) return real_close(fd);
    pthread_mutex_lock(&lock);
    forget(fd);
    done = real_close(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    ssize_t done;
    off64_t end;
    ready();
    if (!of(fd)) return real_write(fd, bytes, n);
    pthread_mutex_lock(&lock);
    done = real_write(fd, bytes, n);
    end = lseek64(fd, 0, SEEK_CUR);
    if (done > 0 && end >= done) note('w', of(fd), 0, (uint64_t)(end - done), bytes, (uint64_t)done, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t writev(int fd, const struct iovec *iov, int n) {
    ssize_t done;
    off64_t end;
    ready();
    if (!of(fd)) return real_writev(fd, iov, n);
    pthread_mutex_lock(&lock);
    done = real_writev(fd, iov, n);
    end = lseek64(fd, 0, SEEK_CUR);
    if (done > 0 && end >= done) note('w', of(fd), 0, (uint64_t)(end - done), NULL, (uint64_t)done, iov);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t do_pwrite(int fd, const void *bytes, size_t n, off64_t at) {
    ssize_t done;
    ready();
    if (!of(fd)) return real_pwrite(fd, bytes, n, at);
    pthread_mutex_lock(&lock);
    done = real_pwrite(fd, bytes, n, at);
    if (done > 0) note('w', of(fd), 0, (uint64_t)at, bytes, (uint64_t)done, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return do_pwrite(fd, bytes, n, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { return do_pwrite(fd, bytes, n, at); }

static ssize_t do_pwritev(int fd, const struct iovec *iov, int n, off64_t at) {
    ssize_t done;
    ready();
    if (!of(fd)) return real_pwritev(fd, iov, n, at);
    pthread_mutex_lock(&lock);
    done = real_pwritev(fd, iov, n, at);
    if (done > 0) note('w', of(fd), 0, (uint64_t)at, NULL, (uint64_t)done, iov);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at) { return do_pwritev(fd, iov, n, at); }
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at) { return do_pwritev(fd, iov, n, at); }

static int do_ftruncate(int fd, off64_t size) {
    int done;
    ready();
    if (!of(fd)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    done = real_ftruncate(fd, size);
    if (!done) note('t', of(fd), 0, (uint64_t)size, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return do_ftruncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return do_ftruncate(fd, size); }

/* What an allocation that succeeded did to the size. */
static void grown(int fd, off64_t end) {
    struct stat64 now;
    if (!fstat64(fd, &now) && now.st_size <= end) note('t', of(fd), 0, (uint64_t)now.st_size, NULL, 0, NULL);
}

static int do_fallocate(int fd, int mode, off64_t at, off64_t n) {
    int done;
    ready();
    if (!of(fd)) return real_fallocate(fd, mode, at, n);
    pthread_mutex_lock(&lock);
    done = real_fallocate(fd, mode, at, n);
    if (!done) grown(fd, at + n);
    pthread_mutex_unlock(&lock);
    return done;
}

int fallocate(int fd, int mode, off_t at, off_t n) { return do_fallocate(fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return do_fallocate(fd, mode, at, n); }

static int do_posix_fallocate(int fd, off64_t at, off64_t n) {
    int done;
    ready();
    if (!of(fd)) return real_posix_fallocate(fd, at, n);
    pthread_mutex_lock(&lock);
    done = real_posix_fallocate(fd, at, n);
    if (!done) grown(fd, at + n);
    pthread_mutex_unlock(&lock);
    return done;
}

int posix_fallocate(int fd, off_t at, off_t n) { return do_posix_fallocate(fd, at, n); }
int posix_fallocate64(int fd, off64_t at, off64_t n) { return do_posix_fallocate(fd, at, n); }

static int do_sync(int fd, int (*real)(int)) {
    uint64_t began;
    int done;
    char path[PATH_MAX];
    ready();
    if (!of(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    snprintf(path, sizeof path, "%s", of(fd));
    began = now_ns();
    pthread_mutex_unlock(&lock);
    if (sync_ms > 0) {
        struct timespec wait = {sync_ms / 1000, sync_ms % 1000 * 1000000};
        while (nanosleep(&wait, &wait) != 0 && errno == EINTR) {}
    }
    done = real(fd);
    if (!done) {
        pthread_mutex_lock(&lock);
        note('s', path, began, 0, NULL, 0, NULL);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int fsync(int fd) {
    ready();
    return do_sync(fd, real_fsync);
}

int fdatasync(int fd) {
    ready();
    return do_sync(fd, real_fdatasync);
}

/* Starts or waits for writing, and promises nothing of what is there after a power cut: no record. */

static int do_rename(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    int done, is_old, is_new, fd;
    ready();
    is_old = full(from_at, from, old);
    is_new = full(to_at, to, new);
    if (!is_old && !is_new) return real_renameat2(from_at, from, to_at, to, flags);
    if (!is_old || !is_new) {
        fprintf(stderr, "power.c: %s becomes %s: only one of them is watched\n", from, to);
        abort();
    }
    pthread_mutex_lock(&lock);
    done = real_renameat2(from_at, from, to_at, to, flags);
    if (!done) {
        note('r', old, 0, 0, new, strlen(new), NULL);
        for (fd = 0; fd < FDS_MAX; fd++) {
            if (paths[fd] && !strcmp(paths[fd], old)) {
                free(paths[fd]);
                paths[fd] = strdup(new);
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return do_rename(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return do_rename(a, from, b, to, flags);
}

static int do_unlink(int at, const char *name, int flags) {
    char path[PATH_MAX];
    int done;
    ready();
    if (!full(at, name, path)) return real_unlinkat(at, name, flags);
    pthread_mutex_lock(&lock);
    done = real_unlinkat(at, name, flags);
    if (!done) note('u', path, 0, 0, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *name) { return do_unlink(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return do_unlink(at, name, flags); }
int rmdir(const char *name) { return do_unlink(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
    int done = do_unlink(AT_FDCWD, name, 0);
    return done && errno == EISDIR ? do_unlink(AT_FDCWD, name, AT_REMOVEDIR) : done;
}

static int do_mkdir(int at, const char *name, mode_t mode) {
    char path[PATH_MAX];
    int done;
    ready();
    if (!full(at, name, path)) return real_mkdirat(at, name, mode);
    pthread_mutex_lock(&lock);
    done = real_mkdirat(at, name, mode);
    if (!done) note('d', path, 0, 0, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int mkdir(const char *name, mode_t mode) { return do_mkdir(AT_FDCWD, name, mode); }
int mkdirat(int at, const char *name, mode_t mode) { return do_mkdir(at, name, mode); }
