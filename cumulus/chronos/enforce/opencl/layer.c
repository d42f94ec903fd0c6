#include "layer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEVICES 64
/* From cl_amd_device_attribute_query: two numbers in KiB, what is free and the largest block of it. */
#define DEVICE_GLOBAL_FREE_MEMORY_AMD 0x4039
#ifndef CL_DEVICE_UUID_KHR
#define CL_DEVICE_UUID_KHR 0x106A /* cl_khr_device_uuid */
#endif
#define EXPORTED __attribute__((visibility("default")))

cl_icd_dispatch next;
static cl_icd_dispatch table;

/* ---- which lease a device is ---- */

static cl_device_id leased[MAX_LEASES];

/* By UUID, where the lease has one and the driver tells them: numbers count the devices that a program is shown, and in a
 * container the platforms that its image has. The numbers are those that discovery saw, and find what has no UUID. */
static void find_on_platform(cl_platform_id platform, int number) {
    cl_device_id devices[MAX_DEVICES];
    cl_uint count = 0;
    bool told = false;
    if (next.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, MAX_DEVICES, devices, &count) != CL_SUCCESS) return;
    if (count > MAX_DEVICES) count = MAX_DEVICES;
    for (cl_uint d = 0; d < count; d++) {
        uint8_t uuid[UUID_BYTES];
        if (next.clGetDeviceInfo(devices[d], CL_DEVICE_UUID_KHR, sizeof uuid, uuid, NULL) != CL_SUCCESS) continue;
        told = true;
        for (unsigned i = 0; i < accounts_count(); i++)
            if (account_uuid(i) && memcmp(account_uuid(i), uuid, UUID_BYTES) == 0) leased[i] = devices[d];
    }
    for (unsigned i = 0; i < accounts_count(); i++) {
        int its_platform, device;
        account_device(i, &its_platform, &device);
        if (leased[i] || (told && account_uuid(i)) || its_platform != number) continue;
        if (device >= 0 && device < (int)count) leased[i] = devices[device];
    }
}

static void find_devices(void) {
    cl_platform_id platforms[MAX_DEVICES];
    cl_uint count = 0;
    if (next.clGetPlatformIDs(MAX_DEVICES, platforms, &count) != CL_SUCCESS) return;
    for (cl_uint p = 0; p < count && p < MAX_DEVICES; p++) find_on_platform(platforms[p], (int)p);
}

/* With one lease everything counts towards it. With several, a device that is none of theirs counts towards the first,
 * so that no device is a way around. */
lease_set leases_of_device(cl_device_id device) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (accounts_count() <= 1) return accounts_count();
    pthread_once(&once, find_devices);
    while (device) {
        lease_set found = 0;
        for (unsigned i = 0; i < accounts_count(); i++)
            if (leased[i] == device) found |= 1u << i;
        if (found) return found;
        cl_device_id parent = NULL;
        next.clGetDeviceInfo(device, CL_DEVICE_PARENT_DEVICE, sizeof parent, &parent, NULL);
        device = parent;
    }
    return 1;
}

lease_set leases_of_context(cl_context context) {
    cl_device_id devices[MAX_DEVICES];
    size_t size = 0;
    lease_set found = 0;
    if (accounts_count() <= 1) return accounts_count();
    if (next.clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof devices, devices, &size) != CL_SUCCESS) return 1;
    for (size_t i = 0; i < size / sizeof *devices; i++) found |= leases_of_device(devices[i]);
    return found ? found : 1;
}

/* ---- what a device and a context answer ---- */

static void at_most(void *value, cl_ulong limit) {
    cl_ulong answer;
    memcpy(&answer, value, sizeof answer);
    if (answer > limit) memcpy(value, &limit, sizeof limit);
}

