#include "dsrsq/methods/h2o.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "methods/eviction_example.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

struct Exposed : H2oMethod {
  using H2oMethod::H2oMethod;
  using H2oMethod::memory_of;
  using H2oMethod::observe;
  using H2oMethod::score;
};

TEST(H2o, SumsTheAttentionOfAllRows) {
  auto keys = at::tensor({0., std::log(2.), std::log(4.), 0.}, at::kDouble).view({1, 4});
  auto example = testing::eviction_example(at::ones({1, 4}, at::kDouble), keys);
  Exposed method(EvictionConfig{}, testing::example_model(1, 1, 1));
  PassOptions options;
  options.budget = 3;  // the last entry, and two heavy hitters
  auto state = method.make_state(example.batch, options);
  auto& memory = method.memory_of(state);
  method.observe(example.input, example.layer, memory);
  auto infinite = std::numeric_limits<double>::infinity();
  EXPECT_TENSOR_NEAR(method.score(example.input, example.layer, memory)[0][0],
                     at::tensor({1 + 1 / 3. + 1 / 7. + 1 / 8., 2 / 3. + 2 / 7. + 2 / 8.,
                                 4 / 7. + 4 / 8., infinite},
                                at::kDouble),
                     (testing::Tolerance{0, 1e-12}));
}

}  // namespace
}  // namespace dsrsq
