# memkv_library and memkv_program: folders become targets. A folder without sources makes no target,
# and whoever needs it links to nothing in its place: the tree builds from its first file on.

set(MEMKV_FOLDERS "")  # every folder that became a library, bottom first

function(memkv_link target)
  target_link_libraries(${target} PUBLIC memkv_flags)
  foreach(folder IN LISTS ARGN)
    if(TARGET memkv_${folder})
      target_link_libraries(${target} PUBLIC memkv_${folder})
    endif()
  endforeach()
endfunction()

# memkv_library(<folder> [NEEDS <folder>...] [LINKS <target>...] [EXCEPT <file>...])
#   makes memkv_<folder> out of plugin_src/<folder>/*.cpp
function(memkv_library folder)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "NEEDS;LINKS;EXCEPT")
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/plugin_src/${folder}/*.cpp)
  foreach(file IN LISTS ARG_EXCEPT)
    list(REMOVE_ITEM sources ${PROJECT_SOURCE_DIR}/plugin_src/${folder}/${file})
  endforeach()
  if(NOT sources)
    return()
  endif()
  add_library(memkv_${folder} STATIC ${sources})
  memkv_precompile(memkv_${folder})
  memkv_link(memkv_${folder} ${ARG_NEEDS})
  target_link_libraries(memkv_${folder} PUBLIC ${ARG_LINKS})
  set(MEMKV_FOLDERS ${MEMKV_FOLDERS} ${folder} PARENT_SCOPE)
endfunction()

# memkv_program(<name> SOURCES <glob>... [NEEDS <folder>...])
#   makes the executable <name> in the root of the build folder
function(memkv_program name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES;NEEDS")
  list(TRANSFORM ARG_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/)
  file(GLOB sources CONFIGURE_DEPENDS ${ARG_SOURCES})
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  memkv_link(${name} ${ARG_NEEDS})
  if(SKBUILD AND name STREQUAL "memkvd")
    install(TARGETS ${name} RUNTIME DESTINATION memkv_nixl/_bin)
  endif()
endfunction()
