# The in-process ublk driver, for tests of libublk, of the runner and of handlers, and for
# ublk-handler-check and the fio engine. It is built without the tests, too.
add_library(ublk_fake STATIC
  tests/fake/backends.cpp
  tests/fake/device.cpp
  tests/fake/device_batch.cpp
  tests/fake/device_io.cpp
  tests/fake/device_limits.cpp
  tests/fake/disk.cpp
  tests/fake/driver.cpp
  tests/fake/faults.cpp
  tests/fake/guarded_buffers.cpp
  tests/fake/loop.cpp
  tests/fake/node_file.cpp
  tests/fake/random_io.cpp
  tests/fake/ring_port.cpp
  tests/fake/ring_thread.cpp
)
target_include_directories(ublk_fake PUBLIC tests)  # "fake/driver.h"
target_link_libraries(ublk_fake PUBLIC ublk_static Threads::Threads)
