# The compiler: language level, warnings, sanitizers, and the libraries that come from the system.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "gcc ${CMAKE_CXX_COMPILER_VERSION} lacks std::expected. "
                      "Install gcc 12 or newer and set CXX to it.")
endif()
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "MemKV-NIXL runs on Linux only (io_uring, memfd, epoll).")
endif()
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64|aarch64|arm64)$")
  message(FATAL_ERROR "MemKV-NIXL is built for x86-64 and ARM64, not ${CMAKE_SYSTEM_PROCESSOR}.")
endif()

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

find_program(MEMKV_CCACHE ccache)
if(MEMKV_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MEMKV_CCACHE})
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# What every target of ours is compiled with. No -march: hot code picks its instructions at run
# time. gcc warns of missing initialisers also where the others are designated; there it is wrong.
add_library(memkv_flags INTERFACE)
target_include_directories(memkv_flags INTERFACE ${PROJECT_SOURCE_DIR}/plugin_src)
target_compile_options(memkv_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  -Wno-missing-field-initializers
  -fvisibility=hidden -fvisibility-inlines-hidden -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # gcc 12 sees an overlap in every `"..." + std::to_string(n)` (GCC bug 105651).
  target_compile_options(memkv_flags INTERFACE -Wno-restrict)
  if(MEMKV_SANITIZE) # and where it instruments, bounds and values of std::expected and std::optional
    target_compile_options(memkv_flags INTERFACE
      -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-maybe-uninitialized)
  endif()
endif()
target_compile_definitions(memkv_flags INTERFACE MEMKV_VERSION="${PROJECT_VERSION}")
target_link_libraries(memkv_flags INTERFACE Threads::Threads)
if(MEMKV_TESTING)
  target_compile_definitions(memkv_flags INTERFACE MEMKV_TESTING=1)
endif()
if(MEMKV_SANITIZE)
  add_compile_options(-fsanitize=${MEMKV_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${MEMKV_SANITIZE})
endif()

# liburing, linked statically where the archive is there, so that memkvd needs nothing at run time.
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBURING REQUIRED liburing)
find_library(MEMKV_URING_ARCHIVE liburing.a HINTS ${LIBURING_LIBDIR} ${LIBURING_LIBRARY_DIRS})
add_library(memkv_uring INTERFACE)
target_include_directories(memkv_uring SYSTEM INTERFACE ${LIBURING_INCLUDE_DIRS})
if(MEMKV_URING_ARCHIVE)
  target_link_libraries(memkv_uring INTERFACE ${MEMKV_URING_ARCHIVE})
else()
  find_library(MEMKV_URING_SHARED uring REQUIRED HINTS ${LIBURING_LIBDIR} ${LIBURING_LIBRARY_DIRS})
  target_link_libraries(memkv_uring INTERFACE ${MEMKV_URING_SHARED})
endif()

# libsodium, for the signatures of tokens: the archive alone, hidden in whatever it is linked into
# (docs/adr/0022-signatures.md), so that it never meets another one in an engine's process.
pkg_check_modules(SODIUM REQUIRED libsodium)
find_library(MEMKV_SODIUM_ARCHIVE libsodium.a REQUIRED HINTS ${SODIUM_LIBDIR} ${SODIUM_LIBRARY_DIRS})
add_library(memkv_sodium INTERFACE)
target_include_directories(memkv_sodium SYSTEM INTERFACE ${SODIUM_INCLUDE_DIRS})
target_link_libraries(memkv_sodium INTERFACE ${MEMKV_SODIUM_ARCHIVE})
target_link_options(memkv_sodium INTERFACE -Wl,--exclude-libs,libsodium.a)

# OpenSSL, for TLS: its archives, hidden likewise (docs/adr/0024-tls.md). What holds it is never taken
# out of a process: threads that used it run some of its code when they end.
pkg_check_modules(OPENSSL REQUIRED openssl>=3.0)
find_library(MEMKV_SSL_ARCHIVE libssl.a REQUIRED HINTS ${OPENSSL_LIBDIR} ${OPENSSL_LIBRARY_DIRS})
find_library(MEMKV_CRYPTO_ARCHIVE libcrypto.a REQUIRED HINTS ${OPENSSL_LIBDIR} ${OPENSSL_LIBRARY_DIRS})
add_library(memkv_openssl INTERFACE)
target_include_directories(memkv_openssl SYSTEM INTERFACE ${OPENSSL_INCLUDE_DIRS})
target_link_libraries(memkv_openssl INTERFACE
  ${MEMKV_SSL_ARCHIVE} ${MEMKV_CRYPTO_ARCHIVE} Threads::Threads ${CMAKE_DL_LIBS})
target_link_options(memkv_openssl INTERFACE
  -Wl,--exclude-libs,libssl.a:libcrypto.a -Wl,-z,nodelete)
