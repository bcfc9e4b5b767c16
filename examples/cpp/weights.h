// The weights of a library, in the memory that its file is mapped to: no copy is made, and all
// processes that run a library share its pages.
//
// The file ends in its description (JSON) and a footer of 24 bytes: the length of what stands before
// the description (8 bytes), the length of the description (4), a checksum (4, which Python checks
// at every load, and this program does not) and "tvmsprs2". The description says where the weights
// begin, and where each is from there.
#ifndef TVM_SPARSE_WEIGHTS_H_
#define TVM_SPARSE_WEIGHTS_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// A file in memory. A page that somebody writes to becomes a copy, which the file does not see.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) throw std::runtime_error(path + ": cannot be read");
    size = static_cast<size_t>(status.st_size);
    void* begin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    if (begin == MAP_FAILED) throw std::runtime_error(path + ": cannot be mapped");
    data = static_cast<char*>(begin);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { munmap(data, size); }

  char* data;
  size_t size;
};

// Memory that is part of a file, which stays mapped as long as a tensor lies in it.
struct PartOfFile {
  std::shared_ptr<MappedFile> file;
  size_t offset;

  void AllocData(DLTensor* tensor) {
    if (offset + tvm::ffi::GetDataSize(*tensor) > file->size) {
      throw std::runtime_error("the library is truncated");
    }
    tensor->data = file->data + offset;
  }
  void FreeData(DLTensor*) {}
};

// Returns the weights that are the last arguments of a function of a library.
inline std::vector<tvm::ffi::Tensor> WeightsOf(const std::string& function,
                                               const std::string& path) {
  namespace ffi = tvm::ffi;
  constexpr size_t kFooter = 24;
  const auto file = std::make_shared<MappedFile>(path);
  const char* footer = file->data + file->size - kFooter;
  if (file->size < kFooter || std::memcmp(footer + 16, "tvmsprs2", 8) != 0) {
    throw std::runtime_error(path + ": truncated, or of another version of tvm-sparse");
  }
  uint64_t start;
  uint32_t length;
  std::memcpy(&start, footer, sizeof(start));
  std::memcpy(&length, footer + 8, sizeof(length));
  if (start + length + kFooter != file->size) throw std::runtime_error(path + ": damaged");
  const auto description = ffi::json::Parse(ffi::String(file->data + start, length));
  const auto info = description.cast<ffi::json::Object>();

  std::vector<ffi::Tensor> tensors;
  if (!info.count("weights")) return tensors;  // All are in the code.
  const auto weights = info["weights"].cast<ffi::json::Object>();
  const auto read_by = weights["read_by"].cast<ffi::json::Object>();
  const auto table = weights["table"].cast<ffi::json::Array>();
  const auto first = static_cast<size_t>(weights["start"].cast<int64_t>());
  for (const ffi::Any& number : read_by[ffi::String(function)].cast<ffi::json::Array>()) {
    const auto weight = table[number.cast<int64_t>()].cast<ffi::json::Array>();
    std::vector<int64_t> shape;
    for (const ffi::Any& extent : weight[1].cast<ffi::json::Array>()) {
      shape.push_back(extent.cast<int64_t>());
    }
    const size_t offset = first + static_cast<size_t>(weight[0].cast<int64_t>());
    tensors.push_back(ffi::Tensor::FromNDAlloc(
        PartOfFile{file, offset}, ffi::Shape(shape),
        ffi::StringToDLDataType(weight[2].cast<ffi::String>()), DLDevice{kDLCPU, 0}));
  }
  return tensors;
}

#endif  // TVM_SPARSE_WEIGHTS_H_