static cl_int CL_API_CALL get_device_info(cl_device_id device, cl_device_info name, size_t size, void *value,
                                          size_t *size_ret) {
    cl_int outcome = next.clGetDeviceInfo(device, name, size, value, size_ret);
    lease_set leases = outcome == CL_SUCCESS && value ? leases_of_device(device) : 0;
    for (unsigned i = 0; i < accounts_count(); i++) {
        if (!(leases >> i & 1)) continue;
        cl_ulong limit = account_limit(i), used = account_used(i);
        if (name == CL_DEVICE_GLOBAL_MEM_SIZE || name == CL_DEVICE_MAX_MEM_ALLOC_SIZE) {
            at_most(value, limit);
        } else if (name == DEVICE_GLOBAL_FREE_MEMORY_AMD) {
            for (size_t at = 0; at + sizeof(size_t) <= size && at < 2 * sizeof(size_t); at += sizeof(size_t))
                at_most((char *)value + at, limit > used ? (limit - used) / 1024 : 0);
        }
    }
    return outcome;
}

/* NVIDIA's OpenCL driver makes no context while it sees MPS, and it looked before this layer was loaded. */
#define NVIDIA_FAILED (-9999)

static void explain_failure(cl_int code) {
    if (code == NVIDIA_FAILED && getenv("CUDA_MPS_PIPE_DIRECTORY"))
        fprintf(stderr, "chronos: NVIDIA's OpenCL does not run beside MPS: set CHRONOS_MPS=off in the job's env\n");
}

static bool context_refused(cl_int *error) {
    if (!accounts_expired()) return false;
    account_explain_expiry("a context");
    set_error(error, CL_DEVICE_NOT_AVAILABLE);
    return true;
}

static cl_context CL_API_CALL create_context(const cl_context_properties *properties, cl_uint count,
                                             const cl_device_id *devices,
                                             void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *),
                                             void *user_data, cl_int *error) {
    if (context_refused(error)) return NULL;
    cl_int outcome = CL_SUCCESS;
    cl_context context = next.clCreateContext(properties, count, devices, notify, user_data, &outcome);
    explain_failure(outcome);
    set_error(error, outcome);
    return context;
}

static cl_context CL_API_CALL create_context_from_type(
    const cl_context_properties *properties, cl_device_type type,
    void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *), void *user_data, cl_int *error) {
    if (context_refused(error)) return NULL;
    cl_int outcome = CL_SUCCESS;
    cl_context context = next.clCreateContextFromType(properties, type, notify, user_data, &outcome);
    explain_failure(outcome);
    set_error(error, outcome);
    return context;
}

/* ---- entry points ---- */

EXPORTED CL_API_ENTRY cl_int CL_API_CALL clGetLayerInfo(cl_layer_info name, size_t size, void *value,
                                                        size_t *size_ret) {
    static const cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    static const char title[] = "chronos";
    const void *answer = name == CL_LAYER_API_VERSION ? (const void *)&version : title;
    size_t length = name == CL_LAYER_API_VERSION ? sizeof version : sizeof title;
    if (name != CL_LAYER_API_VERSION && name != CL_LAYER_NAME) return CL_INVALID_VALUE;
    if (value && size < length) return CL_INVALID_VALUE;
    if (value) memcpy(value, answer, length);
    if (size_ret) *size_ret = length;
    return CL_SUCCESS;
}

static void build_table(const cl_icd_dispatch *target, size_t entries) {
    size_t known = sizeof table / sizeof(void *);
    size_t bytes = (entries < known ? entries : known) * sizeof(void *);
    memcpy(&next, target, bytes);
    memcpy(&table, target, bytes);
    if (accounts_count() == 0) return;
    table.clGetDeviceInfo = get_device_info;
    table.clCreateContext = create_context;
    table.clCreateContextFromType = create_context_from_type;
    memory_hooks(&table);
    pointer_hooks(&table);
    work_hooks(&table);
}

/* A program may hold two loaders (its own and a wheel's): both get the first one's table, whose drivers are the same. */
EXPORTED CL_API_ENTRY cl_int CL_API_CALL clInitLayer(cl_uint entries, const cl_icd_dispatch *target,
                                                     cl_uint *entries_ret, const cl_icd_dispatch **table_ret) {
    if (!target || !entries_ret || !table_ret) return CL_INVALID_VALUE;
    if (!next.clGetPlatformIDs) {
        accounts_open();
        build_table(target, entries);
    }
    *entries_ret = sizeof table / sizeof(void *);
    *table_ret = &table;
    return CL_SUCCESS;
}
