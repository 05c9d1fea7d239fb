#include "dsrsq/core/manifest.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

const std::string kSum(64, 'a');

std::string text_with(const std::string& files) {
  return R"({"format":"f","version":1,"step":7,"files":)" + files + "}";
}
std::string entry(const std::string& name) {
  return "{\"" + name + "\":{\"bytes\":3,\"sha256\":\"" + kSum + "\"}}";
}

std::string error_of(const std::string& text) {
  try {
    parse_manifest(text, "m.json");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

void expect_error(const std::string& text, const std::string& part) {
  const std::string error = error_of(text);
  EXPECT_NE(error.find(part), std::string::npos) << "expected '" << part << "' in: " << error;
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
}

TEST(Manifest, RoundTrip) {
  Manifest manifest{"f", 1, int64_t{1} << 62, {}};
  manifest.files["a b.bin"] = {~uint64_t{0}, kSum};
  manifest.files["..c"] = {0, std::string(64, '0')};
  const Manifest read = parse_manifest(dump_manifest(manifest), "m");
  EXPECT_EQ(read.format, "f");
  EXPECT_EQ(read.version, 1);
  EXPECT_EQ(read.step, int64_t{1} << 62);
  ASSERT_EQ(read.files.size(), 2u);
  EXPECT_EQ(read.files.at("a b.bin").bytes, ~uint64_t{0});
  EXPECT_EQ(read.files.at("a b.bin").sha256, kSum);
}

TEST(Manifest, MalformedTextIsAnError) {
  EXPECT_EQ(error_of(text_with(entry("x"))), "no error");
  expect_error("", "m.json: invalid JSON");
  expect_error("[]", "m.json: expected an object, got array");
  expect_error("{}", "key 'format' is missing");
  expect_error(R"({"format":1})", "format: expected text");
  expect_error(R"({"format":"f","format":"g"})", "'format' appears twice");
  expect_error(R"({"format":"f","version":-1})", "version: expected a count, got '-1'");
  expect_error(R"({"format":"f","version":1.0})", "version: expected a count");
  expect_error(R"({"format":"f","version":9223372036854775808})", "expected a count");
  expect_error(R"({"format":"f","version":1,"step":"7"})", "step: expected a count");
  expect_error(text_with("[]"), "files: expected an object");
  expect_error(text_with("{}"), "files: expected an object");
  expect_error(std::string(1000, '['), "nested over 32");
}

TEST(Manifest, HostileFilesAreErrors) {
  for (const char* name : {"", ".", "..", "../x", "/etc/passwd", "a/b", "a\\u0000b"})
    expect_error(text_with(entry(name)), "is not the name of a file in this folder");
  expect_error(text_with(entry(std::string(256, 'x'))), "is not the name");
  expect_error(text_with(R"({"x":3})"), "'x': expected bytes and sha256");
  expect_error(text_with(R"({"x":{"bytes":3}})"), "expected bytes and sha256");
  expect_error(text_with(R"({"x":{"bytes":-3,"sha256":""}})"), "expected bytes and sha256");
  expect_error(text_with(R"({"x":{"bytes":3,"sha256":"ab"}})"), "64 lower-case hexadecimal");
  expect_error(text_with(R"({"x":{"bytes":3,"sha256":")" + std::string(64, 'A') + "\"}}"),
               "64 lower-case");
  std::string many = "{";
  for (int i = 0; i <= 4096; ++i) many += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  expect_error(text_with(many + "}"), "4097 names; at most 4096");
}

TEST(Manifest, FolderDamageNamesTheFile) {
  std::string folder = (fs::temp_directory_path() / "dsrsq-manifest-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const auto put = [&](const std::string& content) {
    std::ofstream(folder + "/x", std::ios::binary) << content;
  };
  put("abc");
  Manifest manifest{"f", 1, 7, {{"x", describe_file(folder, "x")}}};
  EXPECT_EQ(manifest.files.at("x").sha256,  // FIPS 180-4
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(folder_damage(folder, manifest), "");
  put("abd");
  EXPECT_EQ(folder_damage(folder, manifest), "x: its SHA-256 is not that of the manifest");
  put("abcd");
  EXPECT_EQ(folder_damage(folder, manifest), "x: expected 3 bytes, got 4");
  fs::rename(folder + "/x", folder + "/y");
  EXPECT_EQ(folder_damage(folder, manifest), "x: is missing");
  EXPECT_THROW(describe_file(folder, "x"), DataError);
  fs::create_symlink("y", folder + "/x");
  EXPECT_EQ(folder_damage(folder, manifest), "x: is not a regular file");
  fs::remove_all(folder);
}

}  // namespace
}  // namespace dsrsq
