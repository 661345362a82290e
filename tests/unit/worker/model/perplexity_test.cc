// Perplexities of real models against the figures stated beside them, which an
// independent PyTorch forward and sentencepiece gave (math.md §5).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/text/tokenizer.h"
#include "common/text/windows.h"
#include "worker/model/decoder_model.h"

namespace bitwright::model {
namespace {

struct Row {
  const char *model, *text;
  int64_t seqlen, tokens, windows;
  double perplexity;
  bool slow;  // Half a minute or so.
};

void PrintTo(const Row& row, std::ostream* out) {
  *out << row.model << ", " << row.text << ", seqlen " << row.seqlen;
}

class PerplexityTest : public testing::TestWithParam<Row> {};

absl::StatusOr<double> SumOfNll(
    const DecoderModel& model, const std::vector<std::vector<int32_t>>& windows,
    int64_t seqlen) {
  constexpr size_t kBatch = 64;
  double sum = 0;
  for (size_t begin = 0; begin < windows.size(); begin += kBatch) {
    const size_t end = std::min(begin + kBatch, windows.size());
    std::vector<int32_t> tokens;
    for (size_t w = begin; w < end; ++w) {
      tokens.insert(tokens.end(), windows[w].begin(), windows[w].end());
    }
    auto states = model.Embed(tokens, end - begin, seqlen);
    if (!states.ok()) return states.status();
    for (int64_t b = 0; b < model.num_blocks(); ++b) {
      absl::Status status = model.RunBlock(b, nullptr, &*states, nullptr);
      if (!status.ok()) return status;
    }
    auto nll = model.WindowNll(*states, tokens);
    if (!nll.ok()) return nll.status();
    sum = std::accumulate(nll->begin(), nll->end(), sum);
  }
  return sum;
}

TEST_P(PerplexityTest, IsAsStated) {
  const Row& row = GetParam();
  const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
  if (shared == nullptr || !std::filesystem::is_directory(shared)) {
    GTEST_SKIP() << "BITWRIGHT_SHARED_DIR has no models";
  }
  if (row.slow && std::getenv("BITWRIGHT_LONG_TESTS") == nullptr) {
    GTEST_SKIP() << "set BITWRIGHT_LONG_TESTS=1 to run it";
  }
  const std::string path = std::string(shared) + "/models/" + row.model;
  auto directory = ModelDirectory::Open(path);
  ASSERT_TRUE(directory.ok()) << directory.status();
  auto pieces = ReadFile(path + "/tokenizer.model");
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  auto tokenizer = Tokenizer::FromSentencePiece(*pieces, "tokenizer.model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  auto text = ReadFile(std::string(shared) + "/text/" + row.text);
  ASSERT_TRUE(text.ok()) << text.status();
  const std::vector<int32_t> tokens = (*tokenizer)->EncodeWithBos(*text);
  EXPECT_EQ(static_cast<int64_t>(tokens.size()), row.tokens);
  auto windows = EvalWindows(tokens, row.seqlen);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(static_cast<int64_t>(windows->size()), row.windows);

  auto model = DecoderModel::Open(directory->get(), "cpu");
  ASSERT_TRUE(model.ok()) << model.status();
  auto sum = SumOfNll(**model, *windows, row.seqlen);
  ASSERT_TRUE(sum.ok()) << sum.status();
  const double perplexity =
      std::exp(*sum / static_cast<double>(row.windows * (row.seqlen - 1)));
  RecordProperty("perplexity", std::to_string(perplexity));
  EXPECT_NEAR(perplexity, row.perplexity, 2e-5 * row.perplexity);
}

INSTANTIATE_TEST_SUITE_P(
    Stated, PerplexityTest,
    testing::Values(Row{"stories260k", "tinystories-heldout.txt", 512, 129045,
                        252, 4.31693, false},
                    Row{"stories260k", "tinystories-heldout.txt", 256, 129045,
                        504, 4.43900, true},
                    Row{"stories260k", "wikitext-2-valid.txt", 512, 716893,
                        1400, 118.97198, true},
                    Row{"stories260k", "tinystories-heldout-b.txt", 512, 116837,
                        228, 5.27800, true},
                    Row{"stories15m", "tinystories-heldout-b.txt", 256, 59190,
                        231, 17.54104, true}));

}  // namespace
}  // namespace bitwright::model
