#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "base/check.h"

namespace memkv {
namespace {

class SystemRandom final : public Random {
 public:
  [[nodiscard]] std::uint64_t next() override {
    std::uint64_t bits = 0;
    ssize_t got = 0;
    // Eight bytes come whole or not at all; only waiting for the pool at boot can be interrupted.
    do {
      got = ::getrandom(&bits, sizeof bits, 0);
    } while (got < 0 && errno == EINTR);
    MEMKV_CHECK(got == static_cast<ssize_t>(sizeof bits), "the kernel gives random bytes");
    return bits;
  }
};

}  // namespace

Random& system_random() {
  // Never destroyed: a client's thread may still ask while the process exits.
  static SystemRandom* const kept = new SystemRandom;
  return *kept;
}

}  // namespace memkv
