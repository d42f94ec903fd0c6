/* An OpenCL with one platform and three devices, as Apple's on a laptop. The third is off. In the environment,
   OPENCL_REFUSES is the function that fails, and OPENCL_IDS says which of the devices' ids there are: uuid, nvidia, amd. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int platform, devices[3];

static int has(const char *variable, const char *value)
{
    const char *found = getenv(variable);
    return found != NULL && strstr(found, value) != NULL;
}

static void *created(const char *function, int *error)
{
    int refused = has("OPENCL_REFUSES", function);
    *error = refused ? -6 : 0;
    return refused ? NULL : &platform;
}

void *clCreateContext(const intptr_t *properties, uint32_t count, void *const *asked, void *notify, void *data, int *error)
{
    if (count != 1 || asked[0] != &devices[0])
        abort();
    return created("clCreateContext", error);
}

void *clCreateProgramWithSource(void *context, uint32_t count, const char **text, const size_t *lengths, int *error)
{
    if (context != &platform || count != 1 || strstr(text[0], "kernel void") == NULL || lengths != NULL)
        abort();
    return created("clCreateProgramWithSource", error);
}

int clBuildProgram(void *program, uint32_t count, void *const *asked, const char *options, void *notify, void *data)
{
    if (program != &platform || count != 1 || asked[0] != &devices[0] || options[0] != 0)
        abort();
    return has("OPENCL_REFUSES", "clBuildProgram") ? -11 : 0;
}

int clGetPlatformIDs(uint32_t count, void **found, uint32_t *number)
{
    found[0] = &platform;
    *number = 1;
    return 0;
}

int clGetDeviceIDs(void *asked, uint64_t type, uint32_t count, void **found, uint32_t *number)
{
    if (asked != &platform || type != 0xFFFFFFFFu || count < 3)
        return -30;
    for (int i = 0; i < 3; i++)
        found[i] = &devices[i];
    *number = 3;
    return 0;
}

static int answer(const void *value, size_t length, size_t size, void *into, size_t *written)
{
    if (size < length)
        return -30;
    memcpy(into, value, length);
    *written = length;
    return 0;
}

int clGetPlatformInfo(void *asked, uint32_t name, size_t size, void *into, size_t *written)
{
    return name == 0x0902 ? answer("Apple", 6, size, into, written) : -30;
}

int clGetDeviceInfo(void *asked, uint32_t name, size_t size, void *into, size_t *written)
{
    long which = (int *)asked - devices;
    uint64_t type = which == 0 ? 2 : 4, memory = which == 0 ? 17179869184u : 11453251584u;
    uint32_t available = which != 2, bus = 0x18, slot = 0, domain = 1;
    const unsigned char uuid[16] = {0x2a, 0xd1, 0xc3, 0xa8}, topology[24] = {[21] = 0xc1, [22] = 3, [23] = 2};
    switch (name) {
    case 0x1000: return answer(&type, sizeof type, size, into, written);
    case 0x101F: return answer(&memory, sizeof memory, size, into, written);
    case 0x1027: return answer(&available, sizeof available, size, into, written);
    case 0x102B: return answer(which == 0 ? "Apple M1 CPU" : "Apple M1 ", which == 0 ? 13 : 10, size, into, written);
    case 0x102C: return answer("Apple", 6, size, into, written);
    case 0x106A: return has("OPENCL_IDS", "uuid") ? answer(uuid, sizeof uuid, size, into, written) : -30;
    case 0x4008: return has("OPENCL_IDS", "nvidia") ? answer(&bus, sizeof bus, size, into, written) : -30;
    case 0x4009: return has("OPENCL_IDS", "nvidia") ? answer(&slot, sizeof slot, size, into, written) : -30;
    case 0x400A: return has("OPENCL_IDS", "nvidia") ? answer(&domain, sizeof domain, size, into, written) : -30;
    case 0x4037: return has("OPENCL_IDS", "amd") ? answer(topology, sizeof topology, size, into, written) : -30;
    case 0x102D: return answer("1.2 1.0", 8, size, into, written);
    }
    return -30;
}
