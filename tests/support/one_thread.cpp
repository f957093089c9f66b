// Linked into the tests that ThreadSanitizer leaves out (cmake/memkv_tests.cmake): there is no race
// to find where there is one thread, so one that starts another must not be among them.
#include <pthread.h>

#include <cstdio>
#include <cstdlib>

extern "C" int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) noexcept {
  std::fputs(
      "this test starts a thread: take it off memkv_one_thread_tests in cmake/memkv_tests.cmake\n",
      stderr);
  std::abort();
}
