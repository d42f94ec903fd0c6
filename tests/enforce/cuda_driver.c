/* A stand-in for NVIDIA's libcuda.so.1 and libnvidia-ml.so.1, for the tests of the CUDA counter's logic: two devices of
 * 1 GiB, no work. It grants whatever it is asked for, and knows what it holds: pools grow by chunks and shrink when they
 * are waited for, physical memory lives while it is mapped, graphs take theirs when they are launched. Whether the real
 * driver does the same is tests/gpu's to say. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
#define GIB (1ull << 30)
#define CHUNK (2ull << 20)
#define CONTEXT (3ull << 20)
#define IMPORTED (8ull << 20)
#define INVALID 1
#define DEVICES 2
#define UP(value, to) (((value) + (to)-1) / (to) * (to))

#ifndef STAND_IN_NVML

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static u64 held[DEVICES], next_pointer = 0x10000000;
static __thread struct context *current;

struct context {
    int device, primary;
} primaries[DEVICES] = {{0, 0}, {1, 0}};
static int retained[DEVICES];

struct pool {
    int device;
    u64 used, reserved;
} defaults[DEVICES] = {{0, 0, 0}, {1, 0, 0}}, graphs[DEVICES];

struct block {
    struct block *following;
    u64 pointer, size;
    struct pool *pool;
    struct context *context;
    int device, references, mappings;
} *blocks;

static u64 charged; /* imports that are told of this process */
int standin_charge(u64 bytes) { return charged = bytes, 0; }
u64 standin_beside(int device) { return (retained[device] > 0 ? CONTEXT : 0) + charged; }
u64 standin_held(int device) {
    pthread_mutex_lock(&guard);
    u64 bytes = held[device];
    pthread_mutex_unlock(&guard);
    return bytes;
}

static u64 add(u64 size, struct pool *pool, struct context *context, int device) {
    struct block *made = calloc(1, sizeof *made);
    pthread_mutex_lock(&guard);
    next_pointer += UP(size, 65536);
    *made = (struct block){blocks, next_pointer - UP(size, 65536), size, pool, context, device, 1, 0};
    blocks = made;
    if (!pool) held[device] += size;
    if (pool) {
        pool->used += size;
        if (pool->used > pool->reserved) {
            held[device] += UP(pool->used, CHUNK) - pool->reserved;
            pool->reserved = UP(pool->used, CHUNK);
        }
    }
    pthread_mutex_unlock(&guard);
    return made->pointer;
}

static struct block **find(u64 pointer) {
    struct block **place = &blocks;
    while (*place && (*place)->pointer != pointer) place = &(*place)->following;
    return place;
}

static void drop(struct block **place) {
    struct block *gone = *place;
    *place = gone->following;
    if (gone->pool) {
        gone->pool->used -= gone->size;
    } else {
        held[gone->device] -= gone->size;
    }
    free(gone);
}

static int take_away(u64 pointer) {
    int outcome = 0;
    pthread_mutex_lock(&guard);
    struct block **place = find(pointer);
    if (*place) {
        drop(place);
    } else {
        outcome = INVALID;
    }
    pthread_mutex_unlock(&guard);
    return outcome;
}

static void shrink(struct pool *pool) {
    held[pool->device] -= pool->reserved - UP(pool->used, CHUNK);
    pool->reserved = UP(pool->used, CHUNK);
}

static int waited(void) {
    pthread_mutex_lock(&guard);
    for (int i = 0; i < DEVICES; i++) shrink(&defaults[i]);
    pthread_mutex_unlock(&guard);
    return 0;
}

#define HERE (current ? current->device : 0)
#define NEEDS_CONTEXT                                                                                                  \
    if (!current) return 201

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGetCount(int *count) { return *count = DEVICES, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, number < DEVICES ? 0 : 101; }
int cuDeviceGetUuid(unsigned char *uuid, int device) { return memset(uuid, 0x11 * (device + 1), 16), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = device < DEVICES ? GIB : 0, 0; }
int cuMemGetInfo_v2(size_t *left, size_t *total) {
    NEEDS_CONTEXT;
    *left = GIB - standin_held(HERE);
    *total = GIB;
    return 0;
}

