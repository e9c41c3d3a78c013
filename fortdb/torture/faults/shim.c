/* Stands between a node and the C library (LD_PRELOAD), so that one process can be given a wrong clock,
 * a slow or full disk, and a loss of power.
 *
 * Three variables name what it works on: TORTURE_CONTROL, a file with `struct control` that the torture
 * writes while the process runs; TORTURE_ROOT, the data directory; TORTURE_JOURNAL, to which it writes one
 * line for everything below the root that is on the disk now:
 *
 *   S size path    a file was synced; `size` is what it had BEFORE the sync began
 *   D path         a directory was synced, with the names that it had, one line each:
 *   E name
 *   R old<TAB>new  renamed
 *   U path         removed
 *   T size path    cut
 *
 * Of what is written over bytes that a file has already, sizes say nothing. So these bytes are kept first, in
 * a file beside the journal that is named after the inode, as `struct former` and the bytes, one after the
 * other; it goes when the file is synced. A write that another thread makes during that very sync counts as
 * synced.
 *
 * fsync and fdatasync put a file's content on the disk. sync_file_range does not: it writes no metadata
 * and waits for no cache of the disk (sync_file_range(2)). A name is on the disk when its directory was
 * synced. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int64_t realtime_offset_ns;
    volatile uint32_t sync_delay_us;
    volatile uint32_t disk_is_full;
};

#define REAL(name) ((__typeof__(&name))real(&pointer_##name, #name))
#define POINTER(name) static void *pointer_##name

static const struct control none;
static const struct control *control = &none;
struct former {
    int64_t offset;
    int64_t length;
};

static char root[PATH_MAX];
static char journal_at[PATH_MAX];
static size_t root_length;
static int journal = -1;

static void *real(void **pointer, const char *name) {
    if (*pointer == NULL) *pointer = dlsym(RTLD_NEXT, name);
    return *pointer;
}

POINTER(write);
POINTER(writev);
POINTER(pwrite);
POINTER(pwrite64);
POINTER(pwritev);
POINTER(pwritev64);
POINTER(pwritev2);
POINTER(pwritev64v2);
POINTER(fsync);
POINTER(fdatasync);
POINTER(fallocate);
POINTER(fallocate64);
POINTER(posix_fallocate);
POINTER(ftruncate);
POINTER(ftruncate64);
POINTER(rename);
POINTER(renameat);
POINTER(unlink);
POINTER(unlinkat);
POINTER(clock_gettime);
POINTER(gettimeofday);
POINTER(time);
POINTER(statvfs);
POINTER(statvfs64);
POINTER(fstatvfs);
POINTER(fstatvfs64);

__attribute__((constructor)) static void begin(void) {
    const char *control_path = getenv("TORTURE_CONTROL"), *journal_path = getenv("TORTURE_JOURNAL");
    const char *root_path = getenv("TORTURE_ROOT");
    if (control_path == NULL || journal_path == NULL || root_path == NULL) return;
    int file = open(control_path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *page = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) return;
    journal = open(journal_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    snprintf(root, sizeof root, "%s", root_path);
    snprintf(journal_at, sizeof journal_at, "%s", journal_path);
    root_length = strlen(root);
    control = page;
}

/* --- what is below the root ------------------------------------------------------------------------- */

static int is_below(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == '\0');
}

static int path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
    return is_below(path);
}

/* `name` as seen from the directory `at`, whole. */
static int whole(int at, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return is_below(path);
    }
    char directory[PATH_MAX];
    if (at == AT_FDCWD) {
        if (getcwd(directory, sizeof directory) == NULL) return 0;
    } else {
        path_of(at, directory);
    }
    size_t length = strlen(directory);
    if (length + 1 + strlen(name) >= PATH_MAX) return 0;
    memcpy(path, directory, length);
    path[length] = '/';
    strcpy(path + length + 1, name);
    return is_below(path);
}

/* One write a line, or a group of lines, so that threads do not mix theirs. */
static void note(const char *text, size_t length) {
    int kept = errno;
    if (journal >= 0 && REAL(write)(journal, text, length) != (ssize_t)length) abort();
    errno = kept;
}

static void note_path(char kind, long long size, const char *path) {
    char line[PATH_MAX + 32];
    int length = size < 0 ? snprintf(line, sizeof line, "%c %s\n", kind, path)
                          : snprintf(line, sizeof line, "%c %lld %s\n", kind, size, path);
    note(line, (size_t)length);
}

/* --- what was there before it was written over ------------------------------------------------------- */

static void former_path(ino_t inode, char *path) {
    snprintf(path, PATH_MAX, "%.*s.former-%llu", PATH_MAX - 40, journal_at, (unsigned long long)inode);
}

