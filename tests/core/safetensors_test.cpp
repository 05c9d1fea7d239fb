#include "dsrsq/core/safetensors.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

#ifndef DSRSQ_SOURCE_DIR
#define DSRSQ_SOURCE_DIR "."
#endif

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

class Safetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dsrsq-safetensors-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = (folder_ / "x.safetensors").string();
  }
  void TearDown() override { fs::remove_all(folder_); }

  void put_raw(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  void put(const std::string& header, const std::string& data) const {
    const uint64_t size = header.size();
    put_raw(std::string(reinterpret_cast<const char*>(&size), 8) + header + data);
  }
  std::string error() const {
    try {
      SafetensorsFile file(path_);
    } catch (const CheckpointError& caught) {
      EXPECT_NE(std::string(caught.what()).find(path_), std::string::npos);
      return caught.what();
    }
    return "no error";
  }
  void expect_error(const std::string& header, const std::string& data,
                    const std::string& part) const {
    put(header, data);
    const std::string message = error();
    EXPECT_NE(message.find(part), std::string::npos) << "expected '" << part << "' in: " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }

  fs::path folder_;
  std::string path_;
};

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

TEST_F(Safetensors, RoundTrip) {
  const std::vector<uint8_t> bytes = {1, 2, 3};
  const std::vector<float> floats = {1.5f, -2.0f, 0.0f, 3e38f, -0.0f, 7};
  const std::vector<int64_t> ints = {-5, 1};
  const double scalar = 2.5;
  write_safetensors(path_,
                    {{"bytes", ScalarType::kU8, {3}, bytes.data(), 3},
                     {"w \"q\" \xc3\xa9", ScalarType::kF32, {2, 3}, floats.data(), 24},
                     {"empty", ScalarType::kF32, {0, 4}, nullptr, 0},
                     {"ints", ScalarType::kI64, {2}, ints.data(), 16},
                     {"scalar", ScalarType::kF64, {}, &scalar, 8}},
                    {{"format", "pt"}, {"step", "12"}});
  SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.tensors()[0].name, "ints");  // wide types first
  EXPECT_EQ(file.tensors()[4].name, "bytes");
  EXPECT_EQ(file.metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}, {"step", "12"}}));
  const TensorView* w = file.find("w \"q\" \xc3\xa9");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(w->type, ScalarType::kF32);
  ASSERT_EQ(w->bytes, 24u);
  EXPECT_EQ(std::memcmp(w->data, floats.data(), 24), 0);
  EXPECT_EQ(file.find("empty")->bytes, 0u);
  EXPECT_EQ(std::memcmp(file.find("scalar")->data, &scalar, 8), 0);
  EXPECT_EQ(file.find("absent"), nullptr);
  for (const TensorView& view : file.tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % scalar_bytes(view.type), 0u) << view.name;
  }
  uint64_t header = 0;
  std::memcpy(&header, read_file(path_).data(), 8);
  EXPECT_EQ((header + 8) % 64, 0u);
}

TEST_F(Safetensors, NoTensors) {
  write_safetensors(path_, {});
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
}

TEST_F(Safetensors, EveryTypeHasItsNameAndSize) {
  const std::vector<std::pair<ScalarType, std::string>> types = {
      {ScalarType::kF64, "F64"},   {ScalarType::kF32, "F32"}, {ScalarType::kF16, "F16"},
      {ScalarType::kBF16, "BF16"}, {ScalarType::kI64, "I64"}, {ScalarType::kI32, "I32"},
      {ScalarType::kI16, "I16"},   {ScalarType::kI8, "I8"},   {ScalarType::kU8, "U8"},
      {ScalarType::kBool, "BOOL"}};
  const std::vector<size_t> sizes = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  const double data = 0;
  for (size_t i = 0; i < types.size(); ++i) {
    EXPECT_EQ(scalar_name(types[i].first), types[i].second);
    EXPECT_EQ(scalar_bytes(types[i].first), sizes[i]);
    write_safetensors(path_, {{"x", types[i].first, {1}, &data, sizes[i]}});
    EXPECT_EQ(SafetensorsFile(path_).find("x")->type, types[i].first);
  }
}

TEST_F(Safetensors, WriterRefusesWrongViews) {
  const float x[2] = {1, 2};
  const TensorView good{"x", ScalarType::kF32, {2}, x, 8};
  EXPECT_THROW(write_safetensors(path_, {good, good}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"__metadata__", ScalarType::kF32, {2}, x, 8}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"x", ScalarType::kF32, {3}, x, 8}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"x", ScalarType::kF32, {-2}, x, 8}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"x", ScalarType::kF32, {2}, nullptr, 8}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"\xff", ScalarType::kF32, {2}, x, 8}}), Error);
  EXPECT_THROW(write_safetensors((folder_ / "no" / "x").string(), {good}), Error);
}

