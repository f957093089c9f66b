// The wire under a fuzzer (clang's -fsanitize=fuzzer, or any driver of this entry point).
#include "fuzz/wire_round_trip.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  memkv::fuzz::round_trip(std::as_bytes(std::span(data, size)));
  return 0;
}
