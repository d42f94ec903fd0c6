#define _GNU_SOURCE
#include "counter.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A stream-ordered pool holds more than its program uses: it grows by chunks and keeps what was freed, at least until the
 * device was waited for. Graphs that allocate have such a pool for each device. What counts is what a pool holds, as the
 * driver tells it (CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT): read after each allocation, after each wait that follows a free,
 * and before anybody is refused. */

typedef struct pool {
    struct pool *following;
    CUmempool handle; /* NULL: that of graphs, of `device` */
    CUdevice device;
    bool counts; /* not where its memory is the host's */
    charge held;
} pool;

static pool *pools;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool changed, graphs_allocate;

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork(void) { pthread_mutex_unlock(&guard); }
__attribute__((constructor)) static void loaded(void) { pthread_atfork(before_fork, after_fork, after_fork); }

/* ---- streams that are captured ---- */

/* A stream that is captured into a graph makes nothing now, and while one is, calls that look harmless end the capture:
 * the thread must say that it knows (cuThreadExchangeStreamCaptureMode). */
#define RELAXED 2

static int exchange(int mode) {
    CUresult (*swap)(int *) = DRIVER(CUresult, "cuThreadExchangeStreamCaptureMode", (int *));
    return swap && swap(&mode) == CUDA_SUCCESS ? mode : -1;
}

static int enter(void) {
    pthread_mutex_lock(&guard);
    return exchange(RELAXED);
}

static void leave(int mode) {
    if (mode >= 0) exchange(mode);
    pthread_mutex_unlock(&guard);
}

static bool is_captured(CUstream stream) {
    int status = 0;
    CUresult (*ask)(CUstream, int *) = DRIVER(CUresult, "cuStreamIsCapturing", (CUstream, int *));
    return ask && ask(stream, &status) == CUDA_SUCCESS && status != 0;
}

/* ---- under the guard ---- */

static pool *find(CUmempool handle, CUdevice device) {
    for (pool *at = pools; at; at = at->following)
        if (at->handle == handle && (handle || at->device == device)) return at;
    return NULL;
}

static pool *add(CUmempool handle, CUdevice device, bool counts) {
    pool *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    *made = (pool){.following = pools, .handle = handle, .device = device, .counts = counts};
    account_charge(leases_of_device(device), &made->held);
    pools = made;
    return made;
}

/* A pool that its program did not make: a device's own. */
static pool *found_or_added(CUmempool handle) {
    pool *known = find(handle, 0);
    int count = 0;
    CUresult (*count_of)(int *) = DRIVER(CUresult, "cuDeviceGetCount", (int *));
    CUresult (*own)(CUmempool *, CUdevice) = DRIVER(CUresult, "cuDeviceGetDefaultMemPool", (CUmempool *, CUdevice));
    if (known || !count_of || !own || count_of(&count)) return known;
    for (CUdevice device = 0; device < count; device++) {
        CUmempool theirs = NULL;
        if (own(&theirs, device) == CUDA_SUCCESS && theirs == handle) return add(handle, device, true);
    }
    return add(handle, 0, true);
}

/* 0 where the driver does not tell. */
static uint64_t told(const pool *of, int attribute, int attribute_of_graphs) {
    uint64_t bytes = 0;
    CUresult outcome = CUDA_ERROR_NOT_SUPPORTED;
    CUresult (*ask)(CUmempool, int, void *) = DRIVER(CUresult, "cuMemPoolGetAttribute", (CUmempool, int, void *));
    CUresult (*ask_graphs)(CUdevice, int, void *) =
        DRIVER(CUresult, "cuDeviceGetGraphMemAttribute", (CUdevice, int, void *));
    if (of->handle && ask) outcome = ask(of->handle, attribute, &bytes);
    if (!of->handle && ask_graphs) outcome = ask_graphs(of->device, attribute_of_graphs, &bytes);
    return outcome == CUDA_SUCCESS ? bytes : 0;
}

static uint64_t reserved(const pool *of) { return told(of, POOL_RESERVED_CURRENT, GRAPH_RESERVED_CURRENT); }
static uint64_t used(const pool *of) { return told(of, POOL_USED_CURRENT, GRAPH_USED_CURRENT); }

static void look(pool *at) {
    if (at->counts) account_settle(&at->held, reserved(at));
}

static void look_all(void) {
    bool may_shrink = false;
    for (pool *at = pools; at; at = at->following) {
        look(at);
        may_shrink |= at->held.bytes > used(at);
    }
    changed = may_shrink;
}

static void trim(const pool *of) {
    CUresult (*graphs)(CUdevice) = real_function(AT_cuDeviceGraphMemTrim);
    CUresult (*one)(CUmempool, size_t) = real_function(AT_cuMemPoolTrimTo);
    if (of->handle && one) one(of->handle, 0);
    if (!of->handle && graphs) graphs(of->device);
}

static bool trim_all(void) {
    for (pool *at = pools; at; at = at->following) trim(at);
    look_all();
    return pools != NULL;
}

