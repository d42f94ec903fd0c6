/* An OpenCL with one platform and three devices, as Apple's on a laptop. The third is off. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int platform, devices[3];

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
    uint32_t available = which != 2;
    switch (name) {
    case 0x1000: return answer(&type, sizeof type, size, into, written);
    case 0x101F: return answer(&memory, sizeof memory, size, into, written);
    case 0x1027: return answer(&available, sizeof available, size, into, written);
    case 0x102B: return answer(which == 0 ? "Apple M1 CPU" : "Apple M1 ", which == 0 ? 13 : 10, size, into, written);
    case 0x102C: return answer("Apple", 6, size, into, written);
    case 0x102D: return answer("1.2 1.0", 8, size, into, written);
    }
    return -30;
}
