// Buffers: Python memory that stays exported while a request reads or writes it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace memkv::python {

// One exported buffer; C-contiguous. Made and destroyed with the GIL held. Raises TypeError /
// BufferError when the object has no such buffer.
class Buffer {
 public:
  Buffer(const nanobind::object& owner, bool writable);
  ~Buffer();
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(Buffer&&) = delete;
  Buffer(const Buffer&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const;
  [[nodiscard]] std::span<std::byte> writable_bytes() const;

 private:
  std::unique_ptr<Py_buffer>
      view_;  // its address must not change: a Py_buffer may point into itself
};

[[nodiscard]] std::vector<Buffer> export_all(const std::vector<nanobind::object>& owners,
                                             bool writable);

}  // namespace memkv::python
