# The C++ tests (docs/testing.md): one executable and one ctest per tests/unit/*_test.cpp, and the
# simulation.

enable_testing()
find_package(GTest REQUIRED)

file(GLOB memkv_support CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/support/*.cpp)
if(memkv_support)
  add_library(memkv_test_support STATIC ${memkv_support})
  memkv_link(memkv_test_support ${MEMKV_FOLDERS})
  target_include_directories(memkv_test_support PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(memkv_test_support PUBLIC GTest::gtest)
endif()

function(memkv_link_test target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${target} PRIVATE MEMKV_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(TARGET memkv_test_support)
    target_link_libraries(${target} PRIVATE memkv_test_support)
  endif()
endfunction()

# Tests are compiled more often than they are run: optimising what EXPECT_ unfolds to takes longer
# than it saves. The libraries under test keep their preset's optimisation.
if(MEMKV_SANITIZE)
  set(memkv_test_optimisation -O0)
else()
  set(memkv_test_optimisation -Og)
endif()

file(GLOB memkv_unit_tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/unit/*_test.cpp)
foreach(source IN LISTS memkv_unit_tests)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  memkv_link_test(${name})
  target_compile_options(${name} PRIVATE ${memkv_test_optimisation})
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
