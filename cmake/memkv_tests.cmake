# The C++ tests (docs/testing.md): one executable and one ctest per tests/unit/*_test.cpp, and the
# simulation.

enable_testing()
find_package(GTest REQUIRED)

# Tests are compiled more often than they are run: optimising what EXPECT_ unfolds to, and saying
# more of it to a debugger than lines, takes longer than it saves. The libraries under test keep
# their preset's flags.
set(memkv_test_flags -O0 -g1)

file(GLOB memkv_support CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/support/*.cpp)
list(FILTER memkv_support EXCLUDE REGEX one_thread)
if(memkv_support)
  add_library(memkv_test_support STATIC ${memkv_support})
  memkv_precompile(memkv_test_support)
  memkv_link(memkv_test_support ${MEMKV_FOLDERS})
  target_include_directories(memkv_test_support PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(memkv_test_support PUBLIC GTest::gtest)
endif()

function(memkv_link_test target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  if(TARGET memkv_test_support)
    target_link_libraries(${target} PRIVATE memkv_test_support)
  endif()
endfunction()

# These run on one thread (on simulated clocks, networks and devices), where ThreadSanitizer finds
# nothing and takes ten times as long. one_thread.cpp holds them to it.
set(memkv_one_thread_tests
    arena_test client_blocks_test client_evil_test client_copies_test client_map_test client_nodes_test client_server_test crc32c_test
    engine_accounts_test engine_blocks_test engine_crash_test engine_evict_test engine_fault_test engine_format_test
    engine_index_test engine_open_test engine_rules_test engine_ttl_test fingerprint_test flags_test
    link_refusals_test link_test map_file_test nixl_names_test pace_test placement_test server_fairness_test
    server_limits_test server_lists_test server_stats_test server_test server_trust_test sim_world_test tls_test trust_test
    wire_fuzz_test wire_golden_test wire_list_test wire_test)

add_library(memkv_fuzz OBJECT ${PROJECT_SOURCE_DIR}/tests/fuzz/wire_fuzz.cpp)
target_link_libraries(memkv_fuzz PRIVATE memkv_test_support)

add_library(memkv_one_thread OBJECT ${PROJECT_SOURCE_DIR}/tests/support/one_thread.cpp)
target_link_libraries(memkv_one_thread PRIVATE memkv_flags)

file(GLOB memkv_unit_tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/unit/*_test.cpp)
foreach(source IN LISTS memkv_unit_tests)
  get_filename_component(name ${source} NAME_WE)
  if(name IN_LIST memkv_one_thread_tests)
    if(MEMKV_SANITIZE STREQUAL thread)
      continue()
    endif()
    add_executable(${name} ${source})
    if(NOT MEMKV_SANITIZE)
      target_link_libraries(${name} PRIVATE memkv_one_thread)
    endif()
  else()
    add_executable(${name} ${source})
  endif()
  memkv_link_test(${name})
  target_compile_options(${name} PRIVATE ${memkv_test_flags})
  memkv_precompile(${name} tests)
  memkv_link(${name} ${MEMKV_FOLDERS})
  target_link_libraries(${name} PRIVATE GTest::gtest_main GTest::gtest)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/unit)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endforeach()

if(TARGET nixl_plugin_test)
  target_link_libraries(nixl_plugin_test PRIVATE ${CMAKE_DL_LIBS})
  add_dependencies(nixl_plugin_test plugin_MEMKV)  # which it loads
endif()

memkv_program(memkv_sim SOURCES tests/sim/*.cpp NEEDS ${MEMKV_FOLDERS})
if(TARGET memkv_sim)
  memkv_link_test(memkv_sim)
endif()
