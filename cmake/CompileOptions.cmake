# One place for language levels, warnings, optimisation and sanitizers: the interface target dsrsq_options.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

add_library(dsrsq_options INTERFACE)
target_include_directories(dsrsq_options INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_options(dsrsq_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-unused-parameter>
  # GCC 12 reports overlaps inside std::string that are not there (GCC bug 105329).
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict>
  # ccache caches files that use a precompiled header only with this.
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-fpch-preprocess>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${DSRSQ_WERROR}>>:-Werror>)
if(DSRSQ_SANITIZE)
  list(JOIN DSRSQ_SANITIZE "," sanitize)
  target_compile_options(dsrsq_options INTERFACE -fsanitize=${sanitize} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  # An index past the size but inside the capacity is no error to AddressSanitizer; to libstdc++'s own checks it is.
  target_compile_definitions(dsrsq_options INTERFACE _GLIBCXX_ASSERTIONS)
  target_link_options(dsrsq_options INTERFACE -fsanitize=${sanitize})
endif()
if(DSRSQ_FUZZERS)
  target_compile_options(dsrsq_options INTERFACE -fsanitize=fuzzer-no-link)  # coverage; main() comes with the targets
endif()
