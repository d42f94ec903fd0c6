/* A stand-in for librocm_smi64.so, as rocm_smi.h says: one GPU at 0000:03:00.0 on which the process PID holds 5 GiB,
 * and another process that has nothing there. */
#include <stdint.h>
#include <string.h>

typedef struct { uint32_t process_id, pasid; uint64_t vram_usage, sdma_usage; uint32_t cu_occupancy; } process_t;
enum { OK = 0, INVALID = 1, NOT_FOUND = 17 };

int rsmi_init(uint64_t flags) { return flags ? INVALID : OK; }
int rsmi_num_monitor_devices(uint32_t *count) { *count = 1; return OK; }
int rsmi_dev_pci_id_get(uint32_t device, uint64_t *id) { *id = 3 << 8; return device ? INVALID : OK; }
int rsmi_dev_memory_usage_get(uint32_t device, int type, uint64_t *used) {
    *used = 6ULL << 30;
    return device || type ? INVALID : OK;
}
int rsmi_compute_process_info_get(process_t *processes, uint32_t *count) {
    if (processes && *count < 2) return INVALID;
    if (processes) {
        memset(processes, 0, 2 * sizeof *processes);
        processes[0].process_id = PID;
        processes[1].process_id = 1;
    }
    *count = 2;
    return OK;
}
int rsmi_compute_process_info_by_device_get(uint32_t pid, uint32_t device, process_t *process) {
    if (device || pid != PID) return NOT_FOUND;
    *process = (process_t){.process_id = pid, .vram_usage = 5ULL << 30};
    return OK;
}
