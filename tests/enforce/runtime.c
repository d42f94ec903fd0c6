/* A layer that stands below the one under test and adds what PoCL has not: pipes, and unified shared memory as
 * cl_intel_unified_shared_memory has it, on malloc. */
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <CL/cl_layer.h>

#include <stdlib.h>
#include <string.h>

static cl_icd_dispatch next, table;

static cl_mem CL_API_CALL create_pipe(cl_context context, cl_mem_flags flags, cl_uint packet, cl_uint packets,
                                      const cl_pipe_properties *properties, cl_int *error) {
    (void)properties;
    return next.clCreateBuffer(context, flags, (size_t)packet * packets, NULL, error);
}

static void *CL_API_CALL host(cl_context context, const cl_bitfield *properties, size_t size, cl_uint alignment,
                              cl_int *error) {
    (void)context, (void)properties, (void)alignment;
    *error = CL_SUCCESS;
    return malloc(size);
}

static void *CL_API_CALL on_device(cl_context context, cl_device_id device, const cl_bitfield *properties, size_t size,
                                   cl_uint alignment, cl_int *error) {
    (void)device;
    return host(context, properties, size, alignment, error);
}

static cl_int CL_API_CALL release(cl_context context, void *pointer) {
    (void)context;
    free(pointer);
    return CL_SUCCESS;
}

static void *CL_API_CALL extension(cl_platform_id platform, const char *name) {
    if (strcmp(name, "clHostMemAllocINTEL") == 0) return (void *)host;
    if (strcmp(name, "clDeviceMemAllocINTEL") == 0 || strcmp(name, "clSharedMemAllocINTEL") == 0)
        return (void *)on_device;
    if (strcmp(name, "clMemFreeINTEL") == 0 || strcmp(name, "clMemBlockingFreeINTEL") == 0) return (void *)release;
    return next.clGetExtensionFunctionAddressForPlatform(platform, name);
}

CL_API_ENTRY cl_int CL_API_CALL clGetLayerInfo(cl_layer_info name, size_t size, void *value, size_t *size_ret) {
    cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    if (name != CL_LAYER_API_VERSION) return CL_INVALID_VALUE;
    if (value && size >= sizeof version) memcpy(value, &version, sizeof version);
    if (size_ret) *size_ret = sizeof version;
    return CL_SUCCESS;
}

CL_API_ENTRY cl_int CL_API_CALL clInitLayer(cl_uint entries, const cl_icd_dispatch *target, cl_uint *entries_ret,
                                            const cl_icd_dispatch **table_ret) {
    size_t known = sizeof table / sizeof(void *);
    memcpy(&next, target, (entries < known ? entries : known) * sizeof(void *));
    table = next;
    table.clCreatePipe = create_pipe;
    table.clGetExtensionFunctionAddressForPlatform = extension;
    *entries_ret = (cl_uint)known;
    *table_ret = &table;
    return CL_SUCCESS;
}
