// The stand-alone Python reader against ExportDense.
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

std::string Reader() {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  return absl::StrCat(root != nullptr ? root : ".",
                      "/deploy/bitwright_reader.py");
}

class PythonReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0) {
      GTEST_SKIP() << "/usr/bin/python3 with numpy is not installed";
    }
  }
};

TEST_F(PythonReaderTest, EqualsTheExportBitForBit) {
  auto temporary = TempDirectory::Create("python_reader");
  ASSERT_TRUE(temporary.ok());
  int number = 0;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t group_size : {0, 7}) {
      const std::string base = absl::StrCat(temporary->path(), "/", number++);
      testing_model::WriteModel(base + "-source", {.dtype = dtype});
      auto source = ModelDirectory::Open(base + "-source");
      ASSERT_TRUE(source.ok()) << source.status();
      CheckpointOptions options;
      options.group_size = group_size;
      options.method = "baq";
      options.max_shard_bytes = group_size == 0 ? 6000 : 1'000'000;
      ASSERT_TRUE(
          testing_model::WriteQuantized(**source, base + "-native", options,
                                        testing_model::RandomMixedLinear)
              .ok());
      ASSERT_TRUE(ExportDense(base + "-native", base + "-dense").ok());
      ASSERT_EQ(std::system(absl::StrCat("/usr/bin/python3 '", Reader(), "' '",
                                         base, "-native' '", base, "-python'")
                                .c_str()),
                0);
      auto dense = ModelDirectory::Open(base + "-dense");
      auto python = ModelDirectory::Open(base + "-python");
      ASSERT_TRUE(dense.ok()) << dense.status();
      ASSERT_TRUE(python.ok()) << python.status();
      EXPECT_EQ((*dense)->stored().size(), (*python)->stored().size());
      for (const auto& tensor : (*dense)->stored()) {
        auto other = (*python)->Stored(tensor.info->name);
        ASSERT_TRUE(other.ok()) << other.status();
        EXPECT_EQ(other->info->dtype, tensor.info->dtype);
        EXPECT_EQ(other->info->shape, tensor.info->shape);
        EXPECT_EQ(other->file->Data(*other->info),
                  tensor.file->Data(*tensor.info))
            << tensor.info->name;
      }
      EXPECT_EQ((*dense)->companions(), (*python)->companions());
    }
  }
}

TEST_F(PythonReaderTest, StaysBelowAHundredLines) {
  auto text = ReadFile(Reader());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_LT(std::count(text->begin(), text->end(), '\n'), 100);
}

}  // namespace
}  // namespace bitwright
