#include "layer.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Memory that programs hold by pointer: shared virtual memory (clSVMAlloc), unified shared memory
 * (cl_intel_unified_shared_memory), and the other ways to memory that drivers offer as extensions. */

/* ---- what each pointer took ---- */

#define BUCKETS 16384

typedef struct allocation {
    struct allocation *following;
    const void *pointer;
    charge taken;
} allocation;

static allocation *buckets[BUCKETS];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static allocation **bucket(const void *pointer) {
    uint64_t hash = (uint64_t)(uintptr_t)pointer * 0x9E3779B97F4A7C15u;
    return &buckets[hash >> 50 & (BUCKETS - 1)];
}

static void remember(allocation *made) {
    pthread_mutex_lock(&guard);
    allocation **place = bucket(made->pointer);
    made->following = *place;
    *place = made;
    pthread_mutex_unlock(&guard);
}

static allocation *forget(const void *pointer) {
    pthread_mutex_lock(&guard);
    allocation **place = bucket(pointer), *found;
    while (*place && (*place)->pointer != pointer) place = &(*place)->following;
    found = *place;
    if (found) *place = found->following;
    pthread_mutex_unlock(&guard);
    return found;
}

int pointer_is_charged(const void *pointer) {
    int found = 0;
    pthread_mutex_lock(&guard);
    for (size_t i = 0; i < BUCKETS && !found; i++)
        for (const allocation *at = buckets[i]; at && !found; at = at->following)
            found = (uintptr_t)pointer - (uintptr_t)at->pointer < at->taken.bytes;
    pthread_mutex_unlock(&guard);
    return found;
}

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork(void) { pthread_mutex_unlock(&guard); }

/* NULL where the lease has not so much left. */
static allocation *begin(lease_set leases, size_t bytes) {
    allocation *begun = calloc(1, sizeof *begun);
    if (begun && account_take(leases, bytes, &begun->taken)) return begun;
    free(begun);
    return NULL;
}

static void *end(allocation *begun, void *pointer) {
    if (pointer) {
        begun->pointer = pointer;
        remember(begun);
    } else {
        account_give(&begun->taken);
        free(begun);
    }
    return pointer;
}

/* The record goes before the memory, so that a pointer which the driver hands out again is never mistaken for it; the
 * bytes come back after the memory. */
static void settle(allocation *gone) {
    if (gone) account_give(&gone->taken);
    free(gone);
}

/* ---- shared virtual memory ---- */

static void *CL_API_CALL svm_alloc(cl_context context, cl_svm_mem_flags flags, size_t size, cl_uint alignment) {
    allocation *begun = begin(leases_of_context(context), size);
    return begun ? end(begun, next.clSVMAlloc(context, flags, size, alignment)) : NULL;
}

static void CL_API_CALL svm_free(cl_context context, void *pointer) {
    allocation *gone = forget(pointer);
    next.clSVMFree(context, pointer);
    settle(gone);
}

/* Does what the runtime does when it is given no function, and so knows when and whether it was done. */
static void CL_CALLBACK free_queued(cl_command_queue queue, cl_uint count, void *pointers[], void *data) {
    cl_context context = data;
    (void)queue;
    for (cl_uint i = 0; i < count; i++) svm_free(context, pointers[i]);
}

static cl_int CL_API_CALL enqueue_svm_free(cl_command_queue queue, cl_uint count, void *pointers[],
                                           void(CL_CALLBACK *function)(cl_command_queue, cl_uint, void *[], void *),
                                           void *data, cl_uint wait_count, const cl_event *wait, cl_event *event) {
    cl_context context = NULL;
    if (!function &&
        next.clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL) == CL_SUCCESS) {
        function = free_queued;
        data = context;
    }
    return next.clEnqueueSVMFree(queue, count, pointers, function, data, wait_count, wait, event);
}

/* ---- extensions: the driver's own function is asked for at each call, since each platform has another ---- */

static void *driver_function(cl_context context, const char *name) {
    cl_device_id device = NULL;
    cl_platform_id platform = NULL;
    cl_uint count = 0;
    if (next.clGetContextInfo(context, CL_CONTEXT_NUM_DEVICES, sizeof count, &count, NULL) != CL_SUCCESS) return NULL;
    cl_device_id *devices = calloc(count ? count : 1, sizeof *devices);
    if (devices &&
        next.clGetContextInfo(context, CL_CONTEXT_DEVICES, count * sizeof *devices, devices, NULL) == CL_SUCCESS)
        device = devices[0];
    free(devices);
    if (!device || next.clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL) != CL_SUCCESS)
        return NULL;
    return next.clGetExtensionFunctionAddressForPlatform(platform, name);
}

typedef void *(CL_API_CALL *usm_host_alloc)(cl_context, const cl_bitfield *, size_t, cl_uint, cl_int *);
typedef void *(CL_API_CALL *usm_device_alloc)(cl_context, cl_device_id, const cl_bitfield *, size_t, cl_uint, cl_int *);
typedef cl_int(CL_API_CALL *usm_free)(cl_context, void *);

