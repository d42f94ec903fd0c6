/* A stand-in for libnvidia-ml.so.1. What its GPUs are and do is in the file `nvml.state` beside the library, read anew
 * with each call; a line each:
 *
 *   gpu UUID TOTAL                      a GPU with so many bytes; lines that follow are about it
 *   held PID BYTES                      a process that holds so many ("-": how many is not told)
 *   client PID BYTES                    a client of MPS
 *   extra BYTES                         in use, and of no process
 *   busy PERCENT | power MILLIWATTS | temperature DEGREES | throttle MASK | ecc CORRECTED UNCORRECTED
 *   sm PID PERCENT                      what a process has of the time
 *   xid NUMBER                          told once by each library that is loaded after the line was written
 *   lost                                off the bus
 *   nvlink NUMBER                       it has NVLink to that GPU
 *   ancestor NUMBER LEVEL               what it and that GPU are both below (nvmlGpuTopologyLevel_t)
 *   mig                                 in MIG mode
 *   instance UUID BYTES SLICES COMPUTE  a MIG instance, with the slices of its GPU and of its compute instance; the first
 *                                       is GPU instance 1, compute instance 0
 *   profile NUMBER SLICES MIB ID        a profile of GPU instances
 *   placement ID SIZE START …           where such a one can be, and the slices that it takes there
 *   taken ID START                      where there is a GPU instance of that profile
 *   secret                              where instances are is told to administrators alone
 *   broken                              (before any gpu) the library does not start
 *   hangs                               (before any gpu) a call does not come back
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INSTANCES = 8, PROFILES = 32, PLACES = 8 };
enum { GPUS = 16, PROCESSES = 256, SUPPORTED = 0, NO_SUCH = 6, SMALL = 7, TIMEOUT = 10, NOT_SUPPORTED = 3, IS_LOST = 15 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned pid; u64 time; unsigned sm, memory, encoder, decoder; } sample_t;
typedef struct { void *device; u64 type, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { char uuid[96]; u64 total; unsigned slices, compute; } instance_t;
typedef struct { unsigned engines[6], gpu_slices, compute_slices; u64 memory_mib; } attributes_t;
typedef struct { unsigned id, p2p, slices, instances, engines[6]; u64 memory_mib; } profile_t;
typedef struct { unsigned start, size; } placement_t;
typedef struct {
    char uuid[96];
    u64 total, extra, throttle, corrected, uncorrected;
    unsigned busy, power, temperature, xid, lost, held, clients, samples;
    process_t processes[PROCESSES], mps[PROCESSES];
    sample_t sm[PROCESSES];
    unsigned nvlinks, ancestors[GPUS], mig, made;
    instance_t instances[INSTANCES];
    profile_t profiles[PROFILES];
    placement_t places[PROFILES][PLACES];
    unsigned placed[PROFILES], secret, takens;
    struct { unsigned id, start; } taken[INSTANCES];
} gpu_t;
typedef struct { void *device; unsigned id, profile; placement_t placement; } instance_info_t;

static gpu_t gpus[GPUS];
static unsigned count, broken;
static unsigned told[GPUS];

/* Links, and what MIG makes of the GPU. */
static void load_parts(gpu_t *gpu, const char *line) {
    unsigned number, other, id;
    u64 bytes;
    char word[96];
    int at;
    if (sscanf(line, "nvlink %u", &number) == 1) gpu->nvlinks |= 1u << number;
    if (sscanf(line, "ancestor %u %u", &number, &other) == 2) gpu->ancestors[number] = other + 1;
    if (!strncmp(line, "mig", 3)) gpu->mig = 1;
    if (sscanf(line, "instance %95s %llu %u %u", word, &bytes, &number, &other) == 4) {
        instance_t *made = &gpu->instances[gpu->made++];
        *made = (instance_t){.total = bytes, .slices = number, .compute = other};
        strcpy(made->uuid, word);
    }
    if (sscanf(line, "profile %u %u %llu %u", &number, &other, &bytes, &id) == 4)
        gpu->profiles[number] = (profile_t){.id = id, .slices = other, .memory_mib = bytes, .instances = INSTANCES};
    if (!strncmp(line, "secret", 6)) gpu->secret = 1;
    if (sscanf(line, "taken %u %u", &id, &number) == 2) {
        gpu->taken[gpu->takens].id = id;
        gpu->taken[gpu->takens++].start = number;
    }
    if (sscanf(line, "placement %u %u%n", &id, &other, &at) == 2)
        for (int more; sscanf(line + at, "%u%n", &number, &more) == 1; at += more)
            gpu->places[id][gpu->placed[id]++] = (placement_t){number, other};
}

/* Beside the library and a stand-in for libcuda, which moves programs into main memory. */
static int is_parked(const char *state, unsigned pid) {
    char path[4200];
    int length = (int)(strrchr(state, '/') - state);
    snprintf(path, sizeof path, "%.*s/parked.%u", length, state, pid);
    return access(path, F_OK) == 0;
}

