#define _GNU_SOURCE
#include "counter.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

/* How programs come to the driver's functions. Linked with it: the loader finds ours first, by the same names. By
 * dlsym (every CUDA runtime, shared or static): ours stands before libc's. By cuGetProcAddress: ours answers. dlvsym
 * needs none: the driver's functions have no versions, so it does not find them. */

#define X(name, since) EXPORTED CUresult name();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
/* Their addresses alone are needed here; their files have the true parameters. */
FUNCTIONS(X)
#pragma GCC diagnostic pop
#undef X

static struct {
    const char *name;
    void *ours;
    int since;
    void *_Atomic real;
} functions[] = {
#define X(name, since) {#name, (void *)name, since, NULL},
    FUNCTIONS(X)
#undef X
};

/* ---- libc's own dlsym ---- */

typedef void *(*dlsym_function)(void *, const char *);
__attribute__((visibility("hidden"))) dlsym_function chronos_libc_dlsym;

static void find_libc(void) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    for (size_t i = 0; !chronos_libc_dlsym && i < sizeof versions / sizeof *versions; i++)
        chronos_libc_dlsym = (dlsym_function)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
}

static void *libc_dlsym(void *handle, const char *name) {
    if (!chronos_libc_dlsym) find_libc();
    return chronos_libc_dlsym ? chronos_libc_dlsym(handle, name) : NULL;
}

/* ---- the driver's libraries ---- */

static void *library(const char *name) {
    void *found = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    return found ? found : dlopen(name, RTLD_NOW);
}

void *driver_function(const char *name) {
    static void *_Atomic driver;
    if (!driver) driver = library("libcuda.so.1");
    return driver ? libc_dlsym(driver, name) : NULL;
}

void *nvml_function(const char *name) {
    static void *_Atomic nvml;
    if (!nvml) nvml = library("libnvidia-ml.so.1");
    return nvml ? libc_dlsym(nvml, name) : NULL;
}

void *real_function(int at) {
    void *found = functions[at].real;
    if (found) return found;
    const char *name = functions[at].name;
    found = name[0] == 'n' ? nvml_function(name) : driver_function(name);
    if (found != functions[at].ours) functions[at].real = found;
    return functions[at].real;
}

static bool is_driver(const void *address) {
    Dl_info information;
    if (!dladdr(address, &information) || !information.dli_fname) return false;
    const char *slash = strrchr(information.dli_fname, '/'), *file = slash ? slash + 1 : information.dli_fname;
    return strncmp(file, "libcuda.so", 10) == 0 || strncmp(file, "libnvidia-ml.so", 15) == 0;
}

/* ---- dlsym ---- */

/* Ours, where the name is one of ours and the program would get the driver's; else NULL, and libc answers. What another
 * preloaded library looks for behind itself (RTLD_NEXT) stays what it is. */
__attribute__((visibility("hidden"), used)) void *chronos_replacement(void *handle, const char *name) {
    if (!chronos_libc_dlsym) find_libc();
    if (!name || handle == RTLD_NEXT || !((name[0] == 'c' && name[1] == 'u') || strncmp(name, "nvml", 4) == 0))
        return NULL;
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        if (strcmp(name, functions[i].name) != 0) continue;
        void *found = libc_dlsym(handle, name);
        return found && found != functions[i].ours && is_driver(found) ? functions[i].ours : NULL;
    }
    return NULL;
}

/* libc's dlsym is jumped to, not called: it looks at who called it (RTLD_NEXT, RTLD_DEFAULT). */
#if defined(__x86_64__)
__asm__(".text\n.globl dlsym\n.type dlsym,@function\ndlsym:\n"
        "endbr64\npushq %rdi\npushq %rsi\nsubq $8,%rsp\n"
        "call chronos_replacement\n"
        "addq $8,%rsp\npopq %rsi\npopq %rdi\n"
        "testq %rax,%rax\njnz 1f\n"
        "movq chronos_libc_dlsym(%rip),%rax\njmpq *%rax\n"
        "1: ret\n.size dlsym,.-dlsym\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl dlsym\n.type dlsym,%function\ndlsym:\n"
        "stp x29,x30,[sp,#-32]!\nmov x29,sp\nstp x0,x1,[sp,#16]\n"
        "bl chronos_replacement\n"
        "mov x9,x0\nldp x0,x1,[sp,#16]\nldp x29,x30,[sp],#32\n"
        "cbz x9,1f\nmov x0,x9\nret\n"
        "1: adrp x9,chronos_libc_dlsym\nldr x9,[x9,:lo12:chronos_libc_dlsym]\nbr x9\n"
        ".size dlsym,.-dlsym\n");
#else
#error "the CUDA counter knows x86-64 and 64-bit Arm"
#endif

/* ---- cuGetProcAddress ---- */

#define PER_THREAD_STREAM 2

static bool is_of(const char *name, const char *symbol, size_t length) {
    return strncmp(name, symbol, length) == 0 && (name[length] == 0 || name[length] == '_');
}

/* Under a name that is none of ours: a later version of a function, with parameters that we do not know. */
static bool is_exported(const void *address) {
    Dl_info information;
    return dladdr(address, &information) && information.dli_saddr == address;
}

/* By the address, which is certain; where the driver gives one that it does not export, as it says that it chooses: the
 * newest that the program's version has. */
static void *ours_for(const void *given, const char *symbol, int version, uint64_t flags) {
    size_t length = strlen(symbol);
    int best = -1;
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        if (!is_of(functions[i].name, symbol, length)) continue;
        if (real_function(i) == given) return functions[i].ours;
        bool per_thread = strstr(functions[i].name, "_ptsz") != NULL;
        if (functions[i].since <= version && per_thread == (flags == PER_THREAD_STREAM) &&
            (best < 0 || functions[i].since > functions[best].since))
            best = i;
    }
    /* Functions without a stream have no variant for it. */
    if (best < 0 && flags == PER_THREAD_STREAM) return (void *)ours_for(given, symbol, version, 0);
    return best < 0 || !real_function(best) || is_exported(given) ? (void *)given : functions[best].ours;
}

typedef CUresult (*find1)(const char *, void **, int, uint64_t);
typedef CUresult (*find2)(const char *, void **, int, uint64_t, void *);

CUresult cuGetProcAddress(const char *symbol, void **given, int version, uint64_t flags) {
    find1 real = (find1)real_function(AT_cuGetProcAddress);
    CUresult outcome = real ? real(symbol, given, version, flags) : CUDA_ERROR_NOT_INITIALIZED;
    if (outcome == CUDA_SUCCESS && given && *given) *given = ours_for(*given, symbol, version, flags);
    return outcome;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **given, int version, uint64_t flags, void *status) {
    find2 real = (find2)real_function(AT_cuGetProcAddress_v2);
    CUresult outcome = real ? real(symbol, given, version, flags, status) : CUDA_ERROR_NOT_INITIALIZED;
    if (outcome == CUDA_SUCCESS && given && *given) *given = ours_for(*given, symbol, version, flags);
    return outcome;
}
