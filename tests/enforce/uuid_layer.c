/* A layer for the tests, below Chronos': every device has the UUID 00 01 02 … 0f. */
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl_layer.h>
#include <string.h>

static cl_icd_dispatch table;
static const cl_icd_dispatch *driver;

static cl_int CL_API_CALL get_device_info(cl_device_id device, cl_device_info name, size_t size, void *value,
                                          size_t *size_ret) {
    if (name != 0x106A) return driver->clGetDeviceInfo(device, name, size, value, size_ret);
    if (value && size < 16) return CL_INVALID_VALUE;
    for (unsigned char i = 0; value && i < 16; i++) ((unsigned char *)value)[i] = i;
    if (size_ret) *size_ret = 16;
    return CL_SUCCESS;
}

CL_API_ENTRY cl_int CL_API_CALL clGetLayerInfo(cl_layer_info name, size_t size, void *value, size_t *size_ret) {
    cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    if (name != CL_LAYER_API_VERSION || (value && size < sizeof version)) return CL_INVALID_VALUE;
    if (value) memcpy(value, &version, sizeof version);
    if (size_ret) *size_ret = sizeof version;
    return CL_SUCCESS;
}

CL_API_ENTRY cl_int CL_API_CALL clInitLayer(cl_uint entries, const cl_icd_dispatch *target, cl_uint *entries_ret,
                                            const cl_icd_dispatch **table_ret) {
    size_t bytes = entries * sizeof(void *);
    driver = target;
    memcpy(&table, target, bytes < sizeof table ? bytes : sizeof table);
    table.clGetDeviceInfo = get_device_info;
    *entries_ret = sizeof table / sizeof(void *);
    *table_ret = &table;
    return CL_SUCCESS;
}