static void load(void) {
    Dl_info self;
    char path[4096], line[256], *slash;
    dladdr((void *)load, &self);
    strncpy(path, self.dli_fname, sizeof path - 16);
    path[sizeof path - 16] = 0;
    if ((slash = strrchr(path, '/'))) strcpy(slash + 1, "nvml.state"); else strcpy(path, "nvml.state");
    FILE *file = fopen(path, "r");
    memset(gpus, 0, sizeof gpus);
    count = broken = 0;
    if (!file) return;
    gpu_t *gpu = gpus;
    while (fgets(line, sizeof line, file)) {
        unsigned pid, number;
        u64 bytes, other;
        char word[96];
        if (!strncmp(line, "broken", 6)) broken = 1;
        if (!strncmp(line, "hangs", 5)) for (;;) sleep(1);
        if (sscanf(line, "gpu %95s %llu", word, &bytes) == 2 && count < GPUS) {
            gpu = &gpus[count++];
            strcpy(gpu->uuid, word);
            gpu->total = bytes;
        }
        if (sscanf(line, "held %u", &pid) == 1 && is_parked(path, pid)) continue;
        if (sscanf(line, "held %u %llu", &pid, &bytes) == 2)
            gpu->processes[gpu->held++] = (process_t){.pid = pid, .memory = bytes};
        else if (sscanf(line, "held %u %1[-]", &pid, word) == 2)
            gpu->processes[gpu->held++] = (process_t){.pid = pid, .memory = ~0ULL};
        if (sscanf(line, "client %u %llu", &pid, &bytes) == 2)
            gpu->mps[gpu->clients++] = (process_t){.pid = pid, .memory = bytes};
        if (sscanf(line, "sm %u %u", &pid, &number) == 2)
            gpu->sm[gpu->samples++] = (sample_t){.pid = pid, .sm = number};
        if (sscanf(line, "extra %llu", &bytes) == 1) gpu->extra = bytes;
        if (sscanf(line, "busy %u", &number) == 1) gpu->busy = number;
        if (sscanf(line, "power %u", &number) == 1) gpu->power = number;
        if (sscanf(line, "temperature %u", &number) == 1) gpu->temperature = number;
        if (sscanf(line, "throttle %llx", &bytes) == 1) gpu->throttle = bytes;
        if (sscanf(line, "ecc %llu %llu", &bytes, &other) == 2) gpu->corrected = bytes, gpu->uncorrected = other;
        if (sscanf(line, "xid %u", &number) == 1) gpu->xid = number;
        if (!strncmp(line, "lost", 4)) gpu->lost = 1;
        load_parts(gpu, line);
    }
    fclose(file);
}

static gpu_t *known(void *device) {
    load();
    return (gpu_t *)device >= gpus && (gpu_t *)device < gpus + count ? device : NULL;
}
static instance_t *instance(void *device) {
    load();
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < gpus[i].made; j++)
            if (device == &gpus[i].instances[j]) return device;
    return NULL;
}
#define KNOWN(device)                                                                                                  \
    gpu_t *gpu = known(device);                                                                                        \
    if (!gpu) return NO_SUCH;                                                                                          \
    if (gpu->lost) return IS_LOST

int nvmlInit_v2(void) { load(); return broken ? 9 : 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned room) { return room ? strcpy(text, "580.1"), 0 : SMALL; }
int nvmlDeviceGetCount_v2(unsigned *number) { load(); *number = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    load();
    *device = &gpus[index];
    return index < count ? 0 : NO_SUCH;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    load();
    for (unsigned index = 0; index < count; index++)
        for (unsigned i = 0; i < gpus[index].made; i++)
            if (!strcmp(gpus[index].instances[i].uuid, uuid)) { *device = &gpus[index].instances[i]; return 0; }
    for (unsigned index = 0; index < count; index++)
        if (!strcmp(gpus[index].uuid, uuid)) { *device = &gpus[index]; return gpus[index].lost ? IS_LOST : 0; }
    return NO_SUCH;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned room) {
    instance_t *part = instance(device);
    if (part) { strcpy(uuid, part->uuid); return 0; }
    KNOWN(device);
    if (strlen(gpu->uuid) >= room) return SMALL;
    strcpy(uuid, gpu->uuid);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    instance_t *part = instance(device);
    if (part) { *memory = (memory_t){part->total, part->total, 0}; return 0; }
    KNOWN(device);
    memory->total = gpu->total;
    memory->used = gpu->extra;
    for (unsigned i = 0; i < gpu->held; i++) memory->used += gpu->processes[i].memory != ~0ULL ? gpu->processes[i].memory : 0;
    for (unsigned i = 0; i < gpu->clients; i++) memory->used += gpu->mps[i].memory;
    memory->free = gpu->total - memory->used;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) { KNOWN(device); rates->gpu = gpu->busy; return 0; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *power) { KNOWN(device); *power = gpu->power; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
    KNOWN(device);
    *degrees = gpu->temperature;
    return sensor;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *mask) { KNOWN(device); *mask = gpu->throttle; return 0; }
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, u64 *errors) {
    KNOWN(device);
    *errors = kind ? gpu->uncorrected : gpu->corrected;
    return counter;
}
int nvmlDeviceGetProcessUtilization(void *device, sample_t *samples, unsigned *number, u64 since) {
    KNOWN(device);
    if (*number < 20) { *number = 20; return SMALL; }
    *number = gpu->samples;
    for (unsigned i = 0; i < gpu->samples; i++) { samples[i] = gpu->sm[i]; samples[i].time = since; }
    return 0;
}
static int listed(const process_t *all, unsigned there, unsigned *number, process_t *processes) {
    unsigned room = *number;
    *number = there;
    if (room < there) return SMALL;
    memcpy(processes, all, there * sizeof *all);
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *number, process_t *processes) {
    KNOWN(device);
    return listed(gpu->processes, gpu->held, number, processes);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned *number, process_t *processes) {
    KNOWN(device);
    return listed(gpu->mps, gpu->clients, number, processes);
}
int nvmlEventSetCreate(void **set) { *set = told; return 0; }
int nvmlDeviceRegisterEvents(void *device, u64 types, void *set) { KNOWN(device); return types && set ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned milliseconds) {
    load();
    for (unsigned index = 0; index < count; index++)
        if (gpus[index].xid && gpus[index].xid != told[index]) {
            told[index] = gpus[index].xid;
            *event = (event_t){.device = &gpus[index], .type = 8, .data = gpus[index].xid};
            return set ? 0 : 2;
        }
    return milliseconds ? NOT_SUPPORTED : TIMEOUT;
}