TEST_F(Safetensors, FullDiskNamesThePath) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this machine";
  const float x[2] = {1, 2};
  try {
    write_safetensors("/dev/full", {{"x", ScalarType::kF32, {2}, x, 8}});
    FAIL() << "a full disk was not noticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
    const std::string message = error.what();
    EXPECT_EQ(message.rfind("/dev/full: cannot be written: No space left on device", 0), 0u)
        << message;
  }
}

TEST_F(Safetensors, BrokenFiles) {
  EXPECT_NE(error().find("cannot be opened"), std::string::npos);
  put_raw("");
  EXPECT_NE(error().find("it has 0 bytes"), std::string::npos);
  put_raw("1234567");
  EXPECT_NE(error().find("it has 7 bytes"), std::string::npos);
  put_raw(std::string(8, '\0'));
  EXPECT_NE(error().find("does not begin with '{'"), std::string::npos);
  put_raw(std::string(8, '\xff') + "{}");
  EXPECT_NE(error().find("the header length 18446744073709551615"), std::string::npos);
  put_raw(std::string("\x03\0\0\0\0\0\0\0{}", 10));  // one byte more than there is
  EXPECT_NE(error().find("the header length 3"), std::string::npos);
  put_raw(std::string("\x01\0\0\x01\0\0\0\0{}", 10));
  EXPECT_NE(error().find("the header length 16777217"), std::string::npos);
  path_ = folder_.string();
  EXPECT_NE(error().find("not a regular file"), std::string::npos);
}

TEST_F(Safetensors, BrokenHeaders) {
  const std::string data(8, 'd');
  put("{" + entry("x", "F32", "[2]", "[0,8]") + "}  ", data);
  EXPECT_EQ(error(), "no error");
  expect_error("[]", "", "does not begin with '{'");
  expect_error("{", "", "invalid JSON");
  expect_error("{}x", "", "invalid JSON");
  expect_error("{\"\xff\":1}", "", "invalid UTF-8");
  expect_error("{\"x\":1}", "", "expected exactly dtype, shape and data_offsets");
  expect_error("{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", data, "expected exactly dtype");
  expect_error("{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"y\":1}}", data,
               "expected exactly");
  expect_error(
      "{" + entry("x", "F32", "[1]", "[0,4]") + "," + entry("x", "F32", "[1]", "[4,8]") + "}", data,
      "'x' appears twice");
  expect_error("{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
               data, "'dtype' appears twice");
  expect_error("{" + entry("x", "F99", "[2]", "[0,8]") + "}", data, "unknown dtype \"F99\"");
  expect_error("{\"x\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}}", data,
               "unknown dtype 3");
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[null]", "[true]", "[[2]]",
                            "[9223372036854775808]", "[1e1]"}) {
    expect_error("{" + entry("x", "F32", shape, "[0,8]") + "}", data, "is not a count");
  }
  expect_error("{" + entry("x", "F32", "2", "[0,8]") + "}", data, "shape is not a list");
  expect_error("{" + entry("x", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") + "}", data,
               "rank 9 is over 8");
  expect_error("{" + entry("x", "F32", "[3]", "[0,8]") + "}", data,
               "do not match its shape and dtype");
  expect_error("{" + entry("x", "F32", "[4294967296,4294967296,2]", "[0,8]") + "}", data,
               "do not match its shape");
  expect_error("{" + entry("x", "F32", "[4611686018427387904]", "[0,0]") + "}", "",
               "do not match its shape");
  for (const char* offsets : {"[0]", "[0,8,8]", "8", "[0,8.0]", "[-1,8]", "[\"0\",8]"}) {
    expect_error("{" + entry("x", "F32", "[2]", offsets) + "}", data,
                 "data_offsets is not [begin, end]");
  }
  expect_error("{" + entry("x", "F32", "[2]", "[8,0]") + "}", data, "leave the 8 bytes of data");
  expect_error("{" + entry("x", "F32", "[4]", "[0,16]") + "}", data, "is the file truncated?");
  expect_error("{" + entry("x", "F32", "[2]", "[18446744073709551608,18446744073709551615]") + "}",
               data, "leave the 8");
  expect_error("{" + entry("x", "F32", "[1]", "[4,8]") + "}", data,
               "begins at 4; expected 0 (gap)");
  expect_error(
      "{" + entry("x", "F32", "[1]", "[0,4]") + "," + entry("y", "F32", "[2]", "[0,8]") + "}", data,
      "(overlap)");
  expect_error(
      "{" + entry("x", "U8", "[5]", "[0,5]") + "," + entry("y", "U8", "[5]", "[3,8]") + "}", data,
      "(overlap)");
  expect_error("{" + entry("x", "F32", "[1]", "[0,4]") + "}", data,
               "the tensors end at 4 of 8 bytes");
  expect_error("{}", data, "the tensors end at 0 of 8 bytes");
  expect_error("{\"__metadata__\":3}", "", "__metadata__ is not an object");
  expect_error("{\"__metadata__\":{\"a\":3}}", "", "__metadata__ 'a' is not text");
  expect_error("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", "", "'a' appears twice");
  std::string deep = "{\"x\":";
  for (int i = 0; i < 100000; ++i) deep += '[';
  expect_error(deep, "", "nested over 4 levels");
  std::string many = "{\"x\":[0";
  for (int i = 0; i < 1'500'000; ++i) many += ",0";
  expect_error(many + "]}", "", "over 1400000 values");
  expect_error("{\"a\\nb\":1}", "", "'a\\nb': expected exactly");
}

