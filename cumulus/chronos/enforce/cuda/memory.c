#define _GNU_SOURCE
#include "counter.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Memory is taken before the driver is asked and given back when it was freed: by cuMemFree and its like, with its
 * context, or with the process. Memory of the host counts nothing. What another process of the lease exported (CUDA IPC,
 * shareable handles) is on that one's account, and importing it counts nothing: how much that is must be known, since NVML may tell
 * it of both. */

/* ---- what each pointer or handle took ---- */

#define BUCKETS 16384
#define STEP 65536 /* no mapping begins between */

typedef enum { POINTER, ARRAY, MIPMAP, IMPORT, PHYSICAL, MAPPING } kind;

typedef struct record {
    struct record *following;
    uint64_t key, owner; /* of a mapping: the physical memory's handle; else the context */
    charge taken;        /* of a mapping and an import: its size, of no lease */
    unsigned references, mappings;
    kind what;
} record;

static record *buckets[BUCKETS];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork(void) { pthread_mutex_unlock(&guard); }
__attribute__((constructor)) static void loaded(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static record **bucket(kind what, uint64_t key) {
    uint64_t hash = (key ^ (uint64_t)what << 60) * 0x9E3779B97F4A7C15u;
    return &buckets[hash >> 50 & (BUCKETS - 1)];
}

static record **place_of(kind what, uint64_t key) {
    record **place = bucket(what, key);
    while (*place && !((*place)->key == key && (*place)->what == what)) place = &(*place)->following;
    return place;
}

static void put(record *made) {
    record **place = bucket(made->what, made->key);
    made->following = *place;
    *place = made;
}

static record *out(record **place) {
    record *found = *place;
    if (found) *place = found->following;
    return found;
}

static void remember(record *made) {
    pthread_mutex_lock(&guard);
    put(made);
    pthread_mutex_unlock(&guard);
}

static record *forget(kind what, uint64_t key) {
    pthread_mutex_lock(&guard);
    record *found = out(place_of(what, key));
    pthread_mutex_unlock(&guard);
    return found;
}

static _Atomic uint64_t imports;

uint64_t imported(void) { return imports; }

static void settle(record *gone) {
    if (gone && gone->what == IMPORT) imports -= gone->taken.bytes;
    if (gone) account_give(&gone->taken);
    free(gone);
}

/* What was forgotten before the driver was asked to free it: back where that failed. */
static void freed(record *gone, CUresult outcome) {
    if (gone && outcome != CUDA_SUCCESS) {
        remember(gone);
    } else {
        settle(gone);
    }
}

void forget_context(CUcontext context) {
    record *gone = NULL;
    pthread_mutex_lock(&guard);
    for (size_t i = 0; i < BUCKETS; i++)
        for (record **place = &buckets[i]; *place;) {
            bool in_it = (*place)->what <= IMPORT && (*place)->owner == (uint64_t)(uintptr_t)context;
            if (!in_it) {
                place = &(*place)->following;
                continue;
            }
            record *found = out(place);
            found->following = gone;
            gone = found;
        }
    pthread_mutex_unlock(&guard);
    while (gone) {
        record *following = gone->following;
        settle(gone);
        gone = following;
    }
}

/* ---- taking ---- */

bool take(lease_set leases, uint64_t bytes, charge *taken) {
    look_beside(leases);
    if (account_take(leases, bytes, taken)) return true;
    return pools_trim() && account_take(leases, bytes, taken);
}

static record *begin(lease_set leases, uint64_t bytes) {
    record *begun = calloc(1, sizeof *begun);
    if (begun && take(leases, bytes, &begun->taken)) return begun;
    free(begun);
    return NULL;
}

static CUresult end(record *begun, CUresult outcome, kind what, uint64_t key) {
    if (outcome != CUDA_SUCCESS) {
        settle(begun);
        return outcome;
    }
    begun->what = what;
    begun->key = key;
    begun->references = 1;
    if (what <= MIPMAP) begun->owner = (uint64_t)(uintptr_t)context_here();
    remember(begun);
    return outcome;
}

#define REFUSED CUDA_ERROR_OUT_OF_MEMORY

/* ---- linear memory ---- */

EXPORTED CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
    MISSING(REAL(cuMemAlloc_v2));
    record *begun = begin(leases_here(), size);
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuMemAlloc_v2)(pointer, size);
    return end(begun, outcome, POINTER, outcome ? 0 : *pointer);
}

