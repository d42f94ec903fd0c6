#define _GNU_SOURCE
#include "account.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1023
#define LOCK_SECONDS 5
#define PATH_BYTES 4096

static const char LIMITS_MAGIC[8] = "CHRLIM1";
static const char USAGE_MAGIC[8] = "CHRUSE1";

typedef struct {
    char magic[8];
    _Atomic uint64_t memory_bytes;
    _Atomic uint64_t deadline_ns;
    int32_t platform;
    int32_t device;
    uint8_t uuid[UUID_BYTES]; /* zeros: none. A file of an older Chronos ends before it, and reads as zeros there. */
} limits_file;

/* 40 bytes. `pid` is written last when a slot is taken and first when it is cleared. */
typedef struct {
    _Atomic int32_t pid;
    _Atomic uint32_t notes; /* of ALLOCATES_* */
    uint64_t start;
    uint64_t namespace;
    uint64_t image;
    _Atomic uint64_t used;
} slot;

typedef struct {
    char magic[8];
    uint32_t in_use; /* slots that were ever taken: no need to look further */
    uint32_t reserved;
    union {
        pthread_mutex_t mutex;
        char room[112];
    } lock;
    slot slots[SLOTS];
} usage_file;

typedef struct {
    const limits_file *limits; /* NULL: unusable, everything is refused */
    usage_file *usage;
    slot *_Atomic mine; /* NULL until this process takes memory */
} account;

static account accounts[MAX_LEASES];
static unsigned count;
static _Atomic uint32_t generation = 1;
static uint64_t pid_namespace;
static _Atomic uint32_t noted; /* by this process; a fork's child has what its parent noted */
static _Atomic bool explained_memory, explained_expiry;

/* ---- opening ---- */

static void *map(const char *directory, const char *name, int flags, size_t size, int *fd_out) {
    char path[PATH_BYTES];
    struct stat status;
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path) return NULL;
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return NULL;
    bool writable = (flags & O_ACCMODE) == O_RDWR;
    void *memory = NULL;
    if (writable) flock(fd, LOCK_EX); /* until the mutex in the file is made */
    if (fstat(fd, &status) == 0 &&
        ((size_t)status.st_size >= size || (writable && ftruncate(fd, (off_t)size) == 0))) {
        memory = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) memory = NULL;
    }
    if (memory && fd_out) {
        *fd_out = fd;
    } else {
        close(fd);
    }
    return memory;
}

static bool make_mutex(usage_file *usage) {
    pthread_mutexattr_t attributes;
    bool made = pthread_mutexattr_init(&attributes) == 0 &&
                pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
                pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
                pthread_mutex_init(&usage->lock.mutex, &attributes) == 0;
    pthread_mutexattr_destroy(&attributes);
    return made;
}

static usage_file *open_usage(const char *directory) {
    int fd = -1;
    usage_file *usage = map(directory, "usage", O_RDWR, sizeof *usage, &fd);
    if (!usage) return NULL;
    bool usable = memcmp(usage->magic, USAGE_MAGIC, sizeof USAGE_MAGIC) == 0;
    if (!usable && usage->magic[0] == 0 && make_mutex(usage)) {
        memcpy(usage->magic, USAGE_MAGIC, sizeof USAGE_MAGIC);
        usable = true;
    }
    flock(fd, LOCK_UN); /* closing alone would not do: the mapping keeps the open file, and it the lock */
    close(fd);
    if (!usable) munmap(usage, sizeof *usage);
    return usable ? usage : NULL;
}

static void open_account(const char *directory) {
    account *opened = &accounts[count++];
    const limits_file *limits = map(directory, "limits", O_RDONLY, offsetof(limits_file, uuid), NULL);
    if (limits && memcmp(limits->magic, LIMITS_MAGIC, sizeof LIMITS_MAGIC) == 0) opened->usage = open_usage(directory);
    if (opened->usage) {
        opened->limits = limits;
    } else {
        fprintf(stderr, "chronos: the lease's account %s can't be used: device memory is refused\n", directory);
    }
}

/* The child is another process: it takes slots of its own, and what its parent took is not its to give back. */
static void forked(void) {
    atomic_fetch_add(&generation, 1);
    for (unsigned i = 0; i < count; i++) atomic_store(&accounts[i].mine, NULL);
}

static void open_all(void) {
    struct stat status;
    const char *names = getenv("CHRONOS_ACCOUNT");
    char *copy = names ? strdup(names) : NULL, *rest = copy, *directory;
    if (stat("/proc/self/ns/pid", &status) == 0) pid_namespace = status.st_ino;
    while ((directory = strsep(&rest, ":")) && count < MAX_LEASES)
        if (*directory) open_account(directory);
    free(copy);
    pthread_atfork(NULL, NULL, forked);
}

