# Headers, libraries, pkg-config file and CMake package.
include(CMakePackageConfigHelpers)
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME libublk)

install(TARGETS ublk ublk_static ublk_handler_headers EXPORT ublk-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${UBLK_HEADERS} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ublk)

configure_file(ublk.pc.in ublk.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ublk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(UBLK_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/ublk)
install(EXPORT ublk-targets NAMESPACE ublk:: DESTINATION ${UBLK_CMAKE_DIR})
configure_package_config_file(ublk-config.cmake.in ublk-config.cmake
  INSTALL_DESTINATION ${UBLK_CMAKE_DIR})
write_basic_package_version_file(ublk-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ublk-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/ublk-config-version.cmake DESTINATION ${UBLK_CMAKE_DIR})