EXPORTED CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t size, unsigned flags) {
    MISSING(REAL(cuMemAllocManaged));
    account_note(ALLOCATES_MANAGED);
    record *begun = begin(leases_here(), size);
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuMemAllocManaged)(pointer, size, flags);
    return end(begun, outcome, POINTER, outcome ? 0 : *pointer);
}

static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

#define PITCH 512

EXPORTED CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height,
                                     unsigned element) {
    MISSING(REAL(cuMemAllocPitch_v2));
    uint64_t row = width > UINT64_MAX - PITCH ? UINT64_MAX : (width + PITCH - 1) / PITCH * PITCH;
    record *begun = begin(leases_here(), times(row, height));
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuMemAllocPitch_v2)(pointer, pitch, width, height, element);
    if (outcome == CUDA_SUCCESS) account_settle(&begun->taken, times(*pitch, height));
    return end(begun, outcome, POINTER, outcome ? 0 : *pointer);
}

/* The record goes before the memory, so that a pointer which the driver hands out again is never mistaken for it; the
 * bytes come back after the memory. What has no record was a pool's. */
EXPORTED CUresult cuMemFree_v2(CUdeviceptr pointer) {
    MISSING(REAL(cuMemFree_v2));
    record *gone = forget(POINTER, pointer);
    CUresult outcome = REAL(cuMemFree_v2)(pointer);
    if (!gone && pointer) {
        pools_changed();
        pools_look();
    }
    freed(gone, outcome);
    return outcome;
}

static CUresult free_async(int at, CUdeviceptr pointer, CUstream stream) {
    CUresult (*real)(CUdeviceptr, CUstream) = real_function(at);
    MISSING(real);
    record *gone = forget(POINTER, pointer);
    CUresult outcome = real(pointer, stream);
    if (!gone) pools_changed();
    freed(gone, outcome);
    return outcome;
}

EXPORTED CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    return free_async(AT_cuMemFreeAsync, pointer, stream);
}

EXPORTED CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream) {
    return free_async(AT_cuMemFreeAsync_ptsz, pointer, stream);
}

/* ---- arrays ---- */

#define FORMAT_NV12 0xb0
#define IS_COMPRESSED(format) ((format) >= 0x91 && (format) <= 0x9e)

static uint64_t element_bytes(int format, unsigned channels) {
    uint64_t each;
    switch (format) {
    case 0x01: case 0x08: case 0xc0: case 0xc1: case 0xc2: case 0xc6: case 0xc7: case 0xc8: each = 1; break;
    case 0x02: case 0x09: case 0x10: case 0xc3: case 0xc4: case 0xc5: case 0xc9: case 0xca: case 0xcb: each = 2; break;
    case FORMAT_NV12: return 2;
    default: each = IS_COMPRESSED(format) ? 1 : 4;
    }
    return IS_COMPRESSED(format) ? 1 : each * (channels ? channels : 1);
}

static uint64_t array_bytes(const CUarray3d *asked, unsigned levels) {
    if (!asked || asked->flags & (ARRAY_SPARSE | ARRAY_DEFERRED)) return 0;
    uint64_t height = asked->height ? asked->height : 1, depth = asked->depth ? asked->depth : 1;
    uint64_t bytes = times(times(times(asked->width, element_bytes(asked->format, asked->channels)), height), depth);
    return levels > 1 && bytes < UINT64_MAX / 2 ? bytes + bytes / 3 : bytes;
}

EXPORTED CUresult cuArrayCreate_v2(CUarray *array, const CUarray2d *asked) {
    MISSING(REAL(cuArrayCreate_v2));
    CUarray3d same = {.width = asked ? asked->width : 0, .height = asked ? asked->height : 0,
                      .format = asked ? asked->format : 0, .channels = asked ? asked->channels : 0};
    record *begun = begin(leases_here(), array_bytes(&same, 1));
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuArrayCreate_v2)(array, asked);
    return end(begun, outcome, ARRAY, outcome ? 0 : (uintptr_t)*array);
}

