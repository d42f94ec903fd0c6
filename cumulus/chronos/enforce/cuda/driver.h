/* What this library needs of cuda.h and nvml.h, so that building it needs neither. The values are those of CUDA 12 and
 * 13, whose binary interface NVIDIA keeps. */
#ifndef CHRONOS_CUDA_DRIVER_H
#define CHRONOS_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemhandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmemPool_st *CUmempool;
typedef struct CUarray_st *CUarray;
typedef struct CUmipmapped_st *CUmipmapped;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphnode;
typedef struct CUgraphExec_st *CUgraphexec;

#define CUDA_SUCCESS 0
#define CUDA_ERROR_OUT_OF_MEMORY 2
#define CUDA_ERROR_NOT_INITIALIZED 3
#define CUDA_ERROR_NOT_SUPPORTED 801

typedef struct {
    char reserved[64];
} CUipchandle;

#define MEM_LOCATION_DEVICE 1
typedef struct {
    int type, id;
} CUlocation;

typedef struct {
    CUlocation location;
    int flags;
} CUaccess;

typedef struct {
    int type, handle_types;
    CUlocation location; /* the rest is the driver's to read */
} CUallocationprop;

typedef struct {
    int type, handle_types;
    CUlocation location;
    void *security;
    size_t most;
    unsigned char reserved[56];
} CUpoolprops;

#define POOL_RESERVED_CURRENT 5
#define POOL_USED_CURRENT 7
#define GRAPH_USED_CURRENT 0
#define GRAPH_RESERVED_CURRENT 2
#define GRAPH_NODE_MEM_ALLOC 10

typedef struct {
    CUpoolprops pool;
    const void *access;
    size_t access_count, size;
    CUdeviceptr pointer;
} CUallocnode;

typedef struct {
    int type, reserved[3];
    CUallocnode alloc; /* of a union */
} CUnodeparams;

typedef struct {
    size_t width, height;
    int format;
    unsigned channels;
} CUarray2d;

#define ARRAY_SPARSE 0x40
#define ARRAY_DEFERRED 0x80
typedef struct {
    size_t width, height, depth;
    int format;
    unsigned channels, flags;
} CUarray3d;

typedef struct nvmlDevice_st *NVdevice;
typedef struct {
    unsigned long long total, free, used;
} NVmemory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} NVmemory2;
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} NVprocess;

#define UUID_TEXT 96 /* bytes: NVML_DEVICE_UUID_V2_BUFFER_SIZE */
#define NVML_SUCCESS 0
#define NVML_ERROR_UNINITIALIZED 1

#endif