static void keep_former(int file, size_t size, off64_t offset) {
    char path[PATH_MAX];
    struct stat now;
    if (journal < 0 || !path_of(file, path) || fstat(file, &now) != 0 || offset >= now.st_size) return;
    if (offset + (off64_t)size > now.st_size) size = (size_t)(now.st_size - offset);
    struct former *kept = malloc(sizeof *kept + size);
    ssize_t length = pread64(file, kept + 1, size, offset);
    if (length < 0) { /* opened for writing only */
        int again = open(path, O_RDONLY | O_CLOEXEC);
        length = pread64(again, kept + 1, size, offset);
        close(again);
    }
    if (length != (ssize_t)size) abort();
    kept->offset = offset;
    kept->length = length;
    former_path(now.st_ino, path);
    int to = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (to < 0 || REAL(write)(to, kept, sizeof *kept + size) != (ssize_t)(sizeof *kept + size)) abort();
    close(to);
    free(kept);
}

static void forget_former(const struct stat *file) {
    char path[PATH_MAX];
    int kept = errno;
    former_path(file->st_ino, path);
    REAL(unlink)(path);
    errno = kept;
}

static size_t size_of(const struct iovec *parts, int count) {
    size_t size = 0;
    for (int part = 0; part < count; part++) size += parts[part].iov_len;
    return size;
}

/* --- syncing ---------------------------------------------------------------------------------------- */

/* The lines for a directory, made before it is synced: what it holds by then is on the disk afterwards. */
static char *listing(const char *path, size_t *length) {
    DIR *directory = opendir(path);
    if (directory == NULL) return NULL;
    size_t room = strlen(path) + 16;
    char *text = malloc(room);
    *length = (size_t)sprintf(text, "D %s\n", path);
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        size_t needed = strlen(entry->d_name) + 4;
        text = realloc(text, room += needed);
        *length += (size_t)sprintf(text + *length, "E %s\n", entry->d_name);
    }
    closedir(directory);
    return text;
}

static int synced(int file, int (*sync)(int)) {
    char path[PATH_MAX];
    struct stat before;
    if (journal < 0 || !path_of(file, path) || fstat(file, &before) != 0) return sync(file);
    size_t length = 0;
    char *names = S_ISDIR(before.st_mode) ? listing(path, &length) : NULL;
    if (control->sync_delay_us) usleep(control->sync_delay_us);
    int result = sync(file);
    if (result == 0) {
        if (names != NULL) {
            note(names, length);
        } else if (S_ISREG(before.st_mode)) {
            note_path('S', (long long)before.st_size, path);
            forget_former(&before);
        }
    }
    free(names);
    return result;
}

int fsync(int file) { return synced(file, REAL(fsync)); }
int fdatasync(int file) { return synced(file, REAL(fdatasync)); }

/* --- writing ---------------------------------------------------------------------------------------- */