static struct context *make(int device) {
    struct context *made = calloc(1, sizeof *made);
    made->device = device;
    return made;
}
int cuCtxCreate_v2(struct context **context, unsigned flags, int device) {
    (void)flags;
    current = *context = make(device);
    return 0;
}
static void empty(struct context *context) {
    pthread_mutex_lock(&guard);
    for (struct block **place = &blocks; *place;)
        if ((*place)->context == context) {
            drop(place);
        } else {
            place = &(*place)->following;
        }
    pthread_mutex_unlock(&guard);
}
int cuCtxDestroy_v2(struct context *context) {
    empty(context);
    if (current == context) current = NULL;
    free(context);
    return 0;
}
int cuDevicePrimaryCtxRetain(struct context **context, int device) {
    retained[device]++;
    *context = &primaries[device];
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    if (--retained[device] == 0) empty(&primaries[device]);
    return 0;
}
int cuDevicePrimaryCtxReset_v2(int device) {
    retained[device] = 0;
    empty(&primaries[device]);
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = retained[device] > 0;
    return 0;
}
int cuCtxSetCurrent(struct context *context) { return current = context, 0; }
int cuCtxGetCurrent(struct context **context) { return *context = current, 0; }
int cuCtxPushCurrent_v2(struct context *context) { return current = context, 0; }
int cuCtxPopCurrent_v2(struct context **context) { return *context = current, 0; }
int cuCtxGetDevice(int *device) {
    NEEDS_CONTEXT;
    return *device = HERE, 0;
}
/* As a stream that is captured into a graph: only the numbers 0x100 and above are. What would end a capture does. */
static struct graph *captured;
static __thread int mode;
static int broken;
#define MAY_END_A_CAPTURE                                                                                              \
    if (captured && mode != 2) return broken = 1, 900
int cuThreadExchangeStreamCaptureMode(int *exchanged) {
    int before = mode;
    mode = *exchanged;
    return *exchanged = before, 0;
}
int cuStreamIsCapturing(void *stream, int *status) { return *status = captured && (uintptr_t)stream >= 0x100, 0; }
int cuStreamBeginCapture_v2(void *stream, int how) {
    (void)stream, (void)how;
    captured = calloc(1, sizeof(u64));
    return broken = 0;
}
int cuStreamEndCapture(void *stream, struct graph **graph) {
    (void)stream;
    *graph = captured;
    captured = NULL;
    return broken ? 901 : 0;
}
int cuStreamGetCtx(void *stream, struct context **context) { return (void)stream, *context = current, 0; }

int cuMemAlloc_v2(u64 *pointer, size_t size) {
    NEEDS_CONTEXT;
    return *pointer = add(size, NULL, current, HERE), 0;
}
int cuMemAllocManaged(u64 *pointer, size_t size, unsigned flags) {
    return (void)flags, *pointer = add(size, NULL, current, HERE), 0;
}
int cuMemAllocPitch_v2(u64 *pointer, size_t *pitch, size_t width, size_t height, unsigned element) {
    *pitch = UP(width, 256ull * element);
    return *pointer = add(*pitch * height, NULL, current, HERE), 0;
}
int cuMemFree_v2(u64 pointer) { return pointer ? take_away(pointer) : 0; }
int cuMemAllocHost_v2(void **pointer, size_t size) { return *pointer = malloc(size), 0; }

int cuDeviceGetDefaultMemPool(struct pool **pool, int device) { return *pool = &defaults[device], 0; }
int cuDeviceGetMemPool(struct pool **pool, int device) { return *pool = &defaults[device], 0; }
int cuMemPoolCreate(struct pool **pool, const int *properties) {
    *pool = calloc(1, sizeof **pool);
    (*pool)->device = properties[2] == 1 ? properties[3] : 0;
    return 0;
}
int cuMemPoolDestroy(struct pool *pool) {
    pthread_mutex_lock(&guard);
    held[pool->device] -= pool->reserved;
    pthread_mutex_unlock(&guard);
    free(pool);
    return 0;
}
int cuMemPoolTrimTo(struct pool *pool, size_t least) {
    MAY_END_A_CAPTURE;
    (void)least;
    pthread_mutex_lock(&guard);
    shrink(pool);
    pthread_mutex_unlock(&guard);
    return 0;
}
int cuMemPoolGetAttribute(struct pool *pool, int attribute, u64 *value) {
    MAY_END_A_CAPTURE;
    return *value = attribute == 5 ? pool->reserved : attribute == 7 ? pool->used : 0, 0;
}
int cuMemAllocFromPoolAsync(u64 *pointer, size_t size, struct pool *pool, void *stream) {
    if (captured && (uintptr_t)stream >= 0x100) return *(u64 *)captured += size, *pointer = 42, 0;
    return (void)stream, *pointer = add(size, pool, NULL, pool->device), 0;
}
int cuMemAllocAsync(u64 *pointer, size_t size, void *stream) {
    return cuMemAllocFromPoolAsync(pointer, size, &defaults[HERE], stream);
}
int cuMemAllocAsync_ptsz(u64 *pointer, size_t size, void *stream) { return cuMemAllocAsync(pointer, size, stream); }
int cuMemFreeAsync(u64 pointer, void *stream) { return (void)stream, take_away(pointer); }
int cuMemFreeAsync_ptsz(u64 pointer, void *stream) { return cuMemFreeAsync(pointer, stream); }
int cuStreamSynchronize(void *stream) { return (void)stream, waited(); }
int cuStreamSynchronize_ptsz(void *stream) { return (void)stream, waited(); }
int cuEventSynchronize(void *event) { return (void)event, waited(); }
int cuCtxSynchronize(void) { return waited(); }