EXPORTED CUresult cuArray3DCreate_v2(CUarray *array, const CUarray3d *asked) {
    MISSING(REAL(cuArray3DCreate_v2));
    record *begun = begin(leases_here(), array_bytes(asked, 1));
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuArray3DCreate_v2)(array, asked);
    return end(begun, outcome, ARRAY, outcome ? 0 : (uintptr_t)*array);
}

EXPORTED CUresult cuMipmappedArrayCreate(CUmipmapped *array, const CUarray3d *asked, unsigned levels) {
    MISSING(REAL(cuMipmappedArrayCreate));
    record *begun = begin(leases_here(), array_bytes(asked, levels));
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuMipmappedArrayCreate)(array, asked, levels);
    return end(begun, outcome, MIPMAP, outcome ? 0 : (uintptr_t)*array);
}

static CUresult destroy(kind what, void *array, CUresult (*real)(void *)) {
    MISSING(real);
    record *gone = forget(what, (uintptr_t)array);
    CUresult outcome = real(array);
    freed(gone, outcome);
    return outcome;
}

EXPORTED CUresult cuArrayDestroy(CUarray array) { return destroy(ARRAY, array, real_function(AT_cuArrayDestroy)); }

EXPORTED CUresult cuMipmappedArrayDestroy(CUmipmapped array) {
    return destroy(MIPMAP, array, real_function(AT_cuMipmappedArrayDestroy));
}

/* ---- physical memory, which lives until nobody refers to it and nothing is mapped on it ---- */

EXPORTED CUresult cuMemCreate(CUmemhandle *handle, size_t size, const CUallocationprop *asked, uint64_t flags) {
    MISSING(REAL(cuMemCreate));
    account_note(ALLOCATES_MAPPED);
    bool on_device = asked && asked->location.type == MEM_LOCATION_DEVICE;
    if (!on_device) return REAL(cuMemCreate)(handle, size, asked, flags);
    record *begun = begin(leases_of_device(asked->location.id), size);
    if (!begun) return REFUSED;
    CUresult outcome = REAL(cuMemCreate)(handle, size, asked, flags);
    return end(begun, outcome, PHYSICAL, outcome ? 0 : *handle);
}

/* Under the guard: the record, out of the table, where it was the last that kept the memory. */
static record *kept_by_none(record **place) {
    return *place && (*place)->references == 0 && (*place)->mappings == 0 ? out(place) : NULL;
}

EXPORTED CUresult cuMemRelease(CUmemhandle handle) {
    MISSING(REAL(cuMemRelease));
    record *gone = NULL;
    /* Held over the driver's call: else its number may be another's by the time that ours is changed. */
    pthread_mutex_lock(&guard);
    CUresult outcome = REAL(cuMemRelease)(handle);
    record **place = place_of(PHYSICAL, handle);
    if (outcome == CUDA_SUCCESS && *place) {
        if ((*place)->references) (*place)->references--;
        gone = kept_by_none(place);
    }
    pthread_mutex_unlock(&guard);
    settle(gone);
    return outcome;
}

EXPORTED CUresult cuMemRetainAllocationHandle(CUmemhandle *handle, void *address) {
    MISSING(REAL(cuMemRetainAllocationHandle));
    pthread_mutex_lock(&guard);
    CUresult outcome = REAL(cuMemRetainAllocationHandle)(handle, address);
    record *found = outcome == CUDA_SUCCESS ? *place_of(PHYSICAL, *handle) : NULL;
    if (found) found->references++;
    pthread_mutex_unlock(&guard);
    return outcome;
}

