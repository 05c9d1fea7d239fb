# dsrsq_add_test(NAME <folder> LABEL <label> [TORCH] LIBRARIES ...): one executable of all tests/<folder>/*_test.cpp,
# whose cases CTest finds one by one.
include(GoogleTest)

function(dsrsq_add_test)
  cmake_parse_arguments(ARG "TORCH" "NAME;LABEL" "LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${ARG_NAME}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  set(target test_${ARG_NAME})
  add_executable(${target} ${sources})
  target_link_libraries(${target} PRIVATE ${ARG_LIBRARIES} GTest::gtest GTest::gtest_main GTest::gmock)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${target} PRIVATE
    DSRSQ_SOURCE_DIR="${PROJECT_SOURCE_DIR}" DSRSQ_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(ARG_TORCH)
    # The precompiled header was made with -fPIC; an executable's default -fPIE would make the compiler reject it.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
    target_precompile_headers(${target} REUSE_FROM dsrsq)
  endif()
  gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120 PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 600)
endfunction()