TEST_F(Safetensors, TensorsAndHeaderAreLimited) {
  const auto header = [](int count) {
    std::string out = "{";
    for (int i = 0; i < count; ++i)
      out += (i == 0 ? "" : ",") + entry(std::to_string(i), "U8", "[0]", "[0,0]");
    return out + "}";
  };
  put(header(100'000), "");
  EXPECT_EQ(SafetensorsFile(path_).tensors().size(), 100'000u);
  expect_error(header(100'001), "", "100001 tensors; at most 100000");
  std::vector<TensorView> views;
  for (int i = 0; i <= 100'000; ++i)
    views.push_back({std::to_string(i), ScalarType::kU8, {0}, nullptr, 0});
  EXPECT_THROW(write_safetensors(path_, views), Error);
  EXPECT_THROW(write_safetensors(path_, {}, {{"note", std::string(16 << 20, 'x')}}), Error);
}

TEST_F(Safetensors, SameKeyInTwoTensorsIsNotADuplicate) {
  put("{" + entry("y", "U8", "[3]", "[5,8]") + "," + entry("z", "F32", "[0]", "[5,5]") + "," +
          entry("x", "U8", "[5]", "[0,5]") + "}",
      "01234567");
  SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "x");
  EXPECT_EQ(file.tensors()[1].name, "z");
  EXPECT_EQ(std::string(static_cast<const char*>(file.find("y")->data), 3), "567");
}

// Truncation at each byte is an error, never a crash.
TEST_F(Safetensors, TruncationAnywhere) {
  const float x[2] = {1, 2};
  write_safetensors(path_, {{"x", ScalarType::kF32, {2}, x, 8}});
  const std::string whole = read_file(path_);
  for (size_t size = 0; size < whole.size(); ++size) {
    put_raw(whole.substr(0, size));
    EXPECT_NE(error(), "no error") << size;
  }
}

TEST_F(Safetensors, PythonReadsOursAndWeReadPythons) {
  const std::string python = std::string(DSRSQ_SOURCE_DIR) + "/.venv/bin/python";
  if (std::system(
          (python + " -c 'import safetensors.numpy' 2> " + (folder_ / "err").string()).c_str()) !=
      0) {
    GTEST_SKIP() << "no Python with the safetensors package in .venv";
  }
  const float x[6] = {0, 1, 2, 3, 4, 5};
  const uint8_t flags[3] = {1, 0, 1};
  const int64_t ids[1] = {-7};
  write_safetensors(path_,
                    {{"flags", ScalarType::kBool, {3}, flags, 3},
                     {"x", ScalarType::kF32, {2, 3}, x, 24},
                     {"ids", ScalarType::kI64, {1}, ids, 8},
                     {"none", ScalarType::kF16, {0, 2}, nullptr, 0}},
                    {{"format", "pt"}});
  const std::string script = (folder_ / "check.py").string();
  const std::string theirs = (folder_ / "theirs.safetensors").string();
  std::ofstream(script)
      << "import sys, numpy as np\n"
         "from safetensors import safe_open\n"
         "from safetensors.numpy import load_file, save_file\n"
         "t = load_file(sys.argv[1])\n"
         "assert sorted(t) == ['flags', 'ids', 'none', 'x'], sorted(t)\n"
         "assert t['x'].dtype == np.float32 and t['x'].tolist() == [[0, 1, 2], [3, 4, 5]]\n"
         "assert t['flags'].dtype == bool and t['flags'].tolist() == [True, False, True]\n"
         "assert t['ids'].tolist() == [-7] and t['none'].shape == (0, 2)\n"
         "assert safe_open(sys.argv[1], 'np').metadata() == {'format': 'pt'}\n"
         "save_file({'a.b': np.arange(6, dtype=np.int32).reshape(3, 2), 'h': np.ones(5, "
         "np.float16),\n"
         "           's': np.array(2.5), 'u': np.array([200], np.uint8)}, sys.argv[2], {'k': "
         "'v'})\n";
  ASSERT_EQ(std::system((python + " " + script + " " + path_ + " " + theirs).c_str()), 0);
  SafetensorsFile file(theirs);
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata().at("k"), "v");
  const TensorView* a = file.find("a.b");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{3, 2}));
  const int32_t expected[6] = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(std::memcmp(a->data, expected, sizeof(expected)), 0);
  EXPECT_EQ(file.find("s")->shape.size(), 0u);
  EXPECT_EQ(*static_cast<const uint8_t*>(file.find("u")->data), 200);
  EXPECT_EQ(file.find("h")->type, ScalarType::kF16);
}

}  // namespace
}  // namespace dsrsq
