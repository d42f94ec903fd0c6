#include "layer.h"

/* After the lease's end nothing new reaches the device: CL_OUT_OF_RESOURCES, which the specification lists for every
 * one of these calls. Reading, mapping, unmapping, shared-memory copies, migrations and waiting stay open, so that a
 * job can save its state in its grace period. */

#define COMMAND(name, parameters, arguments)                                                                           \
    static cl_int CL_API_CALL name parameters {                                                                        \
        if (accounts_expired()) {                                                                                      \
            account_explain_expiry("cl" #name);                                                                             \
            return CL_OUT_OF_RESOURCES;                                                                                \
        }                                                                                                              \
        return next.cl##name arguments;                                                                                \
    }

#define EVENTS cl_uint wait_count, const cl_event *wait, cl_event *event
#define PASS_EVENTS wait_count, wait, event

COMMAND(EnqueueNDRangeKernel,
        (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset, const size_t *global,
         const size_t *local, EVENTS),
        (queue, kernel, dimensions, offset, global, local, PASS_EVENTS))
COMMAND(EnqueueTask, (cl_command_queue queue, cl_kernel kernel, EVENTS), (queue, kernel, PASS_EVENTS))
COMMAND(EnqueueNativeKernel,
        (cl_command_queue queue, void(CL_CALLBACK *function)(void *), void *arguments, size_t size, cl_uint object_count,
         const cl_mem *objects, const void **places, EVENTS),
        (queue, function, arguments, size, object_count, objects, places, PASS_EVENTS))
COMMAND(EnqueueWriteBuffer,
        (cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset, size_t size, const void *from, EVENTS),
        (queue, buffer, blocking, offset, size, from, PASS_EVENTS))
COMMAND(EnqueueWriteBufferRect,
        (cl_command_queue queue, cl_mem buffer, cl_bool blocking, const size_t *origin, const size_t *host_origin,
         const size_t *region, size_t row_pitch, size_t slice_pitch, size_t host_row_pitch, size_t host_slice_pitch,
         const void *from, EVENTS),
        (queue, buffer, blocking, origin, host_origin, region, row_pitch, slice_pitch, host_row_pitch, host_slice_pitch,
         from, PASS_EVENTS))
COMMAND(EnqueueWriteImage,
        (cl_command_queue queue, cl_mem image, cl_bool blocking, const size_t *origin, const size_t *region,
         size_t row_pitch, size_t slice_pitch, const void *from, EVENTS),
        (queue, image, blocking, origin, region, row_pitch, slice_pitch, from, PASS_EVENTS))
COMMAND(EnqueueCopyBuffer,
        (cl_command_queue queue, cl_mem from, cl_mem to, size_t from_offset, size_t to_offset, size_t size, EVENTS),
        (queue, from, to, from_offset, to_offset, size, PASS_EVENTS))
COMMAND(EnqueueCopyBufferRect,
        (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin, const size_t *to_origin,
         const size_t *region, size_t from_row, size_t from_slice, size_t to_row, size_t to_slice, EVENTS),
        (queue, from, to, from_origin, to_origin, region, from_row, from_slice, to_row, to_slice, PASS_EVENTS))
COMMAND(EnqueueCopyImage,
        (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin, const size_t *to_origin,
         const size_t *region, EVENTS),
        (queue, from, to, from_origin, to_origin, region, PASS_EVENTS))
COMMAND(EnqueueCopyImageToBuffer,
        (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *origin, const size_t *region, size_t offset,
         EVENTS),
        (queue, from, to, origin, region, offset, PASS_EVENTS))
COMMAND(EnqueueCopyBufferToImage,
        (cl_command_queue queue, cl_mem from, cl_mem to, size_t offset, const size_t *origin, const size_t *region,
         EVENTS),
        (queue, from, to, offset, origin, region, PASS_EVENTS))
COMMAND(EnqueueFillBuffer,
        (cl_command_queue queue, cl_mem buffer, const void *pattern, size_t pattern_size, size_t offset, size_t size,
         EVENTS),
        (queue, buffer, pattern, pattern_size, offset, size, PASS_EVENTS))
COMMAND(EnqueueFillImage,
        (cl_command_queue queue, cl_mem image, const void *colour, const size_t *origin, const size_t *region, EVENTS),
        (queue, image, colour, origin, region, PASS_EVENTS))
COMMAND(EnqueueSVMMemFill,
        (cl_command_queue queue, void *to, const void *pattern, size_t pattern_size, size_t size, EVENTS),
        (queue, to, pattern, pattern_size, size, PASS_EVENTS))

static bool queue_refused(cl_int *error) {
    if (!accounts_expired()) return false;
    account_explain_expiry("a command queue");
    set_error(error, CL_OUT_OF_RESOURCES);
    return true;
}

static cl_command_queue CL_API_CALL create_queue(cl_context context, cl_device_id device,
                                                 cl_command_queue_properties properties, cl_int *error) {
    return queue_refused(error) ? NULL : next.clCreateCommandQueue(context, device, properties, error);
}

static cl_command_queue CL_API_CALL create_queue_with_properties(cl_context context, cl_device_id device,
                                                                 const cl_queue_properties *properties,
                                                                 cl_int *error) {
    return queue_refused(error) ? NULL : next.clCreateCommandQueueWithProperties(context, device, properties, error);
}

void work_hooks(cl_icd_dispatch *table) {
    table->clEnqueueNDRangeKernel = EnqueueNDRangeKernel;
    table->clEnqueueTask = EnqueueTask;
    table->clEnqueueNativeKernel = EnqueueNativeKernel;
    table->clEnqueueWriteBuffer = EnqueueWriteBuffer;
    table->clEnqueueWriteBufferRect = EnqueueWriteBufferRect;
    table->clEnqueueWriteImage = EnqueueWriteImage;
    table->clEnqueueCopyBuffer = EnqueueCopyBuffer;
    table->clEnqueueCopyBufferRect = EnqueueCopyBufferRect;
    table->clEnqueueCopyImage = EnqueueCopyImage;
    table->clEnqueueCopyImageToBuffer = EnqueueCopyImageToBuffer;
    table->clEnqueueCopyBufferToImage = EnqueueCopyBufferToImage;
    table->clEnqueueFillBuffer = EnqueueFillBuffer;
    table->clEnqueueFillImage = EnqueueFillImage;
    table->clEnqueueSVMMemFill = EnqueueSVMMemFill;
    table->clCreateCommandQueue = create_queue;
    table->clCreateCommandQueueWithProperties = create_queue_with_properties;
}
