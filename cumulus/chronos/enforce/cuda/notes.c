#define _GNU_SOURCE
#include "counter.h"

/* What programs do that does not change how much they hold, and that the driver can't move into main memory with them:
 * it is noted on the lease's account before it is done, so that nobody tries. */

#define NOTED(how, name, parameters, ...)                                                                              \
    EXPORTED CUresult name parameters {                                                                                \
        MISSING(REAL(name));                                                                                           \
        account_note(how);                                                                                             \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }

NOTED(ALLOCATES_SHARED, cuIpcGetMemHandle, (CUipchandle *handle, CUdeviceptr pointer), handle, pointer)
NOTED(ALLOCATES_SHARED, cuIpcGetEventHandle, (CUipchandle *handle, CUevent event), handle, event)
NOTED(ALLOCATES_SHARED, cuIpcOpenEventHandle, (CUevent *event, CUipchandle handle), event, handle)
NOTED(ALLOCATES_SHARED, cuMemExportToShareableHandle, (void *shared, CUmemhandle handle, int type, uint64_t flags),
      shared, handle, type, flags)
NOTED(ALLOCATES_SHARED, cuMemImportFromShareableHandle, (CUmemhandle *handle, void *shared, int type), handle, shared,
      type)
NOTED(ALLOCATES_SHARED, cuMemPoolExportToShareableHandle, (void *shared, CUmempool pool, int type, uint64_t flags),
      shared, pool, type, flags)
NOTED(ALLOCATES_SHARED, cuMemPoolImportFromShareableHandle, (CUmempool *pool, void *shared, int type, uint64_t flags),
      pool, shared, type, flags)
NOTED(ALLOCATES_PEER, cuCtxEnablePeerAccess, (CUcontext peer, unsigned flags), peer, flags)

/* A pool's own device is no peer. */
EXPORTED CUresult cuMemPoolSetAccess(CUmempool pool, const CUaccess *access, size_t count) {
    MISSING(REAL(cuMemPoolSetAccess));
    for (size_t i = 0; access && i < count; i++)
        if (access[i].location.type == MEM_LOCATION_DEVICE && access[i].flags && access[i].location.id != device_here())
            account_note(ALLOCATES_PEER);
    return REAL(cuMemPoolSetAccess)(pool, access, count);
}
