// Checks for bugs of ours, always on. Input from a peer, a disk or a user is never checked with
// these: it is answered with a Status.
//
// MEMKV_CHECK(condition, "what should have held") calls the process's check handler when the
// condition is false. The daemon's handler (the default) writes the sentence and stops the process;
// the plugin's poisons the plugin and returns, so code after a check in client/ and below must stay
// memory-safe when the check did not hold.
#pragma once

namespace memkv {

using CheckHandler = void (*)(const char* condition, const char* what, const char* file, int line);

// Installs `handler` for the whole process; nullptr brings the default back. Thread: any, before
// threads start.
void set_check_handler(CheckHandler handler);

void check_failed(const char* condition, const char* what, const char* file, int line);

}  // namespace memkv

#define MEMKV_CHECK(condition, what)                                 \
  do {                                                               \
    if (!(condition)) [[unlikely]]                                   \
      ::memkv::check_failed(#condition, (what), __FILE__, __LINE__); \
  } while (false)
