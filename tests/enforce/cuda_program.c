/* A program that is linked with libcuda.so.1, as those of the driver interface are, and asks for symbols as others do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxSetCurrent(void *context);
int cuMemAlloc_v2(unsigned long long *pointer, size_t size);

/* Is found first by RTLD_DEFAULT; behind itself lies libc's. */
char *strdup(const char *text) {
    char *(*next)(const char *) = (char *(*)(const char *))dlsym(RTLD_NEXT, "strdup");
    return next && next != strdup ? next(text) : NULL;
}

int main(void) {
    void *context;
    unsigned long long pointer;
    int (*by_default)(unsigned long long *, size_t);
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxSetCurrent(context);
    *(void **)&by_default = dlsym(RTLD_DEFAULT, "cuMemAlloc_v2");
    int first = cuMemAlloc_v2(&pointer, 600 << 10), second = cuMemAlloc_v2(&pointer, 600 << 10);
    printf("[%d, %d, %d, %d, %d, %d]\n", first, second, by_default(&pointer, 600 << 10), strdup("x") != NULL,
           dlsym(RTLD_DEFAULT, "no_such_symbol") == NULL,
           dlvsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2", "GLIBC_2.2.5") == NULL);
    return 0;
}
