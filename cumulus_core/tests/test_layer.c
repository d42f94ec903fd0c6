/* The built layer, as an OpenCL loader takes it: it loads, says what it is, and stands before each function. */
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl_layer.h>

#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static cl_int CL_API_CALL no_platforms(cl_uint entries, cl_platform_id *platforms, cl_uint *count) {
    (void)entries;
    (void)platforms;
    if (count) *count = 0;
    return CL_SUCCESS;
}

int main(int count, char **words) {
    assert(count == 2);
    setenv("CHRONOS_ACCOUNT", "/nowhere", 1); /* a lease whose account can't be used: everything is refused */
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    assert(library);
    pfn_clGetLayerInfo information = (pfn_clGetLayerInfo)dlsym(library, "clGetLayerInfo");
    pfn_clInitLayer begin = (pfn_clInitLayer)dlsym(library, "clInitLayer");
    assert(information && begin);

    cl_layer_api_version version = 0;
    assert(information(CL_LAYER_API_VERSION, sizeof version, &version, NULL) == CL_SUCCESS);
    assert(version == CL_LAYER_API_VERSION_100);

    cl_icd_dispatch beneath = {.clGetPlatformIDs = no_platforms};
    const cl_icd_dispatch *table = NULL;
    cl_uint entries = sizeof beneath / sizeof beneath.clGetPlatformIDs, returned = 0;
    assert(begin(entries, &beneath, &returned, &table) == CL_SUCCESS);
    assert(table && returned > 0 && returned <= entries);
    assert(table->clCreateBuffer && table->clCreateBuffer != beneath.clCreateBuffer);
    cl_int error = CL_SUCCESS;
    assert(!table->clCreateBuffer(NULL, CL_MEM_READ_WRITE, 1, NULL, &error));
    assert(error == CL_MEM_OBJECT_ALLOCATION_FAILURE);
    return 0;
}