/* Links and MIG */
int nvmlDeviceGetP2PStatus(void *device, void *other, unsigned caps, unsigned *status) {
    KNOWN(device);
    *status = gpu->nvlinks >> ((gpu_t *)other - gpus) & 1 ? 0 : 5;
    return caps == 2 ? 0 : NOT_SUPPORTED;
}
int nvmlDeviceGetTopologyCommonAncestor(void *device, void *other, unsigned *level) {
    KNOWN(device);
    unsigned said = gpu->ancestors[(gpu_t *)other - gpus];
    *level = said - 1;
    return said ? 0 : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) {
    KNOWN(device);
    *now = *pending = gpu->mig;
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *number) { KNOWN(device); *number = INSTANCES - 1; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    KNOWN(device);
    *part = &gpu->instances[index];
    return index < gpu->made ? 0 : NO_SUCH;
}
int nvmlDeviceGetAttributes_v2(void *device, attributes_t *attributes) {
    instance_t *part = instance(device);
    if (!part) return NOT_SUPPORTED;
    *attributes = (attributes_t){.gpu_slices = part->slices, .compute_slices = part->compute};
    return 0;
}
int nvmlDeviceGetGpuInstanceProfileInfo(void *device, unsigned profile, profile_t *info) {
    KNOWN(device);
    if (!gpu->mig || profile >= PROFILES || !gpu->profiles[profile].slices) return NOT_SUPPORTED;
    *info = gpu->profiles[profile];
    return 0;
}
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *device, unsigned id, placement_t *places, unsigned *number) {
    KNOWN(device);
    if (places && *number < gpu->placed[id]) return SMALL;
    *number = gpu->placed[id];
    if (places) memcpy(places, gpu->places[id], *number * sizeof *places);
    return 0;
}
int nvmlDeviceGetGpuInstances(void *device, unsigned id, void **found, unsigned *number) {
    KNOWN(device);
    *number = 0;
    for (unsigned i = 0; i < gpu->takens; i++)
        if (gpu->taken[i].id == id) found[(*number)++] = &gpu->taken[i];
    return gpu->secret ? 4 : 0;
}
int nvmlGpuInstanceGetInfo(void *one, instance_info_t *info) {
    load();
    for (unsigned g = 0; g < count; g++)
        for (unsigned i = 0; i < gpus[g].takens; i++)
            if (one == &gpus[g].taken[i]) {
                unsigned id = gpus[g].taken[i].id;
                info->placement = (placement_t){gpus[g].taken[i].start, gpus[g].places[id][0].size};
                return 0;
            }
    return NO_SUCH;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *part, void **device) {
    for (unsigned g = 0; g < count; g++)
        for (unsigned i = 0; i < gpus[g].made; i++)
            if (part == &gpus[g].instances[i]) { *device = &gpus[g]; return 0; }
    return NO_SUCH;
}
int nvmlDeviceGetMinorNumber(void *device, unsigned *number) { KNOWN(device); *number = gpu - gpus; return 0; }
int nvmlDeviceGetGpuInstanceId(void *part, unsigned *id) {
    void *device;
    if (nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part, &device)) return NO_SUCH;
    *id = (instance_t *)part - ((gpu_t *)device)->instances + 1;
    return 0;
}
int nvmlDeviceGetComputeInstanceId(void *part, unsigned *id) { *id = 0; return instance(part) ? 0 : NO_SUCH; }
