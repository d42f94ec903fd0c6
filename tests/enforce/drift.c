/* A million allocations in a lease: `drift LOADER THREADS ROUNDS`, through the ICD loader as any program.
 * Says `done` when every one was granted, and lives until stdin closes. */
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static cl_mem (*create)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
static cl_int (*let_go)(cl_mem);
static void *(*svm_alloc)(cl_context, cl_svm_mem_flags, size_t, cl_uint);
static void (*svm_free)(cl_context, void *);
static cl_context context;
static long rounds;

static void *work(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    for (long i = 0; i < rounds; i++) {
        size_t size = (size_t)rand_r(&state) % 8192 + 1;
        cl_int error = CL_SUCCESS;
        cl_mem buffer = create(context, CL_MEM_READ_WRITE, size, NULL, &error);
        void *pointer = i % 8 == 0 ? svm_alloc(context, CL_MEM_READ_WRITE, size, 0) : (void *)1;
        if (!buffer || !pointer) {
            fprintf(stderr, "round %ld: %zu bytes refused with %d\n", i, size, error);
            exit(1);
        }
        if (i % 8 == 0) svm_free(context, pointer);
        let_go(buffer);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    void *loader = dlopen(arguments[1], RTLD_NOW);
    if (!loader) return fprintf(stderr, "%s\n", dlerror()), 2;
    cl_int (*platforms)(cl_uint, cl_platform_id *, cl_uint *) = dlsym(loader, "clGetPlatformIDs");
    cl_int (*devices)(cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *) =
        dlsym(loader, "clGetDeviceIDs");
    cl_context (*make_context)(const cl_context_properties *, cl_uint, const cl_device_id *, void *, void *, cl_int *) =
        dlsym(loader, "clCreateContext");
    create = dlsym(loader, "clCreateBuffer");
    let_go = dlsym(loader, "clReleaseMemObject");
    svm_alloc = dlsym(loader, "clSVMAlloc");
    svm_free = dlsym(loader, "clSVMFree");

    cl_platform_id platform;
    cl_device_id device;
    if (platforms(1, &platform, NULL) || devices(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL)) return 2;
    context = make_context(NULL, 1, &device, NULL, NULL, NULL);

    long threads = strtol(arguments[2], NULL, 10);
    rounds = strtol(arguments[3], NULL, 10) / threads;
    pthread_t running[64];
    for (long i = 0; i < threads; i++) pthread_create(&running[i], NULL, work, (void *)(i + 1));
    for (long i = 0; i < threads; i++) pthread_join(running[i], NULL);
    puts("done");
    fflush(stdout);
    getchar(); /* live, so that its account can be read, until stdin closes */
    return 0;
}
