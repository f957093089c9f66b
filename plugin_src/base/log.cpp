#include "base/log.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <mutex>
#include <new>
#include <utility>

namespace memkv {
namespace {

constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warning", "error"};
std::atomic<LogLevel> least_level{LogLevel::info};

struct Sink {
  std::mutex mutex;
  LogFieldsSink custom;
};

Sink& sink();

// In the child nobody holds the lock, whoever held it when the process forked.
void renew_lock() {
  new (&sink().mutex) std::mutex;
}

Sink* make_sink() {
  pthread_atfork(nullptr, nullptr, &renew_lock);
  return new Sink;
}

// Never destroyed: a thread may still log while the process exits.
Sink& sink() {
  static Sink* const kept = make_sink();
  return *kept;
}

void to_standard_error(LogLevel level, std::string_view line) {
  std::string text = "memkv ";
  text += log_level_name(level);
  text += ": ";
  text += line;
  text += '\n';
  std::fwrite(text.data(), 1, text.size(), stderr);
}

// Names and sentences of peers end up in lines; none of them may begin a line of its own.
std::string one_line(std::string_view line) {
  std::string out(line);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

}  // namespace

std::string_view log_level_name(LogLevel level) {
  return kLevelNames[static_cast<std::size_t>(level) % kLevelNames.size()];
}

std::optional<LogLevel> log_level_named(std::string_view name) {
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == name) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

void set_log_sink(LogSink custom) {
  if (!custom) return set_log_fields_sink({});
  set_log_fields_sink(
      [custom = std::move(custom)](LogLevel level, std::string_view line,
                                   std::span<const LogField>) { custom(level, line); });
}

void set_log_fields_sink(LogFieldsSink custom) {
  const std::lock_guard lock(sink().mutex);
  sink().custom = std::move(custom);
}

void set_log_level(LogLevel least) {
  least_level.store(least, std::memory_order_relaxed);
}

void log(LogLevel level, std::string_view line, std::initializer_list<LogField> fields) {
  if (level < least_level.load(std::memory_order_relaxed)) return;
  const std::string clean = one_line(line);
  const std::lock_guard lock(sink().mutex);
  if (sink().custom) {
    sink().custom(level, clean, fields);
  } else {
    to_standard_error(level, clean);
  }
}

}  // namespace memkv
