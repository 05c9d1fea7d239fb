#include "dsrsq/core/manifest.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using nlohmann::json;

const std::string kSum(64, 'a');

json good() {
  return {{"format", "dsrsq-checkpoint"},
          {"version", 1},
          {"step", 7},
          {"files", {{"model.safetensors", {{"bytes", 12}, {"sha256", kSum}}}}}};
}

std::string message_of(const std::string& text) {
  try {
    parse_manifest(text, "manifest.json");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError was thrown";
}

void expect_refused(const std::string& text, const std::string& part) {
  const std::string message = message_of(text);
  EXPECT_NE(message.find(part), std::string::npos)
      << "expected '" << part << "' in: " << message << "\nfor: " << text.substr(0, 200);
  EXPECT_EQ(message.rfind("manifest.json: ", 0), 0u) << message;
  EXPECT_EQ(message.find_first_of("\n\r\x1b"), std::string::npos) << "one line, nothing to obey";
  EXPECT_LT(message.size(), 400u);
}

json with(const char* pointer, const json& value) {
  json manifest = good();
  manifest[json::json_pointer(pointer)] = value;
  return manifest;
}

TEST(Manifest, WhatIsWrittenIsRead) {
  Manifest manifest;
  manifest.step = 123456789012;
  manifest.files["model.safetensors"] = {9007199254740993u, std::string(64, '0')};
  manifest.files["state.json"] = {0, kSum};
  const Manifest read = parse_manifest(manifest_text(manifest), "m");
  EXPECT_EQ(read.step, manifest.step);
  ASSERT_EQ(read.files.size(), 2u);
  EXPECT_EQ(read.files.at("model.safetensors").bytes, 9007199254740993u) << "over 2^53";
  EXPECT_EQ(read.files.at("model.safetensors").sha256, std::string(64, '0'));
  EXPECT_EQ(read.files.at("state.json").sha256, kSum);
  EXPECT_EQ(parse_manifest(good().dump(), "m").step, 7);
}

TEST(Manifest, CutAnywhereItIsRefused) {
  const std::string text = good().dump();
  for (size_t size = 0; size < text.size(); ++size)
    expect_refused(text.substr(0, size), "invalid JSON");
  expect_refused(text + "x", "invalid JSON");
  expect_refused(text + std::string(1, '\0') + "x", "NUL byte");
  expect_refused(text + text, "invalid JSON");
}

TEST(Manifest, OtherTextIsRefused) {
  expect_refused("[]", "expected a JSON object, got []");
  expect_refused("null", "expected a JSON object");
  expect_refused(std::string("\0\0\0", 3), "NUL byte");
  expect_refused("{\"format\": \"dsrsq-checkpoint\xff\"}", "invalid UTF-8");
  expect_refused("{}", "expected the key \"format\", found none");
}

TEST(Manifest, SizeDepthAndCountAreLimited) {
  expect_refused(good().dump() + std::string(kMaximumManifestBytes, ' '),
                 "expected at most 1048576 bytes");
  expect_refused(std::string(100000, '['), "nested over 3 levels");
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  expect_refused(deep, "nested over 3 levels");
  expect_refused(with("/step", json::parse("[[[[1]]]]")).dump(), "nested over 3 levels");
  json many = good();
  for (size_t i = 0; i < kMaximumManifestFiles; ++i)
    many["files"]["f" + std::to_string(i)] = many["files"]["model.safetensors"];
  expect_refused(many.dump(), "files: expected at most 256, got 257");
}

TEST(Manifest, KeysStandOnce) {
  expect_refused(
      R"({"format": "dsrsq-checkpoint", "version": 1, "step": 1, "step": 2, "files": {}})",
      "key 'step' appears twice");
  const std::string entry = R"({"bytes": 1, "sha256": ")" + kSum + "\"}";
  const std::string begin = R"({"format": "dsrsq-checkpoint", "version": 1, "step": 1, "files": {)";
  expect_refused(begin + "\"a\": " + entry + ", \"a\": " + entry + "}}", "key 'a' appears twice");
  expect_refused(begin + R"("a": {"bytes": 1, "bytes": 2, "sha256": ")" + kSum + "\"}}}",
                 "key 'bytes' appears twice");
  // The same key in two objects is none of that.
  EXPECT_EQ(
      parse_manifest(begin + "\"a\": " + entry + ", \"b\": " + entry + "}}", "m").files.size(), 2u);
}

TEST(Manifest, MistypedMissingAndUnknownKeysAreNamed) {
  for (const char* key : {"format", "version", "step", "files"}) {
    json manifest = good();
    manifest.erase(key);
    expect_refused(manifest.dump(), concat("expected the key \"", key, "\""));
  }
  expect_refused(with("/format", "dsrsq-dataset").dump(), "got \"dsrsq-dataset\"");
  expect_refused(with("/format", 1).dump(), "expected the format \"dsrsq-checkpoint\"");
  for (const json& version : {json(2), json(0), json("1"), json(1.0), json(true), json(nullptr)})
    expect_refused(with("/version", version).dump(), "expected version 1, got " + version.dump());
  for (const json& step : {json(-1), json("7"), json(7.0), json(nullptr), json(json::array()),
                           json(uint64_t{1} << 63)})
    expect_refused(with("/step", step).dump(), "step: expected a count, got " + step.dump());
  expect_refused(R"({"format": "dsrsq-checkpoint", "version": 1, "step": 1e400, "files": {}})",
                 "invalid JSON");
  expect_refused(with("/files", json::array({1})).dump(), "files: expected an object");
  expect_refused(with("/extra", 1).dump(), "unknown key \"extra\"");

  const std::string name = "/files/model.safetensors";
  expect_refused(with(name.c_str(), 12).dump(), "model.safetensors: expected an object");
  for (const json& bytes : {json(-1), json("12"), json(1.5), json(nullptr)})
    expect_refused(with((name + "/bytes").c_str(), bytes).dump(),
                   "model.safetensors: bytes: expected a count, got " + bytes.dump());
  for (const json& sum : {json(""), json(std::string(63, 'a')), json(std::string(65, 'a')),
                          json(std::string(64, 'A')), json(std::string(64, 'g')), json(1)})
    expect_refused(with((name + "/sha256").c_str(), sum).dump(),
                   "model.safetensors: sha256: expected 64 lower-case hex digits");
  expect_refused(with((name + "/mode").c_str(), 1).dump(), "unknown key \"mode\"");
}

TEST(Manifest, NamesArePlain) {
  for (const std::string& name : std::vector<std::string>{
           "", ".", "..", "../../log.txt", "/etc/passwd", "a/b", "a\\b", ".hidden", "C:x",
           std::string("a\0b", 3), "a\nb", "\x1b[2J", "ä", "a b", std::string(256, 'a')}) {
    json manifest = good();
    manifest["files"][name] = manifest["files"]["model.safetensors"];
    expect_refused(manifest.dump(), "lists the odd name");
  }
}

}  // namespace
}  // namespace dsrsq
