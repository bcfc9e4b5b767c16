/* Calls one compiled kernel, linked into this program, and nothing else: no runtime, one thread.
 *
 *   kernel_runner ARGUMENTS CALLS
 *
 * ARGUMENTS holds the tensors as instruction_counts.py writes them. The last one is the kernel's
 * output; it goes to standard output.
 */

#include <stdio.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>
#include <tvm/runtime/c_backend_api.h>

enum { kMostArguments = 16, kMostDimensions = 8, kAlignment = 64 };

int __tvm_ffi_kernel(void* handle, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result);

/* What generated code asks of TVM's runtime. */

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static int Launch(FTVMParallelLambda body, void* data, int tasks) {
  TVMParallelGroupEnv environment = {NULL, 1};
  (void)tasks;
  return body(0, &environment, data);
}

static void* Allocate(size_t bytes) {
  return aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
}

static void* AllocateWorkspace(int device, int id, uint64_t bytes, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  return Allocate(bytes);
}

static int FreeWorkspace(int device, int id, void* memory) {
  (void)device, (void)id;
  free(memory);
  return 0;
}

void* __TVMBackendParallelLaunch = (void*)Launch;
void* __TVMBackendAllocWorkspace = (void*)AllocateWorkspace;
void* __TVMBackendFreeWorkspace = (void*)FreeWorkspace;

static void Read(FILE* file, void* memory, size_t bytes) {
  if (bytes && fread(memory, bytes, 1, file) != 1) {
    fputs("truncated arguments\n", stderr);
    exit(2);
  }
}

int main(int argc, char** argv) {
  static int64_t shapes[kMostArguments][kMostDimensions];
  static DLTensor tensors[kMostArguments];
  static TVMFFIAny arguments[kMostArguments];
  FILE* file = argc == 3 ? fopen(argv[1], "rb") : NULL;
  int32_t count, header[3];
  size_t bytes = 0;
  if (!file) return 2;
  Read(file, &count, sizeof(count));
  if (count > kMostArguments) return 2;
  for (int32_t i = 0; i < count; ++i) {
    DLTensor* tensor = &tensors[i];
    Read(file, header, sizeof(header));
    if (header[2] > kMostDimensions) return 2;
    Read(file, shapes[i], sizeof(int64_t) * header[2]);
    tensor->dtype.code = header[0];
    tensor->dtype.bits = header[1];
    tensor->dtype.lanes = 1;
    tensor->device.device_type = kDLCPU;
    tensor->ndim = header[2];
    tensor->shape = shapes[i];
    bytes = header[1] / 8;
    for (int32_t d = 0; d < header[2]; ++d) bytes *= shapes[i][d];
    tensor->data = Allocate(bytes);
    Read(file, tensor->data, bytes);
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = tensor;
  }
  for (int calls = atoi(argv[2]); calls > 0; --calls) {
    TVMFFIAny result = {0};
    if (__tvm_ffi_kernel(NULL, arguments, count, &result)) return 1;
  }
  return fwrite(tensors[count - 1].data, bytes, 1, stdout) != 1;
}
