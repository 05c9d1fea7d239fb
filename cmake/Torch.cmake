# The target dsrsq_torch: LibTorch as the PyPI wheel lays it out, or any folder with lib/ and include/.
# find_package(Torch) is not used: a CUDA wheel makes it demand a CUDA Toolkit even for a build without kernels, it
# picks architectures that CUDA 13 rejects, and it switches CMAKE_CUDA_ARCHITECTURES off.
file(GLOB wheel_torch ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
find_path(DSRSQ_TORCH_DIR NAMES include/torch/headeronly/version.h HINTS ${wheel_torch} PATH_SUFFIXES torch
          DOC "LibTorch: the folder that holds lib/libtorch.so")
if(NOT DSRSQ_TORCH_DIR)
  message(FATAL_ERROR "LibTorch not found: run scripts/setup.sh (it makes .venv), or give -DDSRSQ_TORCH_DIR=<folder of torch>")
endif()
file(STRINGS ${DSRSQ_TORCH_DIR}/include/torch/headeronly/version.h torch_version_lines
     REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" torch_version "${torch_version_lines}")
string(REPLACE ";" "." torch_version "${torch_version}")
if(torch_version VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${torch_version} in ${DSRSQ_TORCH_DIR}; 2.11 or newer is needed")
endif()
message(STATUS "LibTorch ${torch_version}: ${DSRSQ_TORCH_DIR}")

set(torch_lib ${DSRSQ_TORCH_DIR}/lib)
set(torch_libraries ${torch_lib}/libtorch.so ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so)
if(EXISTS ${torch_lib}/libtorch_cuda.so)
  list(APPEND torch_libraries ${torch_lib}/libtorch_cuda.so ${torch_lib}/libc10_cuda.so)
elseif(DSRSQ_CUDA)
  message(FATAL_ERROR "${DSRSQ_TORCH_DIR} is a CPU build of LibTorch: give -DDSRSQ_CUDA=OFF")
endif()
list(JOIN torch_libraries "," torch_link)

add_library(dsrsq_torch INTERFACE)
target_include_directories(dsrsq_torch SYSTEM INTERFACE
  ${DSRSQ_TORCH_DIR}/include ${DSRSQ_TORCH_DIR}/include/torch/csrc/api/include)
target_compile_definitions(dsrsq_torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
# at::parallel_for is a template that runs on one thread, without a word, in a file compiled without OpenMP.
target_compile_options(dsrsq_torch INTERFACE -fopenmp)
target_link_options(dsrsq_torch INTERFACE -fopenmp)
# libstdc++ comes first: torch exports its own copies of std::filesystem functions, and calls of remove_all that bind to
# them crash. Backends register when their library is loaded; nothing refers to their symbols.
target_link_libraries(dsrsq_torch INTERFACE -Wl,--no-as-needed,-lstdc++,${torch_link},--as-needed)
target_link_options(dsrsq_torch INTERFACE -Wl,-rpath,${torch_lib})
# The wheel's own libraries find CUDA's through their run path; the linker does not, and need not, look at them.
target_link_options(dsrsq_torch INTERFACE -Wl,--allow-shlib-undefined)
if(DSRSQ_CUDA)
  target_compile_definitions(dsrsq_torch INTERFACE USE_C10D_NCCL)
  target_include_directories(dsrsq_torch SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${DSRSQ_TORCH_DIR}/../nvidia/nccl/include)
  if(NCCL_INCLUDE_DIR)
    target_include_directories(dsrsq_torch SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
  endif()
endif()
