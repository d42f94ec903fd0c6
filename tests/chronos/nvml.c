/* A stand-in for libnvidia-ml.so.1: one GPU and one process on it, as the variables NVML_PID and NVML_BYTES say. */
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } sample_t;

static char gpu;
static unsigned long long number(const char *name) { return strtoull(getenv(name), NULL, 10); }

int nvmlInit_v2(void) { return getenv("NVML_BROKEN") ? 9 : 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpu; return index ? 2 : 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned room) {
    if (device != &gpu || room < 6) return 2;
    strcpy(uuid, "GPU-a");
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->used = number("NVML_BYTES") + 1;
    return device != &gpu;
}
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) { rates->gpu = 70; return device != &gpu; }
int nvmlDeviceGetProcessUtilization(void *device, sample_t *samples, unsigned *count, unsigned long long since) {
    if (*count < 20) { *count = 20; return 7; } /* NVML_ERROR_INSUFFICIENT_SIZE */
    *count = 1;
    samples[0] = (sample_t){.pid = number("NVML_PID"), .time = since, .sm = 40};
    return device != &gpu;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *processes) {
    *count = 2;
    processes[0] = (process_t){.pid = number("NVML_PID"), .memory = number("NVML_BYTES")};
    processes[1] = (process_t){.pid = 1, .memory = ~0ULL}; /* not told */
    return device != &gpu;
}
