#include "nixl/poison.h"

#include <atomic>
#include <string>

#include "base/check.h"
#include "base/log.h"

namespace memkv::nixl {
namespace {

std::atomic<bool> is_poisoned = false;

void poison(const char* condition, const char* what, const char* file, int line) {
  if (is_poisoned.exchange(true)) return;
  log(LogLevel::error,
      "MEMKV answers misses until this process is restarted, because an invariant is broken; "
      "please report it: " +
          std::string(what) + " (" + condition + ") at " + file + ":" + std::to_string(line));
}

}  // namespace

void install_poison() {
  set_check_handler(&poison);
}

bool poisoned() {
  return is_poisoned.load(std::memory_order_acquire);
}

}  // namespace memkv::nixl
