# libplugin_MEMKV.so, what NIXL loads: the room nixl/ and those below it. It exports what plugin.map
# names and nothing else, leaves nothing undefined and binds to itself, because a process may load
# more of our code beside it (memkv_nixl._native).

if(NOT TARGET memkv_nixl)
  return()
endif()

set(memkv_plugin_map ${PROJECT_SOURCE_DIR}/plugin_src/nixl/plugin.map)
add_library(plugin_MEMKV SHARED $<TARGET_OBJECTS:memkv_nixl>)
memkv_link(plugin_MEMKV client transport wire base)
target_link_options(plugin_MEMKV PRIVATE
  -Wl,--no-undefined -Wl,-Bsymbolic -Wl,--exclude-libs,ALL
  -Wl,--version-script=${memkv_plugin_map})
set_target_properties(plugin_MEMKV PROPERTIES
  LINKER_LANGUAGE CXX LINK_DEPENDS ${memkv_plugin_map})
if(MEMKV_SANITIZE)
  # A sanitizer's own symbols are found in the program that loads the plugin.
  target_link_options(plugin_MEMKV PRIVATE -Wl,-z,undefs)
endif()