int cuMemCreate(u64 *handle, size_t size, const int *properties, u64 flags) {
    return (void)flags, *handle = add(size, NULL, NULL, properties[2] == 1 ? properties[3] : 0), 0;
}
static void kept_by_none(struct block **place) {
    if ((*place)->references == 0 && (*place)->mappings == 0) drop(place);
}
int cuMemRelease(u64 handle) {
    struct block **place = find(handle);
    if (!*place || (*place)->references == 0) return INVALID;
    (*place)->references--;
    kept_by_none(place);
    return 0;
}
static struct mapping {
    struct mapping *following;
    u64 pointer, size, handle;
} *mappings;
int cuMemMap(u64 pointer, size_t size, size_t offset, u64 handle, u64 flags) {
    struct block **place = find(handle);
    struct mapping *made = malloc(sizeof *made);
    if (!*place || offset || flags) return INVALID;
    *made = (struct mapping){mappings, pointer, size, handle};
    mappings = made;
    (*place)->mappings++;
    return 0;
}
int cuMemUnmap(u64 pointer, size_t size) {
    for (struct mapping **at = &mappings; *at;) {
        struct mapping *one = *at;
        if (one->pointer < pointer || one->pointer >= pointer + size) {
            at = &one->following;
            continue;
        }
        struct block **place = find(one->handle);
        (*place)->mappings--;
        kept_by_none(place);
        *at = one->following;
        free(one);
    }
    return 0;
}
int cuMemRetainAllocationHandle(u64 *handle, u64 address) {
    for (struct mapping *at = mappings; at; at = at->following)
        if (address - at->pointer < at->size) {
            (*find(at->handle))->references++;
            return *handle = at->handle, 0;
        }
    return INVALID;
}

/* One process opens what it exported itself: whose account it is on is what counts. */
typedef struct {
    char reserved[64];
} ipc;
int cuIpcOpenMemHandle_v2(u64 *pointer, ipc handle, unsigned flags) {
    (void)flags;
    memcpy(pointer, handle.reserved, sizeof *pointer);
    *pointer |= 1;
    return 0;
}
int cuIpcGetMemHandle(ipc *handle, u64 pointer) { return memcpy(handle, &pointer, sizeof pointer), 0; }
int cuIpcGetEventHandle(ipc *handle, void *event) { return (void)handle, (void)event, 0; }
int cuIpcOpenEventHandle(void **event, ipc handle) { return (void)handle, *event = NULL, 0; }
int cuMemExportToShareableHandle(int *shared, u64 handle, int type, u64 flags) {
    return (void)handle, (void)type, (void)flags, *shared = 7, 0;
}
int cuMemImportFromShareableHandle(u64 *handle, void *shared, int type) {
    return (void)shared, (void)type, *handle = add(4096, NULL, NULL, 0), 0;
}
int cuCtxEnablePeerAccess(struct context *peer, unsigned flags) { return (void)peer, (int)flags; }
int cuMemPoolSetAccess(struct pool *pool, const int *access, size_t count) {
    return (void)pool, (void)access, (void)count, 0;
}
int cuIpcCloseMemHandle(u64 pointer) { return pointer & 1 ? 0 : INVALID; }
int cuMemGetAddressRange_v2(u64 *base, size_t *size, u64 pointer) {
    return *base = pointer, *size = pointer & 1 ? IMPORTED : 0, 0;
}

static u64 element(int format) { return format == 0x20 ? 4 : format == 0x10 ? 2 : 1; }
int cuArrayCreate_v2(u64 *array, const size_t *asked) {
    const int *rest = (const int *)&asked[2];
    size_t height = asked[1] ? asked[1] : 1;
    return *array = add(asked[0] * height * element(rest[0]) * (u64)rest[1], NULL, current, HERE), 0;
}
int cuArray3DCreate_v2(u64 *array, const size_t *asked) {
    const int *rest = (const int *)&asked[3];
    size_t height = asked[1] ? asked[1] : 1, depth = asked[2] ? asked[2] : 1;
    return *array = add(asked[0] * height * depth * element(rest[0]) * (u64)rest[1], NULL, current, HERE), 0;
}
int cuArrayDestroy(u64 array) { return take_away(array); }

