/* TEST ONLY: a stand-in for libcuda.so.1, as much of it as KVBM 1.6.1 calls.

   "Device memory" is host memory, a copy is done when it is asked for, streams and events are
   tokens that are always ready. KVBM looks each function up by its name when it first needs it, so
   that one that is missing here ends the process with that name. Built by tests/engines/kvbm.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef int Device;
typedef uint64_t Address;
typedef void *Handle; /* a context, stream, event, pool, module or function */

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500 };
enum { ALIGNMENT = 4096, MEMORY = 1 << 30 };

static int the_context, the_pool;
static __thread Handle current = NULL;

static Result take(Handle *out, size_t size) {
  return posix_memalign(out, ALIGNMENT, size ? size : 1) ? OUT_OF_MEMORY : OK;
}

static Result token(Handle *out) {
  return (*out = malloc(1)) ? OK : OUT_OF_MEMORY;
}

static Result give(Handle memory) {
  free(memory);
  return OK;
}

static Result copy(void *to, const void *from, size_t size) {
  memcpy(to, from, size);
  return OK;
}

static void *at(Address address) {
  return (void *)(uintptr_t)address;
}

/* ---- the device: one, with compute capability 8.0, unified addresses and memory pools */

Result cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }
Result cuDriverGetVersion(int *version) { return *version = 12080, OK; }
Result cuDeviceGetCount(int *count) { return *count = 1, OK; }
Result cuDeviceGet(Device *out, int index) { return index ? INVALID_DEVICE : (*out = 0, OK); }

Result cuDeviceGetName(char *name, int size, Device device) {
  snprintf(name, (size_t)size, "stand-in device %d", device);
  return OK;
}

Result cuDeviceGetPCIBusId(char *name, int size, Device device) {
  snprintf(name, (size_t)size, "0000:00:%02x.0", device);
  return OK;
}

Result cuDeviceGetUuid_v2(void *uuid, Device device) { return memset(uuid, device + 1, 16), OK; }
Result cuDeviceGetUuid(void *uuid, Device device) { return cuDeviceGetUuid_v2(uuid, device); }
Result cuDeviceTotalMem_v2(size_t *size, Device device) { return *size = MEMORY + device, OK; }
Result cuMemGetInfo_v2(size_t *unused, size_t *total) { return *unused = *total = MEMORY, OK; }

Result cuDeviceGetAttribute(int *value, int attribute, Device device) {
  enum { UNIFIED_ADDRESSING = 41, CAPABILITY_MAJOR = 75, MEMORY_POOLS = 115 };
  *value = device;
  if (attribute == CAPABILITY_MAJOR) *value = 8;
  if (attribute == UNIFIED_ADDRESSING || attribute == MEMORY_POOLS) *value = 1;
  return OK;
}

/* ---- contexts: one */

Result cuDevicePrimaryCtxRetain(Handle *out, Device device) {
  return device ? INVALID_DEVICE : (*out = &the_context, OK);
}
Result cuDevicePrimaryCtxRelease_v2(Device device) { return device ? INVALID_DEVICE : OK; }
Result cuCtxCreate_v2(Handle *out, unsigned flags, Device device) {
  return flags ? INVALID_VALUE : cuDevicePrimaryCtxRetain(out, device);
}
Result cuCtxDestroy_v2(Handle context) { return context == &the_context ? OK : INVALID_VALUE; }
Result cuCtxGetCurrent(Handle *out) { return *out = current, OK; }
Result cuCtxSetCurrent(Handle context) { return current = context, OK; }
Result cuCtxPushCurrent_v2(Handle context) { return current = context, OK; }
Result cuCtxPopCurrent_v2(Handle *out) { return *out = current, OK; }
Result cuCtxGetDevice(Device *out) { return *out = 0, OK; }
Result cuCtxSynchronize(void) { return OK; }

/* ---- memory */

Result cuMemAlloc_v2(Address *out, size_t size) { return take((Handle *)out, size); }
Result cuMemFree_v2(Address memory) { return give(at(memory)); }
Result cuMemAllocAsync(Address *out, size_t size, Handle stream) {
  return (void)stream, take((Handle *)out, size);
}
Result cuMemFreeAsync(Address memory, Handle stream) { return (void)stream, give(at(memory)); }
Result cuMemHostAlloc(Handle *out, size_t size, unsigned flags) {
  return (void)flags, take(out, size);
}
Result cuMemAllocHost_v2(Handle *out, size_t size) { return take(out, size); }
Result cuMemFreeHost(Handle memory) { return give(memory); }
Result cuMemHostRegister_v2(Handle memory, size_t size, unsigned flags) {
  return (void)flags, memory && size ? OK : INVALID_VALUE;
}
Result cuMemHostUnregister(Handle memory) { return memory ? OK : INVALID_VALUE; }

