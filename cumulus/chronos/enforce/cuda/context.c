#define _GNU_SOURCE
#include "counter.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- which lease a device is ---- */

#define MAX_DEVICES 64

/* With one lease everything counts towards it. With several, a device that is none of theirs counts towards the first,
 * so that no device is a way around. */
lease_set leases_of_device(CUdevice device) {
    static _Atomic lease_set known[MAX_DEVICES];
    accounts_open();
    if (accounts_count() <= 1) return accounts_count();
    if (device < 0 || device >= MAX_DEVICES) return 1;
    lease_set found = known[device];
    if (found) return found;
    uint8_t uuid[UUID_BYTES];
    /* The second version tells a MIG instance's own. */
    CUresult (*ask)(void *, CUdevice) = DRIVER(CUresult, "cuDeviceGetUuid_v2", (void *, CUdevice));
    if (!ask) ask = DRIVER(CUresult, "cuDeviceGetUuid", (void *, CUdevice));
    if (ask && ask(uuid, device) == CUDA_SUCCESS)
        for (unsigned i = 0; i < accounts_count(); i++)
            if (account_uuid(i) && memcmp(account_uuid(i), uuid, UUID_BYTES) == 0) found |= 1u << i;
    known[device] = found ? found : 1;
    return known[device];
}

CUcontext context_here(void) {
    CUcontext context = NULL;
    CUresult (*ask)(CUcontext *) = DRIVER(CUresult, "cuCtxGetCurrent", (CUcontext *));
    return ask && ask(&context) == CUDA_SUCCESS ? context : NULL;
}

static bool has_device(CUdevice *device) {
    CUresult (*ask)(CUdevice *) = DRIVER(CUresult, "cuCtxGetDevice", (CUdevice *));
    return ask && ask(device) == CUDA_SUCCESS;
}

CUdevice device_here(void) {
    CUdevice device = 0;
    return has_device(&device) ? device : 0;
}

lease_set leases_here(void) {
    accounts_open();
    return accounts_count() > 1 ? leases_of_device(device_here()) : accounts_count();
}

/* The numbers that stand for the default streams. */
#define IS_DEFAULT(stream) ((uintptr_t)(stream) <= 2)

bool device_of_stream(CUstream stream, CUdevice *device) {
    CUcontext its = NULL, popped = NULL;
    CUresult (*ask)(CUstream, CUcontext *) = DRIVER(CUresult, "cuStreamGetCtx", (CUstream, CUcontext *));
    CUresult (*push)(CUcontext) = DRIVER(CUresult, "cuCtxPushCurrent_v2", (CUcontext));
    CUresult (*pop)(CUcontext *) = DRIVER(CUresult, "cuCtxPopCurrent_v2", (CUcontext *));
    if (IS_DEFAULT(stream) || !ask || ask(stream, &its) != CUDA_SUCCESS || its == context_here())
        return has_device(device);
    if (!push || !pop || push(its) != CUDA_SUCCESS) return false;
    bool found = has_device(device);
    pop(&popped);
    return found;
}

/* ---- what the driver holds beside: contexts, loaded kernels, stacks, what it rounds up ---- */

/* NVML tells what this process holds; what is not on the account is beside. Asked at a context's making and then at most
 * once a second, before memory is taken: an answer takes a third of a millisecond. In a container, whose processes NVML
 * knows by other numbers, a context counts by how much more the device held once it was made: what neighbours did
 * meanwhile is in that too, hence the bounds. */
#define LEAST_CONTEXT (64ull << 20)
#define MOST_CONTEXT (768ull << 20)
#define LOOK_SECONDS 1
#define INITIAL_PID_NAMESPACE 4026531836u /* include/linux/proc_ns.h: elsewhere NVML's process numbers are not ours */
#define MAX_PROCESSES 1024

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static charge beside[MAX_LEASES];
static uint64_t alone[MAX_LEASES]; /* what was beside when nothing was imported */
static _Atomic uint64_t looked[MAX_LEASES]; /* seconds */

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork(void) { pthread_mutex_unlock(&guard); }
__attribute__((constructor)) static void loaded(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static uint64_t seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec + 1;
}

