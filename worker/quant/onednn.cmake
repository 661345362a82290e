# BITWRIGHT_ONEDNN: whether float32 products are oneDNN's (worker/quant/blas.h)
# instead of the BLAS's.
#
# x86-64 only: elsewhere its SGEMM is a plain loop. Only one whose threads can be
# held to one per call. Not beside a libtorch of its own (torch.cmake): that one
# brings an OpenMP library, and a process with two of them holds back neither.
find_library(BITWRIGHT_ONEDNN_LIBRARY dnnl)
find_path(BITWRIGHT_ONEDNN_INCLUDE oneapi/dnnl/dnnl_config.h)
find_package(OpenMP QUIET COMPONENTS CXX)
set(usable OFF)
if(BITWRIGHT_ONEDNN_LIBRARY AND BITWRIGHT_ONEDNN_INCLUDE AND OpenMP_CXX_FOUND
    AND OpenMP_CXX_LIBRARIES MATCHES "gomp"  # oneDNN's own
    AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT BITWRIGHT_TORCH_DIR)
  file(STRINGS ${BITWRIGHT_ONEDNN_INCLUDE}/oneapi/dnnl/dnnl_config.h usable
    REGEX "define DNNL_CPU_THREADING_RUNTIME DNNL_RUNTIME_(OMP|SEQ)")
endif()
if(usable)
  option(BITWRIGHT_ONEDNN "Multiply float32 matrices by oneDNN" ON)
else()
  option(BITWRIGHT_ONEDNN "Multiply float32 matrices by oneDNN" OFF)
endif()

message(STATUS "float32 products by oneDNN: ${BITWRIGHT_ONEDNN}")
if(BITWRIGHT_ONEDNN)
  if(NOT usable)
    message(FATAL_ERROR "BITWRIGHT_ONEDNN needs oneDNN with OpenMP or without "
      "threads (Debian: libdnnl-dev), OpenMP, x86-64 and the system's libtorch; "
      "install them or turn the option off")
  endif()
  add_library(bitwright_onednn INTERFACE)
  target_compile_definitions(bitwright_onednn INTERFACE BITWRIGHT_ONEDNN)
  target_include_directories(bitwright_onednn SYSTEM INTERFACE
    ${BITWRIGHT_ONEDNN_INCLUDE})
  target_link_libraries(bitwright_onednn INTERFACE
    ${BITWRIGHT_ONEDNN_LIBRARY} ${OpenMP_CXX_LIBRARIES})
endif()