struct graph {
    u64 size;
};
int cuGraphCreate(struct graph **graph, unsigned flags) { return (void)flags, *graph = calloc(1, sizeof **graph), 0; }
int cuGraphAddMemAllocNode(void **node, struct graph *graph, const void *after, size_t count, char *asked) {
    (void)node, (void)after, (void)count;
    graph->size += *(size_t *)(asked + 88 + 16);
    return 0;
}
int cuGraphLaunch(struct graph *graph, void *stream) {
    (void)stream;
    pthread_mutex_lock(&guard);
    if (graph->size > graphs[HERE].reserved) {
        held[HERE] += graph->size - graphs[HERE].reserved;
        graphs[HERE].reserved = graph->size;
    }
    pthread_mutex_unlock(&guard);
    return 0;
}
int cuDeviceGetGraphMemAttribute(int device, int attribute, u64 *value) {
    return *value = attribute == 2 ? graphs[device].reserved : 0, 0;
}
int cuDeviceGraphMemTrim(int device) {
    pthread_mutex_lock(&guard);
    held[device] -= graphs[device].reserved;
    graphs[device].reserved = 0;
    pthread_mutex_unlock(&guard);
    return 0;
}

/* Of CUDA 3.1: pointers of 32 bits. */
int cuMemAlloc(unsigned *pointer, unsigned size) { return (void)size, (int)(*pointer = 0); }
int cuMemAllocPitch(unsigned *pointer) { return (int)(*pointer = 0); }
int cuArrayCreate(void **array) { return *array = NULL, 0; }

/* What a later driver has and the counter does not know. */
int cuMemAlloc_v9(u64 *pointer, size_t size, int more) { return (void)more, cuMemAlloc_v2(pointer, size); }
int cuBrandNew(int number) { return number + 1; }

static int hidden_alloc(u64 *pointer, size_t size) { return cuMemAlloc_v2(pointer, size); }

int cuGetProcAddress_v2(const char *symbol, void **found, int version, u64 flags, int *status) {
    static const char *const suffixes[] = {"_v9", "_v2", ""};
    char name[128];
    if (status) *status = 0;
    if (strcmp(symbol, "cuMemAlloc") == 0 && getenv("STAND_IN_HIDES")) return *found = (void *)hidden_alloc, 0;
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    /* As a driver that knows its own functions: not through the counter's dlsym. */
    void *(*own)(void *, const char *) = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    if (!own) own = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    for (unsigned i = version < 99000; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s%s", symbol, suffixes[i], flags == 2 ? "_ptsz" : "");
        if ((*found = own(self, name))) return 0;
    }
    return flags == 2 ? cuGetProcAddress_v2(symbol, found, version, 0, status) : 500;
}
int cuGetProcAddress(const char *symbol, void **found, int version, u64 flags) {
    return cuGetProcAddress_v2(symbol, found, version, flags, NULL);
}

#else

struct device {
    int number;
};
static struct device all[DEVICES] = {{0}, {1}};

static void *in_driver(const char *name) {
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return cuda ? dlsym(cuda, name) : NULL;
}
static u64 held_on(int device) {
    u64 (*ask)(int) = (u64(*)(int))in_driver("standin_held");
    u64 (*beside)(int) = (u64(*)(int))in_driver("standin_beside");
    return ask && beside ? ask(device) + beside(device) : 0;
}

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) { return *device = &all[index], 0; }
int nvmlDeviceGetUUID(struct device *device, char *text, unsigned length) {
    int d = 0x11 * (device->number + 1);
    snprintf(text, length, "GPU-%x%x%x%x-%x%x-%x%x-%x%x-%x%x%x%x%x%x", d, d, d, d, d, d, d, d, d, d, d, d, d, d, d, d);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device) {
    char text[64];
    for (int i = 0; i < DEVICES; i++) {
        nvmlDeviceGetUUID(&all[i], text, sizeof text);
        if (strcmp(text, uuid) == 0) return *device = &all[i], 0;
    }
    return 6;
}
int nvmlDeviceGetMemoryInfo(struct device *device, u64 *memory) {
    memory[0] = GIB;
    memory[2] = held_on(device->number) + CONTEXT; /* and somebody else's */
    memory[1] = GIB - memory[2];
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count, char *processes) {
    memset(processes, 0, 48);
    *(unsigned *)processes = 1;
    *(unsigned *)(processes + 24) = (unsigned)getpid();
    *(u64 *)(processes + 32) = held_on(device->number);
    *count = 2;
    return 0;
}

#endif
