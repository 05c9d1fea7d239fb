// Every operator of dsrsq has all of its registrations. A missing Autograd key would lose gradients
// without a word.
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace dsrsq {
namespace {

std::vector<c10::OperatorName> dsrsq_operators() {
  std::vector<c10::OperatorName> names;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("dsrsq::", 0) == 0) names.push_back(name);
  }
  return names;
}

bool has_kernel(const c10::OperatorName& name, c10::DispatchKey key) {
  const auto handle = c10::Dispatcher::singleton().findOp(name);
  return handle.has_value() && handle->hasKernelForDispatchKey(key);
}

TEST(Registration, LibraryIsLoaded) {
  EXPECT_TRUE(c10::Dispatcher::singleton().findSchema({"dsrsq::cluster_assign", ""}).has_value());
}

TEST(Registration, EveryOperatorHasASchemaAndAllKeys) {
  std::vector<c10::DispatchKey> keys = {c10::DispatchKey::CPU, c10::DispatchKey::AutocastCPU,
                                        c10::DispatchKey::AutocastCUDA};
#ifdef DSRSQ_WITH_CUDA
  keys.push_back(c10::DispatchKey::CUDA);
#endif
  const std::vector<c10::OperatorName> operators = dsrsq_operators();
  ASSERT_FALSE(operators.empty());
  for (const c10::OperatorName& name : operators) {
    EXPECT_TRUE(c10::Dispatcher::singleton().findSchema(name).has_value())
        << name.name << " is implemented but not in src/ops/schema.cpp";
    for (const c10::DispatchKey key : keys) {
      EXPECT_TRUE(has_kernel(name, key)) << name.name << " lacks " << c10::toString(key);
    }
    // The alias key Autograd covers all of these; each must be there.
    for (const auto key : {c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutogradCUDA}) {
      const auto handle = c10::Dispatcher::singleton().findOp(name);
      EXPECT_TRUE(has_kernel(name, c10::DispatchKey::Autograd) ||
                  handle->hasKernelForDispatchKey(key))
          << name.name << " lacks Autograd (" << c10::toString(key) << ")";
    }
  }
}

}  // namespace
}  // namespace dsrsq