/* ---- for the others ---- */

bool pools_trim(void) {
    int mode = enter();
    bool any = trim_all();
    leave(mode);
    return any;
}

void pools_changed(void) { changed = true; }

void pools_look(void) {
    if (!changed) return;
    int mode = enter();
    look_all();
    leave(mode);
}

/* ---- allocating ---- */

/* In a graph: what could never be launched is refused; the rest is made, and counted, when the graph is launched. */
static bool node_fits(CUdevice device, size_t size) {
    charge room;
    if (!take(leases_of_device(device), size, &room)) return false;
    account_give(&room);
    pthread_mutex_lock(&guard);
    if (!find(NULL, device)) add(NULL, device, true);
    pthread_mutex_unlock(&guard);
    graphs_allocate = true;
    return true;
}

typedef CUresult (*allocate)(CUdeviceptr *, size_t, CUstream);
typedef CUresult (*allocate_from)(CUdeviceptr *, size_t, CUmempool, CUstream);

/* Whether the lease has room for it: the pool holds enough that is free, or may grow by it. */
static bool fits(pool *from, size_t size, charge *room) {
    lease_set leases = from->held.leases;
    uint64_t holds = reserved(from), busy = used(from), free_there = holds > busy ? holds - busy : 0;
    account_settle(&from->held, holds);
    uint64_t more = size > free_there ? size - free_there : 0;
    if (account_take(leases, more, room)) return true;
    trim_all();
    return account_take(leases, size, room);
}

/* From its current pool, by the first function; or from the one that is named, by the second. */
static CUresult from_pool(CUmempool handle, CUdeviceptr *pointer, size_t size, CUstream stream, allocate simple,
                          allocate_from from) {
    if (from && is_captured(stream))
        return node_fits(device_here(), size) ? from(pointer, size, handle, stream) : CUDA_ERROR_OUT_OF_MEMORY;
    charge room = {0};
    int mode = enter();
    pool *known = found_or_added(handle);
    look_beside(known ? known->held.leases : 0);
    CUresult outcome = CUDA_ERROR_OUT_OF_MEMORY;
    if (known && (!known->counts || fits(known, size, &room))) {
        if (mode >= 0) exchange(mode); /* the program's own call is the program's own risk */
        outcome = simple ? simple(pointer, size, stream) : from(pointer, size, handle, stream);
        if (mode >= 0) exchange(RELAXED);
        account_give(&room);
        look(known);
    }
    leave(mode);
    return outcome;
}

static CUresult from_current(int at, CUdeviceptr *pointer, size_t size, CUstream stream) {
    allocate real = real_function(at);
    CUmempool current = NULL;
    CUdevice device = 0;
    CUresult (*pool_of)(CUmempool *, CUdevice) = DRIVER(CUresult, "cuDeviceGetMemPool", (CUmempool *, CUdevice));
    MISSING(real);
    if (is_captured(stream))
        return node_fits(device_here(), size) ? real(pointer, size, stream) : CUDA_ERROR_OUT_OF_MEMORY;
    if (!device_of_stream(stream, &device) || !pool_of || pool_of(&current, device)) return real(pointer, size, stream);
    return from_pool(current, pointer, size, stream, real, NULL);
}

EXPORTED CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t size, CUstream stream) {
    return from_current(AT_cuMemAllocAsync, pointer, size, stream);
}

EXPORTED CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t size, CUstream stream) {
    return from_current(AT_cuMemAllocAsync_ptsz, pointer, size, stream);
}

EXPORTED CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t size, CUmempool from, CUstream stream) {
    allocate_from real = real_function(AT_cuMemAllocFromPoolAsync);
    return real ? from_pool(from, pointer, size, stream, NULL, real) : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORTED CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t size, CUmempool from, CUstream stream) {
    allocate_from real = real_function(AT_cuMemAllocFromPoolAsync_ptsz);
    return real ? from_pool(from, pointer, size, stream, NULL, real) : CUDA_ERROR_NOT_INITIALIZED;
}

/* ---- pools of a program's own ---- */

EXPORTED CUresult cuMemPoolCreate(CUmempool *made, const CUpoolprops *asked) {
    MISSING(REAL(cuMemPoolCreate));
    CUresult outcome = REAL(cuMemPoolCreate)(made, asked);
    if (outcome == CUDA_SUCCESS && asked) {
        bool on_device = asked->location.type == MEM_LOCATION_DEVICE;
        pthread_mutex_lock(&guard);
        add(*made, on_device ? asked->location.id : 0, on_device);
        pthread_mutex_unlock(&guard);
    }
    return outcome;
}

EXPORTED CUresult cuMemPoolDestroy(CUmempool handle) {
    MISSING(REAL(cuMemPoolDestroy));
    pthread_mutex_lock(&guard);
    CUresult outcome = REAL(cuMemPoolDestroy)(handle);
    pool **place = &pools;
    while (*place && (*place)->handle != handle) place = &(*place)->following;
    pool *gone = *place;
    if (outcome == CUDA_SUCCESS && gone) {
        *place = gone->following;
        account_give(&gone->held);
        free(gone);
    }
    pthread_mutex_unlock(&guard);
    return outcome;
}

