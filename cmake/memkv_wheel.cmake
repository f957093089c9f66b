# What the wheel holds beside the Python files and _native: the plugin, where every NIXL finds it.
#
# NIXL's wheels look for plugins in a folder of their own beside libnixl.so; a file of ours in there
# is found with no environment variable, and goes with `pip uninstall memkv-nixl`. The copy in
# memkv_nixl/_plugin is for a NIXL that stands elsewhere (memkv_nixl.agent.register).
if(TARGET plugin_MEMKV)
  file(WRITE ${PROJECT_BINARY_DIR}/MEMKV.txt
       "plugins/libplugin_MEMKV.so belongs to memkv-nixl and goes with `pip uninstall memkv-nixl`.\n")
  install(TARGETS plugin_MEMKV LIBRARY DESTINATION memkv_nixl/_plugin)
  foreach(folder IN ITEMS .nixl_cu12.mesonpy.libs .nixl_cu13.mesonpy.libs)
    install(TARGETS plugin_MEMKV LIBRARY DESTINATION ${folder}/plugins)
    # Where that NIXL is not installed the folder is ours alone, and pip only removes a folder that
    # has a file of ours right in it.
    install(FILES ${PROJECT_BINARY_DIR}/MEMKV.txt DESTINATION ${folder})
  endforeach()
endif()
