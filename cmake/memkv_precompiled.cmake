# memkv_precompile(<target> [tests]): the target reads the standard library's headers (and with
# `tests` GoogleTest's) precompiled, where tests are built. What ships is compiled without: a file
# that lacks an #include is found there.

set(memkv_precompiled
    <algorithm> <array> <atomic> <cstring> <deque> <expected> <functional> <map> <memory> <mutex>
    <optional> <set> <span> <string> <string_view> <utility> <vector>)

# gcc takes a precompiled header only with the flags that it was made with: one per set of them.
function(memkv_precompile target)
  if(NOT MEMKV_BUILD_TESTS)
    return()
  endif()
  set(headers memkv_headers)
  if(ARGN)
    set(headers memkv_headers_of_tests)
  endif()
  if(NOT TARGET ${headers})
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/${headers}.cpp CONTENT "")
    add_library(${headers} OBJECT ${PROJECT_BINARY_DIR}/${headers}.cpp)
    target_link_libraries(${headers} PRIVATE memkv_flags)
    target_precompile_headers(${headers} PRIVATE ${memkv_precompiled})
    if(ARGN)
      set_target_properties(${headers} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(${headers} PRIVATE -fPIE ${memkv_test_flags}) # -fPIE: as programs are
      target_link_libraries(${headers} PRIVATE GTest::gtest)
      target_precompile_headers(${headers} PRIVATE <gtest/gtest.h>)
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${headers})
endfunction()
