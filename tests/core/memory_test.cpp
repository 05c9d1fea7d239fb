#include "dsrsq/core/memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace dsrsq {
namespace {

constexpr size_t kBytes = size_t{32} << 20;

// Resident memory moves a little by itself.
constexpr int64_t kLeast = int64_t{30} << 20, kSlack = int64_t{2} << 20;

TEST(OwnMemory, CountsWhatIsAnonymousAndTouched) {
  const auto before = own_memory_bytes();
  ASSERT_GT(before, 0);
  void* own = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(own, MAP_FAILED);
  EXPECT_LT(own_memory_bytes() - before, kSlack) << "nothing was touched";
  std::memset(own, 1, kBytes);
  EXPECT_GE(own_memory_bytes() - before, kLeast);
  munmap(own, kBytes);
  EXPECT_LT(own_memory_bytes() - before, kSlack);
}

TEST(OwnMemory, DoesNotCountMappedFiles) {
  const int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
  if (file < 0) GTEST_SKIP() << "no file without a name";
  ASSERT_EQ(ftruncate(file, kBytes), 0);
  void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const auto before = own_memory_bytes();
  std::memset(mapped, 1, kBytes);
  EXPECT_LT(own_memory_bytes() - before, kSlack);
  munmap(mapped, kBytes);
  close(file);
}

}  // namespace
}  // namespace dsrsq
