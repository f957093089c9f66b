# The nanobind module memkv_nixl._native, out of plugin_src/bindings/*.cpp.

file(GLOB memkv_bindings CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/plugin_src/bindings/*.cpp)
if(NOT memkv_bindings)
  return()
endif()

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
execute_process(
  COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
  OUTPUT_VARIABLE nanobind_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE memkv_nanobind_missing)
if(memkv_nanobind_missing)
  message(FATAL_ERROR "nanobind is not installed for ${Python_EXECUTABLE}. Run ./dev setup, "
                      "or pip install nanobind.")
endif()
find_package(nanobind CONFIG REQUIRED)

nanobind_add_module(_native NB_STATIC NB_SUPPRESS_WARNINGS NOMINSIZE ${memkv_bindings})
target_link_libraries(_native PRIVATE memkv_flags)
foreach(folder IN ITEMS client wire base)
  if(TARGET memkv_${folder})
    target_link_libraries(_native PRIVATE memkv_${folder})
  endif()
endforeach()
if(SKBUILD)
  install(TARGETS _native LIBRARY DESTINATION memkv_nixl)
endif()
