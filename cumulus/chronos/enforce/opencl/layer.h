/*
 * The OpenCL layer that holds a job to its lease, loaded by the ICD loader through OPENCL_LAYERS.
 *
 *   layer.c    the layer's entry points; what devices and contexts answer
 *   memory.c   buffers, images and pipes
 *   pointer.c  shared virtual memory, and what drivers offer as extensions
 *   work.c     commands, refused after the lease's end
 *   ../common/account.c  the lease's account, shared by its processes
 *
 * `next` is the table below this layer: calls there go to the driver, or to the next layer.
 */
#ifndef CHRONOS_LAYER_H
#define CHRONOS_LAYER_H

#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#define CL_USE_DEPRECATED_OPENCL_2_0_APIS
#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <CL/cl_layer.h>

#include "account.h"

extern cl_icd_dispatch next;

/* The leases whose memory an allocation in the context, or on the device, takes. */
lease_set leases_of_context(cl_context context);
lease_set leases_of_device(cl_device_id device);

static inline void set_error(cl_int *place, cl_int code) {
    if (place) *place = code;
}

void memory_hooks(cl_icd_dispatch *table);
void pointer_hooks(cl_icd_dispatch *table);
void work_hooks(cl_icd_dispatch *table);

/* Whether `pointer` lies in shared virtual memory that is on the account already. */
int pointer_is_charged(const void *pointer);

/* Gives `object`'s charge back when the runtime deletes it. Releases the object and returns NULL where that can't be. */
cl_mem memory_follow(cl_mem object, const charge *taken, cl_int *error);

#endif
