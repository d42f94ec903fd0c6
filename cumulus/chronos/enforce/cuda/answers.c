#define _GNU_SOURCE
#include "counter.h"

#include <ctype.h>
#include <string.h>

/* The lease is the device: frameworks size themselves by what the driver tells, and nvidia-smi in a job tells its share. */

static void total_at_most(lease_set leases, size_t *total) {
    for (unsigned i = 0; i < accounts_count(); i++)
        if (leases >> i & 1 && *total > account_limit(i)) *total = account_limit(i);
}

static void free_at_most(lease_set leases, size_t *free) {
    for (unsigned i = 0; i < accounts_count(); i++) {
        uint64_t limit = account_limit(i), used = account_used(i), left = used < limit ? limit - used : 0;
        if (leases >> i & 1 && *free > left) *free = left;
    }
}

EXPORTED CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    MISSING(REAL(cuMemGetInfo_v2));
    CUresult outcome = REAL(cuMemGetInfo_v2)(free, total);
    if (outcome != CUDA_SUCCESS) return outcome;
    lease_set leases = leases_here();
    pools_look();
    look_beside(leases);
    if (total) total_at_most(leases, total);
    if (free) free_at_most(leases, free);
    return outcome;
}

EXPORTED CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    MISSING(REAL(cuDeviceTotalMem_v2));
    CUresult outcome = REAL(cuDeviceTotalMem_v2)(bytes, device);
    if (outcome == CUDA_SUCCESS && bytes) total_at_most(leases_of_device(device), bytes);
    return outcome;
}

/* The functions of CUDA 3.1 count in 32 bits. */

EXPORTED CUresult cuMemGetInfo(unsigned *free, unsigned *total) {
    MISSING(REAL(cuMemGetInfo));
    CUresult outcome = REAL(cuMemGetInfo)(free, total);
    size_t left = free ? *free : 0, all = total ? *total : 0;
    if (outcome != CUDA_SUCCESS) return outcome;
    total_at_most(leases_here(), &all);
    free_at_most(leases_here(), &left);
    if (free) *free = (unsigned)left;
    if (total) *total = (unsigned)all;
    return outcome;
}

EXPORTED CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device) {
    MISSING(REAL(cuDeviceTotalMem));
    CUresult outcome = REAL(cuDeviceTotalMem)(bytes, device);
    size_t all = bytes ? *bytes : 0;
    if (outcome != CUDA_SUCCESS) return outcome;
    total_at_most(leases_of_device(device), &all);
    if (bytes) *bytes = (unsigned)all;
    return outcome;
}

/* ---- NVML, which knows every device of the machine ---- */

static bool same_uuid(const char *text, const uint8_t *uuid) {
    static const char digits[] = "0123456789abcdef";
    const char *dash = strchr(text, '-'); /* GPU-…, MIG-… */
    unsigned at = 0;
    for (const char *c = dash ? dash + 1 : text; *c && at < 2 * UUID_BYTES; c++) {
        const char *digit = strchr(digits, tolower((unsigned char)*c));
        if (!digit) continue;
        if (digit - digits != (at % 2 ? uuid[at / 2] & 15 : uuid[at / 2] >> 4)) return false;
        at++;
    }
    return at == 2 * UUID_BYTES;
}

static lease_set leases_of_nvml(NVdevice device) {
    char text[UUID_TEXT];
    lease_set found = 0;
    int (*ask)(NVdevice, char *, unsigned) = NVML(int, "nvmlDeviceGetUUID", (NVdevice, char *, unsigned));
    accounts_open();
    if (accounts_count() == 0 || !ask || ask(device, text, sizeof text) != NVML_SUCCESS) return 0;
    for (unsigned i = 0; i < accounts_count(); i++)
        if (account_uuid(i) && same_uuid(text, account_uuid(i))) found |= 1u << i;
    return found;
}

/* Makes total and free memory those of the leases on the device. False where it has none: the driver's answer stays. */
static bool leased(NVdevice device, size_t *total, size_t *left) {
    lease_set leases = leases_of_nvml(device);
    if (!leases) return false;
    total_at_most(leases, total);
    free_at_most(leases, left);
    return true;
}

EXPORTED int nvmlDeviceGetMemoryInfo(NVdevice device, NVmemory *memory) {
    int (*real)(NVdevice, NVmemory *) = real_function(AT_nvmlDeviceGetMemoryInfo);
    int outcome = real ? real(device, memory) : NVML_ERROR_UNINITIALIZED;
    if (outcome != NVML_SUCCESS || !memory) return outcome;
    size_t total = memory->total, left = memory->free;
    if (leased(device, &total, &left)) *memory = (NVmemory){.total = total, .free = left, .used = total - left};
    return outcome;
}

EXPORTED int nvmlDeviceGetMemoryInfo_v2(NVdevice device, NVmemory2 *memory) {
    int (*real)(NVdevice, NVmemory2 *) = real_function(AT_nvmlDeviceGetMemoryInfo_v2);
    int outcome = real ? real(device, memory) : NVML_ERROR_UNINITIALIZED;
    if (outcome != NVML_SUCCESS || !memory) return outcome;
    size_t total = memory->total, left = memory->free;
    if (!leased(device, &total, &left)) return outcome;
    memory->total = total;
    memory->free = left;
    memory->reserved = 0;
    memory->used = total - left;
    return outcome;
}
