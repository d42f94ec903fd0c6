/* The built counter, as a program finds it that has no driver: it loads, looks symbols up as libc does, allocates nothing. */
#define _GNU_SOURCE
#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define NOT_INITIALIZED 3

int main(int count, char **words) {
    assert(count == 2);
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    assert(library);
    void *(*find)(void *, const char *) = (void *(*)(void *, const char *))dlsym(library, "dlsym");
    assert(find && find != dlsym);
    assert(find(RTLD_DEFAULT, "strlen") == dlsym(RTLD_DEFAULT, "strlen"));
    assert(!find(RTLD_DEFAULT, "no_such_function"));
    int (*allocate)(unsigned long long *, size_t) =
        (int (*)(unsigned long long *, size_t))dlsym(library, "cuMemAlloc_v2");
    unsigned long long pointer = 0;
    assert(allocate);
    assert(dlopen("libcuda.so.1", RTLD_LAZY) || allocate(&pointer, 1) == NOT_INITIALIZED);
    return 0;
}
