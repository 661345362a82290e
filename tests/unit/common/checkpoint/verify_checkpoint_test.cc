// VerifyCheckpoint and DescribeCheckpoint.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class VerifyCheckpointTest : public testing::Test {
 protected:
  VerifyCheckpointTest() : temporary_(*TempDirectory::Create("verify")) {
    testing_model::WriteModel(Path("source"));
    auto source = ModelDirectory::Open(Path("source"));
    EXPECT_TRUE(source.ok()) << source.status();
    CheckpointOptions options;
    options.method = "baq";
    options.lineage_json = testing_model::Lineage((*source)->config());
    options.max_shard_bytes = 6000;
    EXPECT_TRUE(
        testing_model::WriteQuantized(**source, Path("native"), options).ok());
    EXPECT_TRUE(ExportDense(Path("native"), Path("dense")).ok());
  }
  std::string Path(const std::string& name) {
    return temporary_.path() + "/" + name;
  }
  std::string Problems(const std::string& name) {
    auto report = VerifyCheckpoint(Path(name));
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? absl::StrJoin(report->problems, "\n") : "";
  }
  TempDirectory temporary_;
};

TEST_F(VerifyCheckpointTest, CountsWhatItSaw) {
  auto report = VerifyCheckpoint(Path("native"));
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->problems.empty()) << report->problems[0];
  EXPECT_EQ(report->quantized_linears, 14);
  EXPECT_EQ(report->tensors, 14 * 4 + 2 + 1 + 2 * 2);
  EXPECT_EQ(report->files,
            std::distance(fs::directory_iterator(Path("native")), {}));
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(Path("native"))) {
    bytes += entry.file_size();
  }
  EXPECT_EQ(report->bytes, bytes);
  EXPECT_EQ(Problems("dense"), "");
}

TEST_F(VerifyCheckpointTest, CatchesAFlippedBitAnywhere) {
  std::mt19937 random(11);
  for (const char* kind : {"native", "dense"}) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(Path(kind))) {
      files.push_back(entry.path());
    }
    for (const fs::path& file : files) {
      const std::string good = *ReadFile(file);
      // First, last, and some between.
      std::vector<size_t> places = {0, good.size() - 1, good.size() / 2};
      for (int i = 0; i < 20; ++i) places.push_back(random() % good.size());
      for (size_t place : places) {
        std::string bad = good;
        bad[place] = static_cast<char>(bad[place] ^ (1 << random() % 8));
        std::ofstream(file, std::ios::binary) << bad;
        EXPECT_THAT(Problems(kind), HasSubstr(file.filename().string()))
            << "byte " << place;
      }
      std::ofstream(file, std::ios::binary) << good;
    }
    EXPECT_EQ(Problems(kind), "");
  }
}

TEST_F(VerifyCheckpointTest, CatchesMissingAndForeignFiles) {
  fs::rename(Path("native/tokenizer.json"), Path("kept"));
  EXPECT_THAT(Problems("native"), HasSubstr("tokenizer.json is missing"));
  fs::rename(Path("kept"), Path("native/tokenizer.json"));
  std::ofstream(Path("native/notes.txt")) << "mine";
  EXPECT_EQ(Problems("native"), "");  // Harmless.
  std::ofstream(Path("native/model.safetensors")) << "x";
  EXPECT_THAT(Problems("native"),
              HasSubstr("model.safetensors does not belong"));
}

// Somebody who changes a code and recomputes all digests is not caught; codes
// out of range are.
TEST_F(VerifyCheckpointTest, DecodesEverything) {
  auto model = ModelDirectory::Open(Path("native"));
  ASSERT_TRUE(model.ok());
  const std::string linear = "model.layers.0.self_attn.q_proj";
  auto tensor = (*model)->Stored(linear + ".weight_min");
  ASSERT_TRUE(tensor.ok());
  const std::string path = tensor->file->path();
  const size_t offset = tensor->file->Data(*tensor->info).data() -
                        tensor->file->Data(tensor->file->tensors()[0]).data() +
                        tensor->file->tensors()[0].begin;
  std::string bytes = *ReadFile(path);
  uint64_t header;
  std::memcpy(&header, bytes.data(), 8);
  bytes.replace(8 + header + offset, 2, std::string("\x00\x7e", 2));
  std::ofstream(path, std::ios::binary) << bytes;
  EXPECT_THAT(Problems("native"), HasSubstr(linear));
}

TEST_F(VerifyCheckpointTest, WhatIsNoCheckpoint) {
  EXPECT_TRUE(
      absl::IsInvalidArgument(VerifyCheckpoint(Path("source")).status()));
  EXPECT_TRUE(absl::IsNotFound(VerifyCheckpoint(Path("nothing")).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DescribeCheckpoint(Path("source")).status()));
}

TEST_F(VerifyCheckpointTest, FileNamesCannotEscape) {
  const std::string path = Path("native/bitwright.json");
  auto json = nlohmann::ordered_json::parse(*ReadFile(path));
  json["files"]["../source/config.json"] = {{"sha256", ""}, {"size", 0}};
  std::ofstream(path) << json.dump();
  EXPECT_THAT(Problems("native"), HasSubstr("impossible file name"));
}

TEST_F(VerifyCheckpointTest, Describes) {
  for (const char* format : {"native", "dense"}) {
    auto description = DescribeCheckpoint(Path(format));
    ASSERT_TRUE(description.ok()) << description.status();
    EXPECT_EQ(description->format, format);
    EXPECT_EQ(description->method, "baq");
    ASSERT_EQ(description->layers.size(), 7u);
    EXPECT_EQ(description->layers[1].name, "model.layers.0.self_attn.k_proj");
    EXPECT_EQ(description->layers[1].rows, 12);
    EXPECT_EQ(description->layers[1].cols, 24);
    EXPECT_EQ(description->layers[1].loss, 1.5);
    EXPECT_EQ(description->layers[1].uniform_loss, 3);
    EXPECT_EQ(description->layers[1].code_bits, 2.5);
    EXPECT_EQ(description->layers[1].file_bits, 2.75);
    EXPECT_THAT(description->layers[1].report_json, HasSubstr("damping"));
    EXPECT_THAT(description->lineage_json, HasSubstr("source_files"));
    // From the weights themselves.
    const int64_t weights = 2 * (24 * 24 * 2 + 12 * 24 * 2 + 3 * 24 * 36);
    EXPECT_EQ(description->quantized_weights, weights);
    EXPECT_EQ(description->other_weights, 2 * 40 * 24 + 5 * 24);
    double code_bits = 0, file_bits = 0;
    auto native = ModelDirectory::Open(Path("native"));
    for (const std::string& name :
         testing_model::AllLinears((*native)->config())) {
      auto linear = (*native)->ReadQuantized(name);
      ASSERT_TRUE(linear.ok());
      const double share =
          static_cast<double>(linear->rows * linear->cols) / weights;
      code_bits += linear->CodeBitsPerWeight() * share;
      file_bits += linear->FileBitsPerWeight() * share;
    }
    EXPECT_NEAR(description->code_bits_per_weight, code_bits, 1e-12);
    EXPECT_NEAR(description->file_bits_per_weight, file_bits, 1e-12);
  }
}

}  // namespace
}  // namespace bitwright
