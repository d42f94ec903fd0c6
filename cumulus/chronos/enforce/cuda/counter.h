/*
 * The CUDA counter: holds all processes of a lease together to its memory. Preloaded (LD_PRELOAD) into every program of
 * the lease; what it does not know passes through, so that it does not age with the driver.
 *
 *   lookup.c   how programs find the driver's functions: dlsym, cuGetProcAddress, or by being linked with it
 *   memory.c   allocations that programs hold by pointer or handle
 *   pool.c     stream-ordered pools and graphs, which hold more than was asked of them
 *   context.c  contexts and what the driver holds beside what was asked for
 *   notes.c    what else programs do that matters for moving them into main memory
 *   answers.c  what the driver and NVML tell of the device's size
 *   ../common/account.c  the lease's account, shared by its processes, OpenCL's and these
 */
#ifndef CHRONOS_CUDA_COUNTER_H
#define CHRONOS_CUDA_COUNTER_H

#include "account.h"
#include "driver.h"

#define EXPORTED __attribute__((visibility("default")))

/* Every function that stands before the driver's of the same name, and the CUDA version since which cuGetProcAddress
 * means it by the name without its suffix. */
#define FUNCTIONS(X)                                                                                                   \
    X(cuGetProcAddress, 11030) X(cuGetProcAddress_v2, 12000)                                                           \
    X(cuMemAlloc, 2000) X(cuMemAlloc_v2, 3020) X(cuMemAllocPitch, 2000) X(cuMemAllocPitch_v2, 3020)                    \
    X(cuMemFree, 2000) X(cuMemFree_v2, 3020) X(cuMemAllocManaged, 6000)                                                \
    X(cuMemAllocAsync, 11020) X(cuMemAllocAsync_ptsz, 11020)                                                           \
    X(cuMemAllocFromPoolAsync, 11020) X(cuMemAllocFromPoolAsync_ptsz, 11020)                                           \
    X(cuMemFreeAsync, 11020) X(cuMemFreeAsync_ptsz, 11020)                                                             \
    X(cuMemPoolCreate, 11020) X(cuMemPoolDestroy, 11020) X(cuMemPoolTrimTo, 11020)                                     \
    X(cuMemCreate, 10020) X(cuMemRelease, 10020) X(cuMemRetainAllocationHandle, 11000)                                 \
    X(cuMemMap, 10020) X(cuMemUnmap, 10020)                                                                            \
    X(cuIpcOpenMemHandle, 4010) X(cuIpcOpenMemHandle_v2, 11000) X(cuIpcCloseMemHandle, 4010)                           \
    X(cuIpcGetMemHandle, 4010) X(cuIpcGetEventHandle, 4010) X(cuIpcOpenEventHandle, 4010)                              \
    X(cuMemExportToShareableHandle, 10020) X(cuMemImportFromShareableHandle, 10020)                                    \
    X(cuMemPoolExportToShareableHandle, 11020) X(cuMemPoolImportFromShareableHandle, 11020)                            \
    X(cuCtxEnablePeerAccess, 4000) X(cuMemPoolSetAccess, 11020)                                                        \
    X(cuArrayCreate, 2000) X(cuArrayCreate_v2, 3020) X(cuArray3DCreate, 2000) X(cuArray3DCreate_v2, 3020)              \
    X(cuArrayDestroy, 2000) X(cuMipmappedArrayCreate, 5000) X(cuMipmappedArrayDestroy, 5000)                           \
    X(cuGraphAddMemAllocNode, 11040) X(cuGraphAddNode, 12020) X(cuGraphAddNode_v2, 12030)                              \
    X(cuGraphLaunch, 10000) X(cuGraphLaunch_ptsz, 10000) X(cuDeviceGraphMemTrim, 11040)                                \
    X(cuStreamSynchronize, 2000) X(cuStreamSynchronize_ptsz, 7000) X(cuEventSynchronize, 2000)                         \
    X(cuCtxSynchronize, 2000) X(cuCtxSynchronize_v2, 13000)                                                            \
    X(cuCtxCreate, 2000) X(cuCtxCreate_v2, 3020) X(cuCtxCreate_v3, 11040) X(cuCtxCreate_v4, 12050)                     \
    X(cuCtxDestroy, 2000) X(cuCtxDestroy_v2, 4000)                                                                     \
    X(cuDevicePrimaryCtxRetain, 7000) X(cuDevicePrimaryCtxRelease, 7000) X(cuDevicePrimaryCtxRelease_v2, 11000)        \
    X(cuDevicePrimaryCtxReset, 7000) X(cuDevicePrimaryCtxReset_v2, 11000)                                              \
    X(cuMemGetInfo, 2000) X(cuMemGetInfo_v2, 3020) X(cuDeviceTotalMem, 2000) X(cuDeviceTotalMem_v2, 3020)              \
    X(nvmlDeviceGetMemoryInfo, 0) X(nvmlDeviceGetMemoryInfo_v2, 0)

enum {
#define X(name, since) AT_##name,
    FUNCTIONS(X)
#undef X
        FUNCTION_COUNT
};

/* The driver's own function behind one of ours; NULL where this driver has none. */
void *real_function(int at);
#define REAL(name) ((__typeof__(&name))real_function(AT_##name))

/* In a function of ours: this driver may have none of that name. */
#define MISSING(real)                                                                                                  \
    if (!(real)) return CUDA_ERROR_NOT_INITIALIZED

/* A function of the driver, or of NVML, that we only call. Looked for once for each place in the code. */
void *driver_function(const char *name);
void *nvml_function(const char *name);
#define FOUND_ONCE(find, result, name, parameters)                                                                     \
    ({                                                                                                                 \
        static void *_Atomic found_;                                                                                   \
        void *it_ = found_;                                                                                            \
        if (!it_) found_ = it_ = find(name);                                                                           \
        (result(*) parameters) it_;                                                                                    \
    })
#define DRIVER(result, name, parameters) FOUND_ONCE(driver_function, result, name, parameters)
#define NVML(result, name, parameters) FOUND_ONCE(nvml_function, result, name, parameters)

/* ---- context.c ---- */

/* The leases whose memory an allocation takes: by device, by the calling thread's context, by the stream's. */
lease_set leases_of_device(CUdevice device);
lease_set leases_here(void);
CUcontext context_here(void);
CUdevice device_here(void);

/* The device that a stream works on. False where that is not known. */
bool device_of_stream(CUstream stream, CUdevice *device);

/* Before memory is asked for: what the driver holds beside is looked at anew, where the last look is old. */
void look_beside(lease_set leases);

/* ---- memory.c ---- */

/* Takes from the account, and if there is not enough, again after this process' pools were trimmed. */
bool take(lease_set leases, uint64_t bytes, charge *taken);

/* Bytes that this process reaches and another one's account holds. */
uint64_t imported(void);

/* The context is gone, and with it what was allocated in it. */
void forget_context(CUcontext context);

/* ---- pool.c ---- */

/* Lets go of what the process' pools hold and do not use. False where there is no pool. */
bool pools_trim(void);

/* Memory went back to some pool of the process, which may let go of it when the device is waited for. */
void pools_changed(void);

/* Reads what the pools hold, where one of them may hold less by now. */
void pools_look(void);

#endif
