// Comparisons of tensors whose failure says how far off, where, and how many elements.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "support/tolerance.h"

namespace dsrsq::testing {

// Same shape, and every element within the tolerance (compared in fp64 on the CPU; infinities must
// be equal; NaN equals nothing). Dtypes and devices may differ: an oracle computes in fp64.
::testing::AssertionResult tensors_near(const at::Tensor& actual, const at::Tensor& expected,
                                        Tolerance tolerance);

// Same shape, dtype and values.
::testing::AssertionResult tensors_equal(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace dsrsq::testing

#define EXPECT_TENSOR_NEAR(actual, expected, tolerance) \
  EXPECT_TRUE(::dsrsq::testing::tensors_near(actual, expected, tolerance)) << #actual
#define EXPECT_TENSOR_EQUAL(actual, expected) \
  EXPECT_TRUE(::dsrsq::testing::tensors_equal(actual, expected)) << #actual