void accounts_open(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_all);
}

/* ---- asking ---- */

unsigned accounts_count(void) { return count; }

void account_device(unsigned index, int *platform, int *device) {
    const limits_file *limits = accounts[index].limits;
    *platform = limits ? limits->platform : -1;
    *device = limits ? limits->device : -1;
}

const uint8_t *account_uuid(unsigned index) {
    static const uint8_t none[UUID_BYTES];
    const limits_file *limits = accounts[index].limits;
    return limits && memcmp(limits->uuid, none, UUID_BYTES) != 0 ? limits->uuid : NULL;
}

uint64_t account_limit(unsigned index) {
    const limits_file *limits = accounts[index].limits;
    return limits ? atomic_load(&limits->memory_bytes) : 0;
}

static uint64_t sum(const usage_file *usage) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < usage->in_use && i < SLOTS; i++)
        if (atomic_load(&usage->slots[i].pid)) total += atomic_load(&usage->slots[i].used);
    return total;
}

uint64_t account_used(unsigned index) { return accounts[index].limits ? sum(accounts[index].usage) : 0; }

bool account_over(lease_set leases) {
    for (unsigned i = 0; i < count; i++)
        if (leases >> i & 1 && account_used(i) > account_limit(i)) return true;
    return false;
}

uint64_t account_own(unsigned index) {
    const usage_file *usage = accounts[index].limits ? accounts[index].usage : NULL;
    uint64_t total = 0;
    int32_t pid = (int32_t)getpid();
    for (uint32_t i = 0; usage && i < usage->in_use && i < SLOTS; i++)
        if (atomic_load(&usage->slots[i].pid) == pid && usage->slots[i].namespace == pid_namespace)
            total += atomic_load(&usage->slots[i].used);
    return total;
}

bool accounts_expired(void) {
    struct timespec now;
    if (count == 0) return false;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    for (unsigned i = 0; i < count; i++)
        if (accounts[i].limits && nanoseconds >= atomic_load(&accounts[i].limits->deadline_ns)) return true;
    return false;
}

/* ---- slots ---- */

/* State, threads and start time of a process, from /proc/PID/stat (proc(5)). False when there is no such process. */
static bool read_process(int32_t pid, char *state, long *threads, uint64_t *start) {
    errno = 0;
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = 0;
    const char *fields = strrchr(text, ')'); /* the name may hold anything, also spaces and brackets */
    unsigned long long ticks = 0;
    if (!fields || sscanf(fields + 1,
                          " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu", state,
                          threads, &ticks) != 3)
        return false;
    *start = ticks;
    return true;
}

/* Dead for certain: gone, a number used again, or a zombie with no thread left (its memory went before it became one).
 * A process of another PID namespace can't be judged from here. */
static bool is_dead(const slot *candidate) {
    char state = 0;
    long threads = 0;
    uint64_t start = 0;
    if (candidate->namespace != pid_namespace) return false;
    if (!read_process(candidate->pid, &state, &threads, &start)) return errno == ENOENT || errno == ESRCH;
    return start != candidate->start || ((state == 'Z' || state == 'X') && threads <= 1);
}

static void clear(slot *dead) {
    atomic_store(&dead->pid, 0);
    atomic_store(&dead->used, 0);
    atomic_store(&dead->notes, 0);
}

static void reap(usage_file *usage) {
    for (uint32_t i = 0; i < usage->in_use && i < SLOTS; i++)
        if (atomic_load(&usage->slots[i].pid) && is_dead(&usage->slots[i])) clear(&usage->slots[i]);
}

/* Two copies of this library in one program share these bytes, a program started by exec has others. */
static uint64_t program_image(void) {
    uint64_t bytes = 0;
    const void *random = (const void *)getauxval(AT_RANDOM); /* NOLINT: an address by definition, getauxval(3) */
    if (random) memcpy(&bytes, random, sizeof bytes);
    return bytes;
}

