#include "layer.h"

#include <stdlib.h>

/* Buffers, images and pipes: the memory is taken before the driver is asked and given back when it deletes the object.
 *
 * CL_MEM_USE_HOST_PTR counts like any buffer: the driver may keep the object on the device, and where device and host
 * share memory it is device memory anyway. Sub-buffers and images made from a buffer are views and count nothing. */

static void CL_CALLBACK deleted(cl_mem object, void *data) {
    (void)object;
    account_give(data);
    free(data);
}

cl_mem memory_follow(cl_mem object, const charge *taken, cl_int *error) {
    charge *kept = malloc(sizeof *kept);
    if (kept) {
        *kept = *taken;
        if (next.clSetMemObjectDestructorCallback(object, deleted, kept) == CL_SUCCESS) return object;
        free(kept);
    }
    next.clReleaseMemObject(object);
    account_give(taken);
    set_error(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    return NULL;
}

static bool take(cl_context context, uint64_t bytes, charge *taken, cl_int *error) {
    bool granted = account_take(leases_of_context(context), bytes, taken);
    if (!granted) set_error(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    return granted;
}

static cl_mem made(cl_mem object, const charge *taken, cl_int *error) {
    if (object) return memory_follow(object, taken, error);
    account_give(taken);
    return NULL;
}

/* ---- buffers ---- */

static bool is_view(cl_mem_flags flags, const void *host_ptr) {
    return (flags & CL_MEM_USE_HOST_PTR) && pointer_is_charged(host_ptr);
}

static cl_mem CL_API_CALL create_buffer(cl_context context, cl_mem_flags flags, size_t size, void *host_ptr,
                                        cl_int *error) {
    charge taken;
    if (!take(context, is_view(flags, host_ptr) ? 0 : size, &taken, error)) return NULL;
    return made(next.clCreateBuffer(context, flags, size, host_ptr, error), &taken, error);
}

static cl_mem CL_API_CALL create_buffer_with_properties(cl_context context, const cl_mem_properties *properties,
                                                        cl_mem_flags flags, size_t size, void *host_ptr,
                                                        cl_int *error) {
    charge taken;
    if (!take(context, is_view(flags, host_ptr) ? 0 : size, &taken, error)) return NULL;
    return made(next.clCreateBufferWithProperties(context, properties, flags, size, host_ptr, error), &taken, error);
}

/* ---- images and pipes: an estimate first, then what the driver says it is ---- */

static uint64_t channels(cl_channel_order order) {
    switch (order) {
    case CL_RG: case CL_RA: case CL_RGx: return 2;
    case CL_RGB: case CL_sRGB: case CL_RGBx: return 3;
    case CL_RGBA: case CL_BGRA: case CL_ARGB: case CL_ABGR: case CL_sRGBA: case CL_sBGRA: case CL_sRGBx: return 4;
    default: return 1;
    }
}

static uint64_t pixel_bytes(const cl_image_format *format) {
    switch (format->image_channel_data_type) {
    case CL_UNORM_SHORT_565: case CL_UNORM_SHORT_555: return 2;
    case CL_UNORM_INT_101010: case CL_UNORM_INT_101010_2: return 4;
    case CL_SNORM_INT8: case CL_UNORM_INT8: case CL_SIGNED_INT8: case CL_UNSIGNED_INT8:
        return channels(format->image_channel_order);
    case CL_SNORM_INT16: case CL_UNORM_INT16: case CL_SIGNED_INT16: case CL_UNSIGNED_INT16: case CL_HALF_FLOAT:
        return 2 * channels(format->image_channel_order);
    default: return 4 * channels(format->image_channel_order);
    }
}

static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t image_bytes(const cl_image_format *format, const cl_image_desc *desc) {
    if (!format || !desc || desc->mem_object) return 0;
    bool arrays = desc->image_type == CL_MEM_OBJECT_IMAGE1D_ARRAY || desc->image_type == CL_MEM_OBJECT_IMAGE2D_ARRAY;
    uint64_t height = desc->image_type == CL_MEM_OBJECT_IMAGE2D || desc->image_type == CL_MEM_OBJECT_IMAGE3D ||
                              desc->image_type == CL_MEM_OBJECT_IMAGE2D_ARRAY
                          ? desc->image_height
                          : 1;
    uint64_t layers = arrays ? desc->image_array_size : desc->image_type == CL_MEM_OBJECT_IMAGE3D ? desc->image_depth : 1;
    uint64_t bytes = times(times(times(desc->image_width, pixel_bytes(format)), height), layers);
    return desc->num_mip_levels > 1 ? times(bytes, 2) : bytes;
}

/* A driver that pads its rows says so in CL_MEM_SIZE: the difference is taken too, or the object goes again. */
static cl_mem made_padded(cl_mem object, cl_context context, bool view, charge *taken, cl_int *error) {
    size_t size = 0;
    charge rest;
    if (!object || view || next.clGetMemObjectInfo(object, CL_MEM_SIZE, sizeof size, &size, NULL) != CL_SUCCESS ||
        size <= taken->bytes)
        return made(object, taken, error);
    if (take(context, size - taken->bytes, &rest, error)) {
        taken->bytes = size;
        return made(object, taken, error);
    }
    next.clReleaseMemObject(object);
    account_give(taken);
    return NULL;
}

static cl_mem CL_API_CALL create_image(cl_context context, cl_mem_flags flags, const cl_image_format *format,
                                       const cl_image_desc *desc, void *host_ptr, cl_int *error) {
    charge taken;
    if (!take(context, image_bytes(format, desc), &taken, error)) return NULL;
    cl_mem image = next.clCreateImage(context, flags, format, desc, host_ptr, error);
    return made_padded(image, context, desc && desc->mem_object, &taken, error);
}

static cl_mem CL_API_CALL create_image_with_properties(cl_context context, const cl_mem_properties *properties,
                                                       cl_mem_flags flags, const cl_image_format *format,
                                                       const cl_image_desc *desc, void *host_ptr, cl_int *error) {
    charge taken;
    if (!take(context, image_bytes(format, desc), &taken, error)) return NULL;
    cl_mem image = next.clCreateImageWithProperties(context, properties, flags, format, desc, host_ptr, error);
    return made_padded(image, context, desc && desc->mem_object, &taken, error);
}

static cl_mem CL_API_CALL create_image_2d(cl_context context, cl_mem_flags flags, const cl_image_format *format,
                                          size_t width, size_t height, size_t row_pitch, void *host_ptr,
                                          cl_int *error) {
    charge taken;
    cl_image_desc desc = {.image_type = CL_MEM_OBJECT_IMAGE2D, .image_width = width, .image_height = height};
    if (!take(context, image_bytes(format, &desc), &taken, error)) return NULL;
    cl_mem image = next.clCreateImage2D(context, flags, format, width, height, row_pitch, host_ptr, error);
    return made_padded(image, context, false, &taken, error);
}

static cl_mem CL_API_CALL create_image_3d(cl_context context, cl_mem_flags flags, const cl_image_format *format,
                                          size_t width, size_t height, size_t depth, size_t row_pitch,
                                          size_t slice_pitch, void *host_ptr, cl_int *error) {
    charge taken;
    cl_image_desc desc = {.image_type = CL_MEM_OBJECT_IMAGE3D, .image_width = width, .image_height = height,
                          .image_depth = depth};
    if (!take(context, image_bytes(format, &desc), &taken, error)) return NULL;
    cl_mem image =
        next.clCreateImage3D(context, flags, format, width, height, depth, row_pitch, slice_pitch, host_ptr, error);
    return made_padded(image, context, false, &taken, error);
}

static cl_mem CL_API_CALL create_pipe(cl_context context, cl_mem_flags flags, cl_uint packet_size, cl_uint max_packets,
                                      const cl_pipe_properties *properties, cl_int *error) {
    charge taken;
    if (!take(context, times(packet_size, max_packets), &taken, error)) return NULL;
    cl_mem pipe = next.clCreatePipe(context, flags, packet_size, max_packets, properties, error);
    return made_padded(pipe, context, false, &taken, error);
}

void memory_hooks(cl_icd_dispatch *table) {
    table->clCreateBuffer = create_buffer;
    table->clCreateBufferWithProperties = create_buffer_with_properties;
    table->clCreateImage = create_image;
    table->clCreateImageWithProperties = create_image_with_properties;
    table->clCreateImage2D = create_image_2d;
    table->clCreateImage3D = create_image_3d;
    table->clCreatePipe = create_pipe;
}