static int is_full(int file) {
    char path[PATH_MAX];
    if (!control->disk_is_full || !path_of(file, path)) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    return is_full(file) ? -1 : REAL(write)(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    return is_full(file) ? -1 : REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (is_full(file)) return -1;
    keep_former(file, size, offset);
    return REAL(pwrite)(file, data, size, offset);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    if (is_full(file)) return -1;
    keep_former(file, size, offset);
    return REAL(pwrite64)(file, data, size, offset);
}

#define PWRITEV(name, offset_type)                                                      \
    ssize_t name(int file, const struct iovec *parts, int count, offset_type offset) { \
        if (is_full(file)) return -1;                                                   \
        keep_former(file, size_of(parts, count), offset);                               \
        return REAL(name)(file, parts, count, offset);                                  \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, offset_type)                                                                \
    ssize_t name(int file, const struct iovec *parts, int count, offset_type offset, int flags) { \
        if (is_full(file)) return -1;                                                              \
        keep_former(file, size_of(parts, count), offset);                                          \
        return REAL(name)(file, parts, count, offset, flags);                                      \
    }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

int fallocate(int file, int mode, off_t offset, off_t size) {
    return is_full(file) ? -1 : REAL(fallocate)(file, mode, offset, size);
}

int fallocate64(int file, int mode, off64_t offset, off64_t size) {
    return is_full(file) ? -1 : REAL(fallocate64)(file, mode, offset, size);
}

int posix_fallocate(int file, off_t offset, off_t size) {
    return is_full(file) ? ENOSPC : REAL(posix_fallocate)(file, offset, size);
}

int ftruncate(int file, off_t size) {
    char path[PATH_MAX];
    int result = REAL(ftruncate)(file, size);
    if (result == 0 && journal >= 0 && path_of(file, path)) note_path('T', (long long)size, path);
    return result;
}

int ftruncate64(int file, off64_t size) {
    char path[PATH_MAX];
    int result = REAL(ftruncate64)(file, size);
    if (result == 0 && journal >= 0 && path_of(file, path)) note_path('T', (long long)size, path);
    return result;
}

/* --- names ------------------------------------------------------------------------------------------ */

static void note_rename(int old_at, const char *old, int new_at, const char *new) {
    char from[PATH_MAX], to[PATH_MAX], line[2 * PATH_MAX + 8];
    int below = whole(old_at, old, from);
    below |= whole(new_at, new, to);
    if (journal < 0 || !below) return;
    note(line, (size_t)snprintf(line, sizeof line, "R %s\t%s\n", from, to));
}

static void note_removal(int at, const char *name) {
    char path[PATH_MAX];
    if (journal >= 0 && whole(at, name, path)) note_path('U', -1, path);
}

/* Another file may get the inode of one that is gone. */
static int is_there(int at, const char *name, struct stat *file) {
    char path[PATH_MAX];
    int kept = errno;
    int found = journal >= 0 && whole(at, name, path) && stat(path, file) == 0 && S_ISREG(file->st_mode);
    errno = kept;
    return found;
}

int rename(const char *old, const char *new) {
    struct stat replaced;
    int replaces = is_there(AT_FDCWD, new, &replaced);
    int result = REAL(rename)(old, new);
    if (result == 0) note_rename(AT_FDCWD, old, AT_FDCWD, new);
    if (result == 0 && replaces) forget_former(&replaced);
    return result;
}

int renameat(int old_at, const char *old, int new_at, const char *new) {
    struct stat replaced;
    int replaces = is_there(new_at, new, &replaced);
    int result = REAL(renameat)(old_at, old, new_at, new);
    if (result == 0) note_rename(old_at, old, new_at, new);
    if (result == 0 && replaces) forget_former(&replaced);
    return result;
}

int unlink(const char *name) {
    struct stat removed;
    int removes = is_there(AT_FDCWD, name, &removed);
    int result = REAL(unlink)(name);
    if (result == 0) note_removal(AT_FDCWD, name);
    if (result == 0 && removes) forget_former(&removed);
    return result;
}

int unlinkat(int at, const char *name, int flags) {
    struct stat removed;
    int removes = is_there(at, name, &removed);
    int result = REAL(unlinkat)(at, name, flags);
    if (result == 0) note_removal(at, name);
    if (result == 0 && removes) forget_former(&removed);
    return result;
}

/* --- room ------------------------------------------------------------------------------------------- */

int statvfs(const char *path, struct statvfs *room) {
    int result = REAL(statvfs)(path, room);
    if (control->disk_is_full && is_below(path)) room->f_bavail = room->f_bfree = 0;
    return result;
}

int statvfs64(const char *path, struct statvfs64 *room) {
    int result = REAL(statvfs64)(path, room);
    if (control->disk_is_full && is_below(path)) room->f_bavail = room->f_bfree = 0;
    return result;
}

int fstatvfs(int file, struct statvfs *room) {
    char path[PATH_MAX];
    int result = REAL(fstatvfs)(file, room);
    if (control->disk_is_full && path_of(file, path)) room->f_bavail = room->f_bfree = 0;
    return result;
}

int fstatvfs64(int file, struct statvfs64 *room) {
    char path[PATH_MAX];
    int result = REAL(fstatvfs64)(file, room);
    if (control->disk_is_full && path_of(file, path)) room->f_bavail = room->f_bfree = 0;
    return result;
}

/* --- time ------------------------------------------------------------------------------------------- */

#define SECOND_NS 1000000000LL

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    int64_t offset_ns = control->realtime_offset_ns;
    if (result == 0 && offset_ns && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t moved_ns = now->tv_sec * SECOND_NS + now->tv_nsec + offset_ns;
        now->tv_sec = moved_ns / SECOND_NS;
        now->tv_nsec = moved_ns % SECOND_NS;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    int64_t offset_us = control->realtime_offset_ns / 1000;
    if (result == 0 && offset_us) {
        int64_t moved_us = now->tv_sec * 1000000LL + now->tv_usec + offset_us;
        now->tv_sec = moved_us / 1000000;
        now->tv_usec = moved_us % 1000000;
    }
    return result;
}

time_t time(time_t *out) {
    time_t now = REAL(time)(NULL) + control->realtime_offset_ns / SECOND_NS;
    if (out != NULL) *out = now;
    return now;
}
