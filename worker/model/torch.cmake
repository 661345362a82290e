# TORCH_LIBRARIES and TORCH_CXX_FLAGS, for worker/model.
#
# libtorch's own package of a build with CUDA wants that same CUDA's compiler,
# cuDNN and more to be there, to compile kernels, and overrides the settings of
# the whole project for it. This project only calls libtorch: with
# BITWRIGHT_TORCH_DIR (a directory with include/ and lib/: an unpacked libtorch,
# or what `python3 -c "import torch; print(torch.__path__[0])"` prints) its
# libraries are taken as they are.
set(BITWRIGHT_TORCH_DIR "" CACHE PATH "libtorch to use; empty: find_package")

if(NOT BITWRIGHT_TORCH_DIR)
  find_package(Torch REQUIRED)
  return()
endif()

foreach(library c10 torch_cpu torch)
  if(NOT EXISTS ${BITWRIGHT_TORCH_DIR}/lib/lib${library}.so)
    message(FATAL_ERROR "BITWRIGHT_TORCH_DIR: there is no lib${library}.so in "
      "${BITWRIGHT_TORCH_DIR}/lib")
  endif()
endforeach()
add_library(bitwright_torch INTERFACE IMPORTED GLOBAL)
target_include_directories(bitwright_torch SYSTEM INTERFACE
  ${BITWRIGHT_TORCH_DIR}/include
  ${BITWRIGHT_TORCH_DIR}/include/torch/csrc/api/include)
set(libraries torch torch_cpu c10)
if(EXISTS ${BITWRIGHT_TORCH_DIR}/lib/libtorch_cuda.so)
  list(APPEND libraries torch_cuda c10_cuda)
endif()
list(TRANSFORM libraries PREPEND ${BITWRIGHT_TORCH_DIR}/lib/lib)
list(TRANSFORM libraries APPEND .so)
# torch_cuda is not called but registers itself; what it needs in turn (cuDNN,
# NCCL, ...) it finds beside itself when it starts.
target_link_options(bitwright_torch INTERFACE -Wl,--allow-shlib-undefined)
# PyPI's libtorch.so exports parts of an older C++ library: calls of
# std::filesystem::remove_all would go there, and crash. So the system's library
# stands before it.
target_link_libraries(bitwright_torch INTERFACE
  -Wl,--push-state,--no-as-needed -l:libstdc++.so.6 ${libraries}
  -Wl,--pop-state)
# It also refers to inline functions of std::string that this project's objects
# have too, which may then not be hidden.
set(CMAKE_VISIBILITY_INLINES_HIDDEN OFF)
set(TORCH_LIBRARIES bitwright_torch)
set(TORCH_CXX_FLAGS "")
