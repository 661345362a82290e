# BITWRIGHT_CUDA: whether libbitwright_cuda.so is built (worker/quant). No other
# target includes or links CUDA.
find_program(BITWRIGHT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
set(BITWRIGHT_OLDEST_CUDA 12.3)
set(nvcc_version 0)
if(BITWRIGHT_NVCC)
  execute_process(COMMAND ${BITWRIGHT_NVCC} --version OUTPUT_VARIABLE nvcc_output)
  if(nvcc_output MATCHES "release ([0-9.]+)")
    set(nvcc_version ${CMAKE_MATCH_1})
  endif()
endif()
if(nvcc_version VERSION_GREATER_EQUAL BITWRIGHT_OLDEST_CUDA)
  option(BITWRIGHT_CUDA "Build the CUDA module" ON)
else()
  option(BITWRIGHT_CUDA "Build the CUDA module" OFF)
endif()

if(BITWRIGHT_CUDA)
  if(nvcc_version VERSION_LESS BITWRIGHT_OLDEST_CUDA)
    message(FATAL_ERROR "BITWRIGHT_CUDA needs nvcc ${BITWRIGHT_OLDEST_CUDA} or "
      "newer, on the PATH or in CUDA_HOME (found: ${BITWRIGHT_NVCC}, "
      "${nvcc_version}); set BITWRIGHT_NVCC or turn the option off")
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${BITWRIGHT_NVCC} CACHE FILEPATH "")
  endif()
  # Machine code for data-centre GPUs (A100; H100 and H200), and PTX for newer
  # ones, which the driver compiles when the module is opened.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  foreach(library cublas cusolver)
    if(NOT TARGET CUDA::${library})
      message(FATAL_ERROR "BITWRIGHT_CUDA needs ${library}, which is not in "
        "${CUDAToolkit_LIBRARY_DIR}; install it, set CUDAToolkit_ROOT, or turn "
        "the option off")
    endif()
  endforeach()
endif()