/* The lease's device as NVML knows it, or NULL. Under the guard. */
static NVdevice nvml_device(unsigned lease) {
    static NVdevice devices[MAX_LEASES];
    static bool asked[MAX_LEASES];
    static const char *const kinds[] = {"GPU", "MIG"};
    char text[UUID_TEXT];
    if (asked[lease]) return devices[lease];
    asked[lease] = true;
    const uint8_t *u = account_uuid(lease);
    int (*begin)(void) = NVML(int, "nvmlInit_v2", (void));
    int (*by_uuid)(const char *, NVdevice *) =
        NVML(int, "nvmlDeviceGetHandleByUUID", (const char *, NVdevice *));
    if (!u || !begin || !by_uuid || begin() != NVML_SUCCESS) return NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(text, sizeof text, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", kinds[i],
                 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
        if (by_uuid(text, &devices[lease]) == NVML_SUCCESS) return devices[lease];
    }
    return devices[lease] = NULL;
}

static bool in_initial_namespace(void) {
    struct stat status;
    return stat("/proc/self/ns/pid", &status) == 0 && status.st_ino == INITIAL_PID_NAMESPACE;
}

static bool held_by_this_process(NVdevice device, uint64_t *bytes) {
    static NVprocess processes[MAX_PROCESSES]; /* under the guard */
    unsigned count = MAX_PROCESSES, pid = (unsigned)getpid();
    int (*ask)(NVdevice, unsigned *, NVprocess *) =
        NVML(int, "nvmlDeviceGetComputeRunningProcesses_v3", (NVdevice, unsigned *, NVprocess *));
    if (!ask || !in_initial_namespace() || ask(device, &count, processes) != NVML_SUCCESS) return false;
    *bytes = 0;
    bool found = false;
    for (unsigned i = 0; i < count; i++)
        if (processes[i].pid == pid && processes[i].used != UINT64_MAX) {
            *bytes += processes[i].used;
            found = true;
        }
    return found;
}

/* What all processes hold of the lease's device; 0 where nobody says. */
static uint64_t held_by_all(unsigned lease) {
    NVmemory memory = {0};
    int (*ask)(NVdevice, NVmemory *) = real_function(AT_nvmlDeviceGetMemoryInfo);
    pthread_mutex_lock(&guard);
    NVdevice device = nvml_device(lease);
    pthread_mutex_unlock(&guard);
    return device && ask && ask(device, &memory) == NVML_SUCCESS ? memory.used : 0;
}

/* False where NVML does not name this process. */
static bool look_now(unsigned lease) {
    uint64_t holds = 0;
    pthread_mutex_lock(&guard);
    NVdevice device = nvml_device(lease);
    bool named = device && held_by_this_process(device, &holds);
    if (named) {
        if (!beside[lease].leases) account_charge(1u << lease, &beside[lease]);
        account_settle(&beside[lease], beside[lease].bytes); /* nothing of a parent's */
        uint64_t counted = account_own(lease) - beside[lease].bytes + imported();
        uint64_t more = holds > counted ? holds - counted : 0;
        if (imported() == 0) alone[lease] = more;
        /* Where NVML does not tell imports of this process, they hide what is beside: that was at least so much. */
        account_settle(&beside[lease], more > alone[lease] ? more : alone[lease]);
    }
    pthread_mutex_unlock(&guard);
    return named;
}

static void estimate(unsigned lease, uint64_t before, uint64_t after) {
    uint64_t more = after > before ? after - before : 0;
    if (before == 0) return; /* nobody says */
    if (more < LEAST_CONTEXT) more = LEAST_CONTEXT;
    if (more > MOST_CONTEXT) more = MOST_CONTEXT;
    pthread_mutex_lock(&guard);
    if (!beside[lease].leases) account_charge(1u << lease, &beside[lease]);
    account_settle(&beside[lease], beside[lease].bytes + more);
    pthread_mutex_unlock(&guard);
}

void look_beside(lease_set leases) {
    uint64_t now = seconds();
    for (unsigned i = 0; i < accounts_count(); i++) {
        uint64_t last = looked[i];
        /* The first to come looks; the others go on. */
        if (leases >> i & 1 && last && now - last >= LOOK_SECONDS && atomic_compare_exchange_strong(&looked[i], &last, now))
            look_now(i);
    }
}

/* ---- contexts ---- */

static CUcontext primary[MAX_DEVICES];