static slot *take_slot(usage_file *usage) {
    char state;
    long threads;
    uint64_t start = 0, image = program_image();
    int32_t pid = (int32_t)getpid();
    slot *found = NULL;
    if (!read_process(pid, &state, &threads, &start)) return NULL;
    reap(usage);
    for (uint32_t i = 0; i < SLOTS; i++) {
        slot *candidate = &usage->slots[i];
        bool own = candidate->pid == pid && candidate->start == start && candidate->namespace == pid_namespace;
        if (own && candidate->image != image) clear(candidate); /* of the program that this process was before exec */
        if (!candidate->pid && !found) found = candidate;
        if (i >= usage->in_use && found) break;
    }
    if (!found) return NULL;
    found->start = start;
    found->namespace = pid_namespace;
    found->image = image;
    atomic_store(&found->used, 0);
    atomic_store(&found->notes, atomic_load(&noted));
    if (found - usage->slots >= (long)usage->in_use) usage->in_use = (uint32_t)(found - usage->slots) + 1;
    atomic_store(&found->pid, pid);
    return found;
}

/* ---- taking and giving ---- */

static bool lock(usage_file *usage) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOCK_SECONDS; /* a process stopped inside the few instructions that hold it */
    int outcome = pthread_mutex_timedlock(&usage->lock.mutex, &until);
    if (outcome == EOWNERDEAD) { /* every change is one store, so what the dead one left is consistent */
        pthread_mutex_consistent(&usage->lock.mutex);
        outcome = 0;
    }
    return outcome == 0;
}

static void explain_memory(uint64_t bytes, uint64_t used, uint64_t limit) {
    if (atomic_exchange(&explained_memory, true)) return;
    fprintf(stderr, "chronos: %llu bytes of device memory refused: %llu of the lease's %llu are in use\n",
            (unsigned long long)bytes, (unsigned long long)used, (unsigned long long)limit);
}

void account_explain_expiry(const char *what) {
    if (atomic_exchange(&explained_expiry, true)) return;
    fprintf(stderr, "chronos: %s refused: the lease has ended\n", what);
}

static bool take_one(account *from, uint64_t bytes, bool whatever) {
    if (!from->limits || !lock(from->usage)) return false;
    if (!from->mine) from->mine = take_slot(from->usage);
    uint64_t limit = atomic_load(&from->limits->memory_bytes), used = sum(from->usage);
    if (used > limit || bytes > limit - used) {
        reap(from->usage);
        used = sum(from->usage);
    }
    bool fits = whatever || (used <= limit && bytes <= limit - used);
    bool taken = fits && from->mine;
    if (taken) atomic_fetch_add(&from->mine->used, bytes);
    pthread_mutex_unlock(&from->usage->lock.mutex);
    if (!fits) explain_memory(bytes, used, limit);
    return taken;
}

bool account_take(lease_set leases, uint64_t bytes, charge *taken) {
    *taken = (charge){.leases = 0, .generation = atomic_load(&generation), .bytes = bytes};
    if (accounts_expired()) {
        account_explain_expiry("memory");
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!(leases >> i & 1)) continue;
        if (!take_one(&accounts[i], bytes, false)) {
            account_give(taken);
            return false;
        }
        taken->leases |= 1u << i;
    }
    return true;
}

void account_give(const charge *taken) {
    if (taken->generation != atomic_load(&generation)) return;
    for (unsigned i = 0; i < count; i++)
        if (taken->leases >> i & 1) atomic_fetch_sub(&accounts[i].mine->used, taken->bytes);
}

void account_note(uint32_t how) {
    accounts_open();
    if ((atomic_fetch_or(&noted, how) & how) == how) return;
    for (unsigned i = 0; i < count; i++) {
        account *at = &accounts[i];
        slot *mine = at->mine;
        if (!mine && at->limits && lock(at->usage)) {
            if (!at->mine) at->mine = take_slot(at->usage);
            mine = at->mine;
            pthread_mutex_unlock(&at->usage->lock.mutex);
        }
        if (mine) atomic_fetch_or(&mine->notes, how);
    }
}

void account_charge(lease_set leases, charge *begun) {
    *begun = (charge){.leases = leases, .generation = atomic_load(&generation), .bytes = 0};
}

void account_settle(charge *of, uint64_t bytes) {
    if (of->generation != atomic_load(&generation)) account_charge(of->leases, of); /* the parent's, before a fork */
    if (bytes > of->bytes) {
        charge more = {.leases = 0, .generation = of->generation, .bytes = bytes - of->bytes};
        for (unsigned i = 0; i < count; i++) {
            if (!(of->leases >> i & 1)) continue;
            if (!take_one(&accounts[i], more.bytes, true)) {
                account_give(&more); /* of all or of none: it stays what it was, until it is settled anew */
                return;
            }
            more.leases |= 1u << i;
        }
    } else {
        for (unsigned i = 0; i < count; i++)
            if (of->leases >> i & 1 && bytes < of->bytes) atomic_fetch_sub(&accounts[i].mine->used, of->bytes - bytes);
    }
    of->bytes = bytes;
}
