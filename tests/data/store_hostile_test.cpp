// Data sets that someone forged: valid HDF5 with a valid checksum, which must not make the reader
// open other files, load code, or allocate what the file does not hold.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/data/store.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokens = "/documents/tokens";

class StoreHostile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-hostile-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = (folder_ / "data.h5").string();
    const Tokenizer tokenizer =
        Tokenizer::from_json(build_word_tokenizer({"alpha", "beta"}, {}), "test tokenizer");
    StoreWriter writer(path_, tokenizer, {"test", "dsrsq-data", {"all"}});
    DocumentExample example{" alpha beta", "", {}};
    Question question;
    question.id = "1";
    question.text = "what?";
    example.questions.push_back(question);
    writer.add(example);
    writer.finish();
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Lets `change` loose on the open file and gives it a checksum that fits.
  void forge(const std::function<void(hid_t)>& change) {
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    ASSERT_GE(H5Fclose(file), 0);
    write_file_atomic(path_ + ".sha256", concat(sha256_file(path_), "  data.h5\n"));
  }
  void expect_refused(const std::string& part) {
    try {
      Store(path_).validate();
      ADD_FAILURE() << "opened; expected an error with: " << part;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  // Puts another data set in the place of the tokens.
  void replace_tokens(hid_t type, const std::vector<hsize_t>& dims,
                      const std::function<void(hid_t list)>& creation) {
    forge([&](hid_t file) {
      ASSERT_GE(H5Ldelete(file, kTokens, H5P_DEFAULT), 0);
      const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
      creation(list);
      const std::vector<hsize_t> unlimited(dims.size(), H5S_UNLIMITED);
      const bool grows = H5Pget_layout(list) == H5D_CHUNKED;
      const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(),
                                           grows ? unlimited.data() : nullptr);
      const hid_t data = H5Dcreate2(file, kTokens, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
      EXPECT_GE(data, 0);
      H5Dclose(data);
      H5Pclose(list);
      H5Sclose(space);
    });
  }

  fs::path folder_;
  std::string path_;
};

void plain(hid_t) {}
void chunk_of(hid_t list, std::vector<hsize_t> dims) {
  EXPECT_GE(H5Pset_chunk(list, static_cast<int>(dims.size()), dims.data()), 0);
}

TEST_F(StoreHostile, TheForgedFileOpensWithoutAForgery) {
  forge([](hid_t) {});
  EXPECT_NO_THROW(Store(path_).validate());
}

TEST_F(StoreHostile, LinksToOtherFilesAndNamesAreRefused) {
  const std::string other = (folder_ / "other.h5").string();
  fs::copy_file(path_, other);
  forge([&](hid_t file) {
    H5Ldelete(file, kTokens, H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_external(other.c_str(), kTokens, file, kTokens, H5P_DEFAULT, H5P_DEFAULT),
              0);
  });
  expect_refused("/documents/tokens is a link");
  forge([&](hid_t file) {
    H5Ldelete(file, kTokens, H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_soft("/documents/offsets", file, kTokens, H5P_DEFAULT, H5P_DEFAULT), 0);
  });
  expect_refused("/documents/tokens is a link");
  forge([&](hid_t file) {  // the whole group
    H5Ldelete(file, "/documents", H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_external(other.c_str(), "/documents", file, "/documents", H5P_DEFAULT,
                                 H5P_DEFAULT),
              0);
  });
  expect_refused("/documents is a link");
  forge([&](hid_t file) { H5Ldelete(file, "/documents", H5P_DEFAULT); });
  expect_refused("/documents/tokens is missing");
}

TEST_F(StoreHostile, AGroupInTheirPlaceIsRefused) {
  forge([&](hid_t file) {
    H5Ldelete(file, kTokens, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, kTokens, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  });
  expect_refused("data set /documents/tokens: cannot open it");
}

TEST_F(StoreHostile, StorageOutsideTheFileIsRefused) {
  write_file_atomic((folder_ / "secret").string(), std::string(64, 's'));
  replace_tokens(H5T_STD_I32LE, {2}, [&](hid_t list) {
    EXPECT_GE(H5Pset_external(list, (folder_ / "secret").c_str(), 0, 8), 0);
  });
  expect_refused("unusual storage");
  replace_tokens(H5T_STD_I32LE, {2}, [&](hid_t list) {
    const hsize_t two = 2;
    const hid_t space = H5Screate_simple(1, &two, nullptr);
    EXPECT_GE(H5Pset_virtual(list, space, path_.c_str(), "/documents/offsets", space), 0);
    H5Sclose(space);
  });
  expect_refused("unusual storage");
}

TEST_F(StoreHostile, FiltersAndCompactStorageAreRefused) {
  replace_tokens(H5T_STD_I32LE, {2}, [](hid_t list) {
    chunk_of(list, {2});
    EXPECT_GE(H5Pset_shuffle(list), 0);
  });
  expect_refused("unusual storage");
  replace_tokens(H5T_STD_I32LE, {2}, [](hid_t list) {
    chunk_of(list, {2});
    const unsigned nothing[1] = {0};  // a filter that nobody has: plugins would be asked for it
    EXPECT_GE(H5Pset_filter(list, 32768, H5Z_FLAG_OPTIONAL, 0, nothing), 0);
  });
  expect_refused("unusual storage");
  replace_tokens(H5T_STD_I32LE, {2},
                 [](hid_t list) { EXPECT_GE(H5Pset_layout(list, H5D_COMPACT), 0); });
  expect_refused("unusual storage");
}

TEST_F(StoreHostile, OtherTypesAndShapesAreRefused) {
  for (const hid_t type : {H5T_STD_I64LE, H5T_STD_I32BE, H5T_STD_U32LE, H5T_IEEE_F32LE}) {
    replace_tokens(type, {2}, plain);
    expect_refused("has another type than the int32 that is expected");
  }
  const hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  replace_tokens(text, {2}, plain);
  H5Tclose(text);
  expect_refused("has another type");
  replace_tokens(H5T_STD_I32LE, {2, 1}, plain);
  expect_refused("expected 1 dimensions, got 2");
  replace_tokens(H5T_STD_I32LE, std::vector<hsize_t>(32, 1), plain);
  expect_refused("expected 1 dimensions, got 32");
}

TEST_F(StoreHostile, SizesThatTheFileDoesNotHoldAreRefused) {
  replace_tokens(H5T_STD_I32LE, {hsize_t{1} << 40}, [](hid_t list) { chunk_of(list, {1 << 15}); });
  expect_refused("rows need 4398046511104 bytes, the file holds 0");
  replace_tokens(H5T_STD_I32LE, {hsize_t{1} << 43}, [](hid_t list) { chunk_of(list, {1 << 15}); });
  expect_refused("rows are over the limit");
  replace_tokens(H5T_STD_I32LE, {2}, [](hid_t list) { chunk_of(list, {hsize_t{1} << 29}); });
  expect_refused("unusual storage");  // 2 GiB for a chunk of two values
}

TEST_F(StoreHostile, AttributesOfOtherKindsAreRefused) {
  const auto replace_attribute = [&](const char* name, hid_t type, hsize_t count) {
    forge([&](hid_t file) {
      H5Adelete(file, name);
      const hid_t space = H5Screate_simple(1, &count, nullptr);
      const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
      EXPECT_GE(attribute, 0);
      H5Aclose(attribute);
      H5Sclose(space);
    });
  };
  const hid_t variable = H5Tcopy(H5T_C_S1);
  H5Tset_size(variable, H5T_VARIABLE);
  replace_attribute("splits", variable, 1);
  expect_refused("attribute \"splits\" must be 1 to 256 strings of fixed length");
  H5Tclose(variable);
  const hid_t single = H5Tcopy(H5T_C_S1);
  replace_attribute("splits", single, 1000);
  H5Tclose(single);
  expect_refused("attribute \"splits\" must be 1 to 256 strings of fixed length");
  replace_attribute("splits", H5T_STD_I64LE, 1);
  expect_refused("attribute \"splits\" must be");
  replace_attribute("version", H5T_STD_I64LE, 3);
  expect_refused("attribute \"version\" must be one integer");
  forge([](hid_t file) { H5Adelete(file, "format"); });
  expect_refused("attribute \"format\" is missing");
}

// Plugins are shared libraries that HDF5 would load from this folder for an unknown filter. In a
// process of its own: HDF5 reads the environment when it is first used.
[[noreturn]] void open_and_ask(const std::string& path) {
  const Store store(path);
  unsigned state = 1, folders = 1;
  const bool asked = H5PLget_loading_state(&state) >= 0 && H5PLsize(&folders) >= 0;
  std::exit(asked && state == 0 && folders == 0 ? 0 : 1);
}

TEST(StoreHostileDeathTest, PluginsAreOffWhateverTheEnvironmentSays) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::string pattern = (fs::temp_directory_path() / "dsrsq-plugins-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const auto run = [&] {
    const Tokenizer tokenizer =
        Tokenizer::from_json(build_word_tokenizer({"alpha"}, {}), "test tokenizer");
    ::setenv("HDF5_PLUGIN_PATH", pattern.c_str(), 1);
    StoreWriter writer(pattern + "/data.h5", tokenizer, {"test", "dsrsq-data", {"all"}});
    writer.add({" alpha", "", {}});
    writer.finish();
    open_and_ask(pattern + "/data.h5");
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "");
  fs::remove_all(pattern);
}

}  // namespace
}  // namespace dsrsq