static unsigned first_of(lease_set leases) { return leases ? (unsigned)__builtin_ctz(leases) : 0; }

static uint64_t before_context(CUdevice device) {
    lease_set leases = leases_of_device(device);
    return leases && !in_initial_namespace() ? held_by_all(first_of(leases)) : 0;
}

static void context_made(CUdevice device, uint64_t before) {
    lease_set leases = leases_of_device(device);
    for (unsigned i = 0; i < accounts_count(); i++) {
        if (!(leases >> i & 1)) continue;
        looked[i] = seconds();
        if (!look_now(i)) estimate(i, before, held_by_all(i));
    }
}

#define MAKE(name, device, ...)                                                                                        \
    MISSING(REAL(name));                                                                                               \
    uint64_t before = before_context(device);                                                                          \
    CUresult outcome = REAL(name)(__VA_ARGS__);                                                                        \
    if (outcome == CUDA_SUCCESS) context_made(device, before);                                                         \
    return outcome

EXPORTED CUresult cuCtxCreate(CUcontext *context, unsigned flags, CUdevice device) {
    MAKE(cuCtxCreate, device, context, flags, device);
}

EXPORTED CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    MAKE(cuCtxCreate_v2, device, context, flags, device);
}

EXPORTED CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned flags, CUdevice device) {
    MAKE(cuCtxCreate_v3, device, context, affinity, count, flags, device);
}

EXPORTED CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags, CUdevice device) {
    MAKE(cuCtxCreate_v4, device, context, parameters, flags, device);
}

/* Where contexts are not told apart, those that are gone are not either: the next one counts anew. */
static void context_gone(CUcontext context) {
    forget_context(context);
    if (in_initial_namespace()) return;
    pthread_mutex_lock(&guard);
    for (unsigned i = 0; i < accounts_count(); i++)
        if (beside[i].leases) account_settle(&beside[i], 0);
    pthread_mutex_unlock(&guard);
}

static CUresult destroy(CUcontext context, CUresult (*real)(CUcontext)) {
    MISSING(real);
    CUresult outcome = real(context);
    if (outcome == CUDA_SUCCESS) context_gone(context);
    return outcome;
}

EXPORTED CUresult cuCtxDestroy(CUcontext context) { return destroy(context, real_function(AT_cuCtxDestroy)); }
EXPORTED CUresult cuCtxDestroy_v2(CUcontext context) { return destroy(context, real_function(AT_cuCtxDestroy_v2)); }

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    MISSING(REAL(cuDevicePrimaryCtxRetain));
    bool known = device >= 0 && device < MAX_DEVICES;
    /* Asked for often: it is made the first time. */
    uint64_t before = known && !primary[device] ? before_context(device) : 0;
    CUresult outcome = REAL(cuDevicePrimaryCtxRetain)(context, device);
    if (outcome == CUDA_SUCCESS && known && primary[device] != *context) {
        primary[device] = *context;
        context_made(device, before);
    }
    return outcome;
}

/* Whoever lets go of it last ends it, and whoever resets it does: its memory goes with it. */
static CUresult let_go(CUdevice device, CUresult (*real)(CUdevice)) {
    MISSING(real);
    CUresult outcome = real(device);
    unsigned flags = 0;
    int active = 1;
    CUresult (*state)(CUdevice, unsigned *, int *) =
        DRIVER(CUresult, "cuDevicePrimaryCtxGetState", (CUdevice, unsigned *, int *));
    if (outcome == CUDA_SUCCESS && device >= 0 && device < MAX_DEVICES && primary[device] && state &&
        state(device, &flags, &active) == CUDA_SUCCESS && !active) {
        context_gone(primary[device]);
        primary[device] = NULL;
        pools_changed();
        pools_look();
    }
    return outcome;
}

EXPORTED CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    return let_go(device, real_function(AT_cuDevicePrimaryCtxRelease));
}
EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return let_go(device, real_function(AT_cuDevicePrimaryCtxRelease_v2));
}
EXPORTED CUresult cuDevicePrimaryCtxReset(CUdevice device) {
    return let_go(device, real_function(AT_cuDevicePrimaryCtxReset));
}
EXPORTED CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    return let_go(device, real_function(AT_cuDevicePrimaryCtxReset_v2));
}
