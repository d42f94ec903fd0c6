/* A stand-in for libze_loader.so.1, as zes_api.h says: one GPU at 0000:04:00.0 on which the process PID holds 5 GiB of
 * 6 in use. Structures must say what they are. */
#include <stddef.h>
#include <stdint.h>

typedef struct { uint32_t stype; void *next; uint32_t domain, bus, device, function; uint64_t rest[8]; } pci_t;
typedef struct { uint32_t stype; const void *next; uint32_t pid; uint64_t memory, shared; uint32_t engines; } process_t;
typedef struct { uint32_t stype; const void *next; uint32_t health; uint64_t free, size; } memory_t;
enum { OK = 0, INVALID = 0x78000004 };
static char driver, device, module;

static int one(uint32_t *count, void **found, void *handle) {
    if (found && *count) *found = handle;
    *count = 1;
    return OK;
}
int zesInit(uint32_t flags) { return flags ? INVALID : OK; }
int zesDriverGet(uint32_t *count, void **drivers) { return one(count, drivers, &driver); }
int zesDeviceGet(void *of, uint32_t *count, void **devices) {
    return of == &driver ? one(count, devices, &device) : INVALID;
}
int zesDevicePciGetProperties(void *of, pci_t *place) {
    if (of != &device || place->stype != 0x2) return INVALID;
    place->bus = 4;
    return OK;
}
int zesDeviceEnumMemoryModules(void *of, uint32_t *count, void **modules) {
    return of == &device ? one(count, modules, &module) : INVALID;
}
int zesMemoryGetState(void *of, memory_t *state) {
    if (of != &module || state->stype != 0x1e) return INVALID;
    state->size = 16ULL << 30;
    state->free = 10ULL << 30;
    return OK;
}
int zesDeviceProcessesGetState(void *of, uint32_t *count, process_t *processes) {
    if (of != &device) return INVALID;
    if (processes && *count) {
        if (processes->stype != 0x16) return INVALID;
        processes->pid = PID;
        processes->memory = 5ULL << 30;
    }
    *count = 1;
    return OK;
}
