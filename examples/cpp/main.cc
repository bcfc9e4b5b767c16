// Runs a library that tvm-sparse compiled, with raw files as inputs and outputs.
//
//   run MODEL.so [--input FILE]... [--output FILE]... [--size NAME=N]... [--runs N] [--threads N]
//
// Each dimension that the library leaves open needs its size, such as --size batch=4.
//
// Inputs and outputs are given in the order of the model; a file holds the values of one tensor,
// row by row, and nothing else (NumPy's array.tofile and numpy.fromfile). Without arguments besides
// the library, it says what the model's inputs and outputs are. A library that needs ONNX Runtime
// for some nodes runs in Python only.

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "weights.h"

namespace ffi = tvm::ffi;

// Any address will do; vectors that cross no cache line load faster.
struct AlignedAllocator {
  static constexpr size_t kAlignment = 64;
  void AllocData(DLTensor* tensor) {
    const size_t size = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kAlignment, (size / kAlignment + 1) * kAlignment);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

struct Arguments {
  std::string library;
  std::vector<std::string> inputs, outputs;
  std::map<std::string, int64_t> sizes;
  int runs = 10;
};

constexpr char kUsage[] =
    "usage: run MODEL.so [--input FILE]... [--output FILE]... [--size NAME=N]... [--runs N] "
    "[--threads N]";

// TVM takes half of an x86 machine's processors by default. A number in the environment counts.
void UseAllProcessors() {
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) != 0) return;
  setenv("TVM_NUM_THREADS", std::to_string(CPU_COUNT(&usable)).c_str(), 0);
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help") {
      std::cout << kUsage << "\n";
      std::exit(0);
    } else if (word.rfind("--", 0) != 0 && arguments.library.empty()) {
      arguments.library = word;
    } else if (i + 1 == argc) {
      throw std::runtime_error(word + ": needs a value");
    } else if (word == "--input") {
      arguments.inputs.push_back(argv[++i]);
    } else if (word == "--output") {
      arguments.outputs.push_back(argv[++i]);
    } else if (word == "--size") {
      const std::string size = argv[++i];
      const size_t end = size.find('=');
      if (end == std::string::npos) throw std::runtime_error(size + ": is not like batch=4");
      arguments.sizes[size.substr(0, end)] = std::atoll(size.c_str() + end + 1);
    } else if (word == "--runs") {
      arguments.runs = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--threads") {
      setenv("TVM_NUM_THREADS", argv[++i], 1);  // read when the first parallel loop starts
    } else {
      throw std::runtime_error(word + ": unknown argument");
    }
  }
  if (arguments.library.empty()) throw std::runtime_error(kUsage);
  return arguments;
}

// Returns the size of a dimension: a number of the library, or one that was given for its name.
int64_t Size(const ffi::Any& dimension, const Arguments& arguments, const ffi::json::Object& info) {
  if (const auto number = dimension.try_cast<int64_t>()) return *number;
  const std::string name = dimension.cast<ffi::String>();
  const auto given = arguments.sizes.find(name);
  if (given == arguments.sizes.end()) {
    throw std::runtime_error("the library leaves " + name + " open; give --size " + name + "=N");
  }
  const int64_t size = given->second;
  if (size < 1) throw std::runtime_error(name + ": its size must be at least 1");
  if (info.count("bounds")) {
    const auto bounds = info["bounds"].cast<ffi::json::Object>();
    if (bounds.count(ffi::String(name)) && size > bounds[ffi::String(name)].cast<int64_t>()) {
      throw std::runtime_error(name + ": is larger than the library allows");
    }
  }
  return size;
}

// Whether inputs have dimensions that each run chooses.
bool HasSizes(const ffi::json::Array& inputs) {
  for (const ffi::Any& spec : inputs) {
    const auto fields = spec.cast<ffi::json::Object>();
    for (const ffi::Any& size : fields["shape"].cast<ffi::json::Array>()) {
      if (!size.try_cast<int64_t>()) return true;
    }
  }
  return false;
}

ffi::Tensor Read(const std::string& path, const ffi::json::Object& spec, const Arguments& arguments,
                 const ffi::json::Object& info) {
  std::vector<int64_t> shape;
  for (const ffi::Any& size : spec["shape"].cast<ffi::json::Array>()) {
    shape.push_back(Size(size, arguments, info));
  }
  const DLDataType dtype = ffi::StringToDLDataType(spec["dtype"].cast<ffi::String>());
  ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(AlignedAllocator(), ffi::Shape(shape), dtype,
                                                DLDevice{kDLCPU, 0});
  const std::streamsize size = ffi::GetDataSize(tensor);
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  if (file.tellg() != size) {
    throw std::runtime_error(path + ": has " + std::to_string(file.tellg()) + " bytes, and " +
                             std::string(spec["name"].cast<ffi::String>()) + " has " +
                             std::to_string(size));
  }
  file.seekg(0);
  file.read(static_cast<char*>(tensor.data_ptr()), size);
  return tensor;
}