EXPORTED CUresult cuMemPoolTrimTo(CUmempool handle, size_t least) {
    MISSING(REAL(cuMemPoolTrimTo));
    CUresult outcome = REAL(cuMemPoolTrimTo)(handle, least);
    pools_changed();
    pools_look();
    return outcome;
}

/* ---- graphs: their memory is made when they are launched ---- */

static bool may_add(const CUallocnode *node) {
    return node->pool.location.type != MEM_LOCATION_DEVICE || node_fits(node->pool.location.id, node->size);
}

EXPORTED CUresult cuGraphAddMemAllocNode(CUgraphnode *node, CUgraph graph, const CUgraphnode *after, size_t count,
                                         CUallocnode *asked) {
    MISSING(REAL(cuGraphAddMemAllocNode));
    if (asked && !may_add(asked)) return CUDA_ERROR_OUT_OF_MEMORY;
    return REAL(cuGraphAddMemAllocNode)(node, graph, after, count, asked);
}

EXPORTED CUresult cuGraphAddNode(CUgraphnode *node, CUgraph graph, const CUgraphnode *after, size_t count,
                                 CUnodeparams *asked) {
    MISSING(REAL(cuGraphAddNode));
    if (asked && asked->type == GRAPH_NODE_MEM_ALLOC && !may_add(&asked->alloc)) return CUDA_ERROR_OUT_OF_MEMORY;
    return REAL(cuGraphAddNode)(node, graph, after, count, asked);
}

EXPORTED CUresult cuGraphAddNode_v2(CUgraphnode *node, CUgraph graph, const CUgraphnode *after, const void *edges,
                                    size_t count, CUnodeparams *asked) {
    MISSING(REAL(cuGraphAddNode_v2));
    if (asked && asked->type == GRAPH_NODE_MEM_ALLOC && !may_add(&asked->alloc)) return CUDA_ERROR_OUT_OF_MEMORY;
    return REAL(cuGraphAddNode_v2)(node, graph, after, edges, count, asked);
}

/* How much a graph will hold is known once it was launched: where that went over the lease, it is launched no more. */
static CUresult launch(int at, CUgraphexec graph, CUstream stream) {
    CUresult (*real)(CUgraphexec, CUstream) = real_function(at);
    CUdevice device = 0;
    MISSING(real);
    if (!graphs_allocate || is_captured(stream) || !device_of_stream(stream, &device)) return real(graph, stream);
    lease_set leases = leases_of_device(device);
    if (account_over(leases) && pools_trim() && account_over(leases)) return CUDA_ERROR_OUT_OF_MEMORY;
    /* Not under the guard: a launch may wait for work that is queued, and that for another thread of the program. */
    CUresult outcome = real(graph, stream);
    int mode = enter();
    pool *graphs = find(NULL, device);
    if (graphs) look(graphs);
    leave(mode);
    return outcome;
}

EXPORTED CUresult cuGraphLaunch(CUgraphexec graph, CUstream stream) { return launch(AT_cuGraphLaunch, graph, stream); }

EXPORTED CUresult cuGraphLaunch_ptsz(CUgraphexec graph, CUstream stream) {
    return launch(AT_cuGraphLaunch_ptsz, graph, stream);
}

EXPORTED CUresult cuDeviceGraphMemTrim(CUdevice device) {
    MISSING(REAL(cuDeviceGraphMemTrim));
    CUresult outcome = REAL(cuDeviceGraphMemTrim)(device);
    pools_changed();
    pools_look();
    return outcome;
}

/* ---- waiting for the device: what was freed is then let go of ---- */

static CUresult waited(CUresult outcome) {
    pools_look();
    return outcome;
}

EXPORTED CUresult cuStreamSynchronize(CUstream stream) {
    CUresult (*real)(CUstream) = real_function(AT_cuStreamSynchronize);
    return real ? waited(real(stream)) : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORTED CUresult cuStreamSynchronize_ptsz(CUstream stream) {
    CUresult (*real)(CUstream) = real_function(AT_cuStreamSynchronize_ptsz);
    return real ? waited(real(stream)) : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORTED CUresult cuEventSynchronize(CUevent event) {
    CUresult (*real)(CUevent) = real_function(AT_cuEventSynchronize);
    return real ? waited(real(event)) : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORTED CUresult cuCtxSynchronize(void) {
    CUresult (*real)(void) = real_function(AT_cuCtxSynchronize);
    return real ? waited(real()) : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORTED CUresult cuCtxSynchronize_v2(CUcontext context) {
    CUresult (*real)(CUcontext) = real_function(AT_cuCtxSynchronize_v2);
    return real ? waited(real(context)) : CUDA_ERROR_NOT_INITIALIZED;
}
