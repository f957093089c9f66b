#include "bindings/buffers.h"

#include <utility>

namespace memkv::python {

Buffer::Buffer(const nanobind::object& owner, bool writable) : view_(new Py_buffer{}) {
  const int flags = PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(owner.ptr(), view_.get(), flags) != 0) throw nanobind::python_error();
}

Buffer::~Buffer() {
  if (view_) PyBuffer_Release(view_.get());
}

std::span<const std::byte> Buffer::bytes() const {
  return writable_bytes();
}

std::span<std::byte> Buffer::writable_bytes() const {
  return {static_cast<std::byte*>(view_->buf), static_cast<std::size_t>(view_->len)};
}

std::vector<Buffer> export_all(const std::vector<nanobind::object>& owners, bool writable) {
  std::vector<Buffer> out;
  out.reserve(owners.size());
  for (const nanobind::object& owner : owners) out.emplace_back(owner, writable);
  return out;
}

}  // namespace memkv::python