void Write(const std::string& path, const ffi::Tensor& tensor) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(tensor.data_ptr()),
             ffi::GetDataSize(tensor));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

// One output is a tensor, several are an array of them.
std::vector<ffi::Tensor> Tensors(const ffi::Any& result) {
  if (auto tensor = result.try_cast<ffi::Tensor>()) return {*tensor};
  std::vector<ffi::Tensor> tensors;
  for (const ffi::Any& field : result.cast<ffi::Array<ffi::Any>>()) {
    tensors.push_back(field.cast<ffi::Tensor>());
  }
  return tensors;
}

void Print(const char* kind, const ffi::json::Array& specs) {
  for (const ffi::Any& spec : specs) {
    const auto fields = spec.cast<ffi::json::Object>();
    std::cout << kind << " " << fields["name"].cast<ffi::String>() << " "
              << fields["dtype"].cast<ffi::String>() << " "
              << ffi::json::Stringify(fields["shape"]) << "\n";
  }
}

// Refuses a library, nodes of which only Python can run, by ONNX Runtime.
void RefuseFallbacks(const std::string& library, const ffi::json::Object& info) {
  if (!info.count("fallbacks")) return;
  std::string nodes;
  for (const ffi::Any& fallback : info["fallbacks"].cast<ffi::json::Array>()) {
    const auto fields = fallback.cast<ffi::json::Object>();
    for (const ffi::Any& node : fields["nodes"].cast<ffi::json::Array>()) {
      nodes += (nodes.empty() ? "" : ", ") + std::string(node.cast<ffi::String>()) + " (" +
               std::string(fields["operator"].cast<ffi::String>()) + ")";
    }
  }
  throw std::runtime_error(library + ": ONNX Runtime has to run " + nodes +
                           ", which takes Python; --fallback off compiles no such library");
}

ffi::Module Machine(const ffi::Function& executable, int allocator) {
  const auto machine = executable().cast<ffi::Module>();
  machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, allocator);
  return machine;
}

void Run(const Arguments& arguments) {
  // Virtual machines refuse a library that calls an unknown function; `RefuseFallbacks` says why.
  ffi::Function::SetGlobal(
      "tvm_sparse.onnxruntime.run",
      ffi::Function::FromPacked([](const ffi::AnyView*, int32_t, ffi::Any*) {}));
  // The virtual machine comes from libtvm_runtime, the rest from the library.
  const auto load = ffi::Function::GetGlobalRequired("ffi.ModuleLoadFromFile");
  const auto path = std::filesystem::absolute(arguments.library);  // else it is searched for
  const auto library = load(path.string()).cast<ffi::Module>();
  const auto executable = library->GetFunction("vm_load_executable");
  if (!executable) throw std::runtime_error(arguments.library + ": tvm-sparse did not compile it");
  constexpr int kNaiveAllocator = 1, kPooledAllocator = 2;
  auto machine = Machine(*executable, kPooledAllocator);

  const auto describe = machine->GetFunction("tvm_sparse_description").value();
  const auto description = ffi::json::Parse(describe().cast<ffi::String>());
  const auto info = description.cast<ffi::json::Object>();
  RefuseFallbacks(arguments.library, info);
  const auto inputs = info["inputs"].cast<ffi::json::Array>();
  const auto outputs = info["outputs"].cast<ffi::json::Array>();
  // The pool keeps a block for every size that it has seen; libraries of today take few sizes.
  if (HasSizes(inputs) && !info.count("has_blocks")) {
    machine = Machine(*executable, kNaiveAllocator);
  }
  if (arguments.inputs.empty() && !inputs.empty()) {
    Print("input", inputs);
    Print("output", outputs);
    return;
  }
  if (arguments.inputs.size() != inputs.size() || arguments.outputs.size() > outputs.size()) {
    throw std::runtime_error("the model has " + std::to_string(inputs.size()) + " inputs and " +
                             std::to_string(outputs.size()) + " outputs");
  }

  std::vector<ffi::Any> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    tensors.push_back(Read(arguments.inputs[i], inputs[i].cast<ffi::json::Object>(), arguments, info));
  }
  for (const ffi::Tensor& weight : WeightsOf("main", path.string())) tensors.push_back(weight);
  const std::vector<ffi::AnyView> views(tensors.begin(), tensors.end());
  const auto main = machine->GetFunction("main").value();

  ffi::Any result;
  std::vector<double> milliseconds;
  for (int i = 0; i < arguments.runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    main.CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    milliseconds.push_back(time.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  std::printf("%d runs: fastest %.3f ms, median %.3f ms\n", arguments.runs, milliseconds.front(),
              milliseconds[milliseconds.size() / 2]);

  const std::vector<ffi::Tensor> values = Tensors(result);
  for (size_t i = 0; i < arguments.outputs.size(); ++i) Write(arguments.outputs[i], values[i]);
}

int main(int argc, char** argv) {
  try {
    const Arguments arguments = Parse(argc, argv);
    UseAllProcessors();
    Run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