EXPORTED CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset, CUmemhandle handle, uint64_t flags) {
    MISSING(REAL(cuMemMap));
    record *made = calloc(1, sizeof *made);
    if (!made) return CUDA_ERROR_OUT_OF_MEMORY;
    *made = (record){.key = pointer, .owner = handle, .what = MAPPING, .taken.bytes = size};
    pthread_mutex_lock(&guard);
    CUresult outcome = REAL(cuMemMap)(pointer, size, offset, handle, flags);
    record *physical = outcome == CUDA_SUCCESS ? *place_of(PHYSICAL, handle) : NULL;
    if (outcome == CUDA_SUCCESS) {
        if (physical) physical->mappings++;
        if (!physical) imports += size; /* or memory of the host */
        if (!physical) made->owner = 0;
        put(made);
        made = NULL;
    }
    pthread_mutex_unlock(&guard);
    free(made);
    return outcome;
}

EXPORTED CUresult cuMemUnmap(CUdeviceptr pointer, size_t size) {
    MISSING(REAL(cuMemUnmap));
    record *all = NULL;
    pthread_mutex_lock(&guard);
    CUresult outcome = REAL(cuMemUnmap)(pointer, size);
    for (uint64_t at = pointer; outcome == CUDA_SUCCESS && at - pointer < size;) {
        record *mapping = out(place_of(MAPPING, at));
        at += mapping ? mapping->taken.bytes : STEP;
        record **physical = mapping && mapping->owner ? place_of(PHYSICAL, mapping->owner) : NULL;
        if (mapping && !mapping->owner) imports -= mapping->taken.bytes;
        if (physical && *physical) {
            (*physical)->mappings--;
            record *gone = kept_by_none(physical);
            if (gone) {
                gone->following = all;
                all = gone;
            }
        }
        free(mapping);
    }
    pthread_mutex_unlock(&guard);
    while (all) {
        record *following = all->following;
        settle(all);
        all = following;
    }
    return outcome;
}

/* ---- what others exported ---- */

static CUresult opened(CUresult outcome, const CUdeviceptr *pointer) {
    CUdeviceptr base = 0;
    size_t size = 0;
    CUresult (*range)(CUdeviceptr *, size_t *, CUdeviceptr) =
        DRIVER(CUresult, "cuMemGetAddressRange_v2", (CUdeviceptr *, size_t *, CUdeviceptr));
    record *made = outcome == CUDA_SUCCESS ? calloc(1, sizeof *made) : NULL;
    if (!made || !range || range(&base, &size, *pointer) != CUDA_SUCCESS) {
        free(made);
        return outcome;
    }
    *made = (record){.key = *pointer, .owner = (uint64_t)(uintptr_t)context_here(), .what = IMPORT, .taken.bytes = size};
    imports += size;
    remember(made);
    return outcome;
}

EXPORTED CUresult cuIpcOpenMemHandle(CUdeviceptr *pointer, CUipchandle handle, unsigned flags) {
    MISSING(REAL(cuIpcOpenMemHandle));
    account_note(ALLOCATES_SHARED);
    return opened(REAL(cuIpcOpenMemHandle)(pointer, handle, flags), pointer);
}

EXPORTED CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipchandle handle, unsigned flags) {
    MISSING(REAL(cuIpcOpenMemHandle_v2));
    account_note(ALLOCATES_SHARED);
    return opened(REAL(cuIpcOpenMemHandle_v2)(pointer, handle, flags), pointer);
}

EXPORTED CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
    MISSING(REAL(cuIpcCloseMemHandle));
    record *gone = forget(IMPORT, pointer);
    CUresult outcome = REAL(cuIpcCloseMemHandle)(pointer);
    freed(gone, outcome);
    return outcome;
}

/* ---- the functions of CUDA 3.1, whose pointers have 32 bits ---- */

/* No program since 2010 calls them, and what they allocate is not counted: so they allocate nothing. */
#define OBSOLETE(name)                                                                                                 \
    EXPORTED CUresult name(void) { return CUDA_ERROR_NOT_SUPPORTED; }
OBSOLETE(cuMemAlloc)
OBSOLETE(cuMemAllocPitch)
OBSOLETE(cuArrayCreate)
OBSOLETE(cuArray3DCreate)

EXPORTED CUresult cuMemFree(unsigned pointer) {
    return REAL(cuMemFree) ? REAL(cuMemFree)(pointer) : CUDA_ERROR_NOT_INITIALIZED;
}
