// A program of the CUDA runtime: each way to memory, within what is free and beyond. Prints one JSON object of pairs.
#include <cstdio>
#include <cuda_runtime.h>

__global__ void work(float *x, size_t n) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n) x[i] = 7;
}

static size_t fits, huge_;
static bool first = true;

template <typename Allocate, typename Free> static void attempt(const char *name, Allocate allocate, Free release) {
    void *p = nullptr;
    cudaError_t small = allocate(&p, fits);
    if (small == cudaSuccess) small = release(p);
    cudaError_t large = allocate(&p, huge_);
    if (large == cudaSuccess) release(p);
    cudaGetLastError();
    cudaDeviceSynchronize();
    printf("%s\"%s\": [%d, %d]", first ? "{" : ", ", name, (int)small, (int)large);
    first = false;
}

static cudaError_t graph(void **out, size_t size) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaGraphNode_t made, freed;
    cudaMemAllocNodeParams node = {};
    node.poolProps.allocType = cudaMemAllocationTypePinned;
    node.poolProps.location.type = cudaMemLocationTypeDevice;
    node.bytesize = size;
    *out = nullptr;
    cudaGraphCreate(&graph, 0);
    cudaError_t outcome = cudaGraphAddMemAllocNode(&made, graph, nullptr, 0, &node);
    if (outcome == cudaSuccess) outcome = cudaGraphAddMemFreeNode(&freed, graph, &made, 1, node.dptr);
    if (outcome == cudaSuccess) outcome = cudaGraphInstantiate(&exec, graph, 0);
    if (outcome == cudaSuccess) {
        outcome = cudaGraphLaunch(exec, 0);
        cudaDeviceSynchronize();
        size_t left, total;
        cudaMemGetInfo(&left, &total);
        cudaGraphExecDestroy(exec);
    }
    cudaGraphDestroy(graph);
    cudaDeviceGraphMemTrim(0);
    return outcome;
}

int main() {
    size_t left, total;
    if (cudaMemGetInfo(&left, &total) != cudaSuccess) return 1;
    cudaDeviceProp device;
    cudaGetDeviceProperties(&device, 0);
    fits = total / 4, huge_ = total + total / 2;
    auto plain = [](void *p) { return cudaFree(p); };
    attempt("cudaMalloc", [](void **p, size_t n) { return cudaMalloc(p, n); }, plain);
    attempt("cudaMallocAsync", [](void **p, size_t n) { return cudaMallocAsync(p, n, 0); },
            [](void *p) { return cudaFreeAsync(p, 0); });
    attempt("cudaMallocManaged", [](void **p, size_t n) { return cudaMallocManaged(p, n); }, plain);
    attempt("cudaMallocPitch", [](void **p, size_t n) { size_t pitch; return cudaMallocPitch(p, &pitch, 1 << 20, n >> 20); },
            plain);
    attempt("cudaMallocArray", [](void **p, size_t n) {
            cudaChannelFormatDesc f = cudaCreateChannelDesc<float4>();
            return cudaMalloc3DArray((cudaArray_t *)p, &f, make_cudaExtent(1024, 1024, n >> 24)); },
            [](void *p) { return cudaFreeArray((cudaArray_t)p); });
    attempt("graph", graph, [](void *) { return cudaSuccess; });
    float *x;
    float answer = 0;
    cudaError_t outcome = cudaMalloc(&x, fits);
    work<<<1024, 256>>>(x, 1024 * 256);
    cudaMemcpy(&answer, x + 1000, 4, cudaMemcpyDeviceToHost);
    cudaDeviceReset();
    size_t after;
    cudaMemGetInfo(&after, &total);
    printf(", \"works\": %s, \"total\": %zu, \"device\": %zu, \"back\": %s}\n", outcome == 0 && answer == 7 ? "true" : "false",
           total, device.totalGlobalMem, after + (64 << 20) >= left ? "true" : "false");
    return 0;
}