static allocation *begin_usm(cl_context context, cl_device_id device, size_t size, cl_int *error) {
    allocation *begun = begin(device ? leases_of_device(device) : leases_of_context(context), size);
    if (!begun) set_error(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    return begun;
}

static void *CL_API_CALL usm_host(cl_context context, const cl_bitfield *properties, size_t size, cl_uint alignment,
                                  cl_int *error) {
    usm_host_alloc real = (usm_host_alloc)driver_function(context, "clHostMemAllocINTEL");
    set_error(error, CL_INVALID_CONTEXT);
    allocation *begun = real ? begin_usm(context, NULL, size, error) : NULL;
    return begun ? end(begun, real(context, properties, size, alignment, error)) : NULL;
}

static void *usm_on(const char *name, cl_context context, cl_device_id device, const cl_bitfield *properties,
                    size_t size, cl_uint alignment, cl_int *error) {
    usm_device_alloc real = (usm_device_alloc)driver_function(context, name);
    set_error(error, CL_INVALID_CONTEXT);
    allocation *begun = real ? begin_usm(context, device, size, error) : NULL;
    return begun ? end(begun, real(context, device, properties, size, alignment, error)) : NULL;
}

static void *CL_API_CALL usm_device(cl_context context, cl_device_id device, const cl_bitfield *properties, size_t size,
                                    cl_uint alignment, cl_int *error) {
    return usm_on("clDeviceMemAllocINTEL", context, device, properties, size, alignment, error);
}

static void *CL_API_CALL usm_shared(cl_context context, cl_device_id device, const cl_bitfield *properties, size_t size,
                                    cl_uint alignment, cl_int *error) {
    return usm_on("clSharedMemAllocINTEL", context, device, properties, size, alignment, error);
}

static cl_int usm_free_by(const char *name, cl_context context, void *pointer) {
    usm_free real = (usm_free)driver_function(context, name);
    if (!real) return CL_INVALID_CONTEXT;
    allocation *gone = forget(pointer);
    cl_int outcome = real(context, pointer);
    if (outcome == CL_SUCCESS || !gone) {
        settle(gone);
    } else {
        remember(gone);
    }
    return outcome;
}

static cl_int CL_API_CALL usm_release(cl_context context, void *pointer) {
    return usm_free_by("clMemFreeINTEL", context, pointer);
}

static cl_int CL_API_CALL usm_release_when_idle(cl_context context, void *pointer) {
    return usm_free_by("clMemBlockingFreeINTEL", context, pointer);
}

typedef cl_mem(CL_API_CALL *nv_buffer)(cl_context, cl_mem_flags, cl_bitfield, size_t, void *, cl_int *);
typedef cl_mem(CL_API_CALL *intel_buffer)(cl_context, const cl_bitfield *, cl_mem_flags, size_t, void *, cl_int *);

static cl_mem followed(cl_mem object, const charge *taken, cl_int *error) {
    if (object) return memory_follow(object, taken, error);
    account_give(taken);
    return NULL;
}

static cl_mem CL_API_CALL create_buffer_nv(cl_context context, cl_mem_flags flags, cl_bitfield more, size_t size,
                                           void *host_ptr, cl_int *error) {
    charge taken;
    nv_buffer real = (nv_buffer)driver_function(context, "clCreateBufferNV");
    set_error(error, real ? CL_MEM_OBJECT_ALLOCATION_FAILURE : CL_INVALID_CONTEXT);
    if (!real || !account_take(leases_of_context(context), size, &taken)) return NULL;
    return followed(real(context, flags, more, size, host_ptr, error), &taken, error);
}

static cl_mem CL_API_CALL create_buffer_intel(cl_context context, const cl_bitfield *properties, cl_mem_flags flags,
                                              size_t size, void *host_ptr, cl_int *error) {
    charge taken;
    intel_buffer real = (intel_buffer)driver_function(context, "clCreateBufferWithPropertiesINTEL");
    set_error(error, real ? CL_MEM_OBJECT_ALLOCATION_FAILURE : CL_INVALID_CONTEXT);
    if (!real || !account_take(leases_of_context(context), size, &taken)) return NULL;
    return followed(real(context, properties, flags, size, host_ptr, error), &taken, error);
}

static const struct {
    const char *name;
    void *function;
} extensions[] = {
    {"clHostMemAllocINTEL", (void *)usm_host},
    {"clDeviceMemAllocINTEL", (void *)usm_device},
    {"clSharedMemAllocINTEL", (void *)usm_shared},
    {"clMemFreeINTEL", (void *)usm_release},
    {"clMemBlockingFreeINTEL", (void *)usm_release_when_idle},
    {"clCreateBufferNV", (void *)create_buffer_nv},
    {"clCreateBufferWithPropertiesINTEL", (void *)create_buffer_intel},
};

static void *counted(const char *name, void *driver) {
    for (size_t i = 0; driver && name && i < sizeof extensions / sizeof *extensions; i++)
        if (strcmp(name, extensions[i].name) == 0) return extensions[i].function;
    return driver;
}

static void *CL_API_CALL extension(const char *name) { return counted(name, next.clGetExtensionFunctionAddress(name)); }

static void *CL_API_CALL extension_for_platform(cl_platform_id platform, const char *name) {
    return counted(name, next.clGetExtensionFunctionAddressForPlatform(platform, name));
}

void pointer_hooks(cl_icd_dispatch *table) {
    pthread_atfork(before_fork, after_fork, after_fork);
    table->clSVMAlloc = svm_alloc;
    table->clSVMFree = svm_free;
    table->clEnqueueSVMFree = enqueue_svm_free;
    table->clGetExtensionFunctionAddress = extension;
    table->clGetExtensionFunctionAddressForPlatform = extension_for_platform;
}
