// Trained models: this project's own, and those of the shared material.
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/model_directory.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

// Opens every model directory below `root` and reads all its tensors; returns
// how many there were.
int ReadAllModels(const fs::path& root) {
  int models = 0;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    if (!fs::exists(it->path() / "config.json")) continue;
    ++models;
    auto model = ModelDirectory::Open(it->path().string());
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) continue;
    for (const ExpectedTensor& tensor : ExpectedTensors((*model)->config())) {
      if (!(*model)->Has(tensor.name)) {
        EXPECT_TRUE(tensor.optional) << tensor.name;
        continue;
      }
      auto values = (*model)->ReadFloats(tensor.name);
      EXPECT_TRUE(values.ok()) << values.status();
    }
  }
  return models;
}

TEST(RealModelsTest, OwnFixtures) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  const int models = ReadAllModels(
      absl::StrCat(root != nullptr ? root : ".", "/tests/fixtures/models"));
  EXPECT_GE(models, 2);
}

TEST(RealModelsTest, SharedModels) {
  const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
  const fs::path models = fs::path(shared != nullptr ? shared : "") / "models";
  if (shared == nullptr || !fs::exists(models)) {
    GTEST_SKIP() << "BITWRIGHT_SHARED_DIR/models is not there";
  }
  EXPECT_GE(ReadAllModels(models), 1);
}

}  // namespace
}  // namespace bitwright
