# Debian packages, of a build that is configured with -DCMAKE_INSTALL_PREFIX=/usr:
#
#   cpack -G DEB --config BUILD/CPackConfig.cmake -B FOLDER
#
# ublk-runner has all but what follows; ublk-handler-NAME a handler that needs libraries which not
# everybody has; libublk-dev is for programs that embed libublk.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "the ublk-runner project <root@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)

set(CPACK_DEBIAN_RUNNER_PACKAGE_NAME ublk-runner)
set(CPACK_DEBIAN_RUNNER_DESCRIPTION "Plugin host for Linux ublk block devices")
set(CPACK_DEBIAN_RUNNER_PACKAGE_RECOMMENDS libkmod2)  # which it does without
configure_file(conf/postinst.in postinst @ONLY)
set(CPACK_DEBIAN_RUNNER_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_BINARY_DIR}/postinst)

set(CPACK_DEBIAN_LIBUBLK_PACKAGE_NAME libublk-dev)
set(CPACK_DEBIAN_LIBUBLK_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBUBLK_PACKAGE_DEPENDS liburing-dev)
set(CPACK_DEBIAN_LIBUBLK_DESCRIPTION "Library for servers of Linux ublk block devices, and handlers' headers")

set(CPACK_COMPONENTS_ALL runner libublk)
get_property(handlers GLOBAL PROPERTY UBLK_PACKAGED_HANDLERS)
foreach(handler ${handlers})
  list(APPEND CPACK_COMPONENTS_ALL handler_${handler})
  string(TOUPPER handler_${handler} component)
  set(CPACK_DEBIAN_${component}_PACKAGE_NAME ublk-handler-${handler})
  set(CPACK_DEBIAN_${component}_PACKAGE_DEPENDS "ublk-runner (= ${PROJECT_VERSION})")
  set(CPACK_DEBIAN_${component}_DESCRIPTION "Handler ${handler} of ublk-runner")
endforeach()
include(CPack)
