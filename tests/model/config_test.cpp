#include "dsrsq/model/config.h"

#include <gtest/gtest.h>

#include <functional>

#include "dsrsq/core/error.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

// The message of the error that the change provokes; "" where there is none.
std::string error_of(const std::function<void(TransformerConfig&)>& change) {
  auto config = testing::tiny_model();
  change(config);
  try {
    config.validate({});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(TransformerConfig, CrossFieldErrorsNameTheKey) {
  EXPECT_EQ(error_of([](TransformerConfig&) {}), "");
  EXPECT_NE(error_of([](TransformerConfig& c) { c.heads = 5; }).find("model.heads"),
            std::string::npos);
  EXPECT_NE(
      error_of([](TransformerConfig& c) { c.key_value_heads = 3; }).find("model.key_value_heads"),
      std::string::npos);
  EXPECT_NE(
      error_of([](TransformerConfig& c) { c.width = 20; }).find("RoPE needs an even head width"),
      std::string::npos);
  EXPECT_EQ(error_of([](TransformerConfig& c) { c.width = 20, c.position_embedding = "none"; }),
            "");
  EXPECT_NE(error_of([](TransformerConfig& c) {
              c.position_embedding = "learned", c.positions = "original";
            }).find("model.positions"),
            std::string::npos);
}

}  // namespace
}  // namespace dsrsq