Result cuMemPoolCreate(Handle *out, const void *properties) {
  return properties ? (*out = &the_pool, OK) : INVALID_VALUE;
}
Result cuMemPoolDestroy(Handle pool) { return pool == &the_pool ? OK : INVALID_VALUE; }
Result cuMemPoolSetAttribute(Handle pool, int attribute, void *value) {
  return (void)attribute, pool == &the_pool && value ? OK : INVALID_VALUE;
}
Result cuMemPoolTrimTo(Handle pool, size_t keep) {
  return (void)keep, pool == &the_pool ? OK : INVALID_VALUE;
}
Result cuMemAllocFromPoolAsync(Address *out, size_t size, Handle pool, Handle stream) {
  return (void)stream, pool == &the_pool ? take((Handle *)out, size) : INVALID_VALUE;
}

Result cuPointerGetAttribute(void *value, int attribute, Address address) {
  enum { CONTEXT = 1, MEMORY_TYPE = 2, ON_A_DEVICE = 2 };
  if (attribute == CONTEXT) {
    *(Handle *)value = &the_context;
  } else {
    *(int *)value = attribute == MEMORY_TYPE && address ? ON_A_DEVICE : 0;
  }
  return OK;
}

Result cuPointerGetAttributes(unsigned count, int *attributes, void **values, Address address) {
  for (unsigned i = 0; i < count; i++) cuPointerGetAttribute(values[i], attributes[i], address);
  return OK;
}

/* ---- copies: over when they were asked for */

Result cuMemcpyHtoD_v2(Address to, const void *from, size_t size) {
  return copy(at(to), from, size);
}
Result cuMemcpyDtoH_v2(void *to, Address from, size_t size) { return copy(to, at(from), size); }
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Handle stream) {
  return (void)stream, copy(at(to), from, size);
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Handle stream) {
  return (void)stream, copy(to, at(from), size);
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, Handle stream) {
  return (void)stream, copy(at(to), at(from), size);
}
Result cuMemcpyAsync(Address to, Address from, size_t size, Handle stream) {
  return (void)stream, copy(at(to), at(from), size);
}

/* ---- streams and events: always ready */

Result cuStreamCreate(Handle *out, unsigned flags) { return (void)flags, token(out); }
Result cuStreamDestroy_v2(Handle stream) { return give(stream); }
Result cuStreamSynchronize(Handle stream) { return (void)stream, OK; }
Result cuStreamQuery(Handle stream) { return (void)stream, OK; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) {
  return (void)stream, (void)event, flags ? INVALID_VALUE : OK;
}
Result cuEventCreate(Handle *out, unsigned flags) { return (void)flags, token(out); }
Result cuEventDestroy_v2(Handle event) { return give(event); }
Result cuEventRecord(Handle event, Handle stream) { return (void)event, (void)stream, OK; }
Result cuEventSynchronize(Handle event) { return (void)event, OK; }
Result cuEventQuery(Handle event) { return (void)event, OK; }

/* ---- KVBM's one kernel: `pairs` copies of `size` bytes from from[i] to to[i] */

static const char *const kernel = "vectorised_copy";

Result cuModuleLoadData(Handle *out, const void *image) {
  return image ? token(out) : INVALID_VALUE;
}
Result cuModuleUnload(Handle module) { return give(module); }
Result cuModuleGetFunction(Handle *out, Handle module, const char *name) {
  if (!module || strcmp(name, kernel) != 0) return NOT_FOUND;
  return *out = (Handle)(uintptr_t)kernel, OK;
}

Result cuLaunchKernel(Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                      Handle stream, void **arguments, void **extra) {
  (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
  (void)shared, (void)stream;
  if (function != (Handle)(uintptr_t)kernel || extra) return INVALID_VALUE;
  void **from = *(void ***)arguments[0], **to = *(void ***)arguments[1];
  const size_t size = *(size_t *)arguments[2];
  const int pairs = *(int *)arguments[3];
  for (int i = 0; i < pairs; i++) copy(to[i], from[i], size);
  return OK;
}

/* ---- about itself */

Result cuGetErrorName(Result error, const char **name) {
  return *name = error ? "CUDA_ERROR_OF_THE_STAND_IN" : "CUDA_SUCCESS", OK;
}
Result cuGetErrorString(Result error, const char **text) { return cuGetErrorName(error, text); }

Result cuGetProcAddress_v2(const char *name, Handle *out, int version, uint64_t flags,
                           int *status) {
  (void)version, (void)flags;
  *out = dlsym(RTLD_DEFAULT, name);
  if (status) *status = *out ? 0 : 1;
  return *out ? OK : NOT_FOUND;
}
Result cuGetProcAddress(const char *name, Handle *out, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
