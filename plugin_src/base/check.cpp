#include "base/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace memkv {
namespace {

void stop_process(const char* condition, const char* what, const char* file, int line) {
  std::fprintf(stderr, "memkv: broken invariant: %s (%s) at %s:%d\n", what, condition, file, line);
  std::abort();
}

std::atomic<CheckHandler> current_handler{&stop_process};

}  // namespace

void set_check_handler(CheckHandler handler) {
  current_handler.store(handler != nullptr ? handler : &stop_process);
}

void check_failed(const char* condition, const char* what, const char* file, int line) {
  current_handler.load()(condition, what, file, line);
}

}  // namespace memkv
