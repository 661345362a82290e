#include "worker/model/reconstruction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/worker/model/test_models.h"
#include "worker/quant/grid.h"
#include "worker/quant/quantize_rows.h"

namespace bitwright::model {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBlock = 1;

// Block 1 of a fixture, on the states that its full-precision prefix gives.
class ReconstructionTest : public testing::Test {
 protected:
  explicit ReconstructionTest(const std::string& name = "llama_plain")
      : fixture_(name), input_(fixture_.Embed()) {
    EXPECT_TRUE(fixture_.model->RunBlock(0, nullptr, &input_, nullptr).ok());
    target_ = input_;
    EXPECT_TRUE(
        fixture_.model->RunBlock(kBlock, nullptr, &target_, nullptr).ok());
  }

  std::vector<LinearSpec> linears() const {
    return BlockLinears(fixture_.model->config(), kBlock);
  }

  // Every third row of each linear has `high` bits, the others `normal`.
  ReconstructProblem Problem(int normal, int high) const {
    ReconstructProblem problem{.block = kBlock,
                               .sequences = input_.sequences,
                               .seqlen = input_.seqlen};
    problem.read = [this](int64_t i, absl::Span<float> input,
                          absl::Span<float> target) {
      const auto at = static_cast<int64_t>(i * input.size());
      std::copy_n(input_.data.begin() + at, input.size(), input.begin());
      std::copy_n(target_.data.begin() + at, target.size(), target.begin());
      return absl::OkStatus();
    };
    for (const LinearSpec& linear : linears()) {
      RowsToLearn& rows = problem.linears.emplace_back();
      rows.bits_rounded = high;
      for (int64_t r = 0; r < linear.rows; ++r) {
        rows.bits.push_back(static_cast<uint8_t>(r % 3 == 1 ? high : normal));
      }
    }
    return problem;
  }

  ReconstructedBlock Run(const ReconstructProblem& problem,
                         const ReconstructOptions& options) const {
    return Must(ReconstructBlock(*fixture_.model, problem, options));
  }

  std::vector<float> WeightOf(const LinearSpec& linear) const {
    return Must(fixture_.directory->ReadFloats(linear.name + ".weight"));
  }

  // What a reader decodes.
  std::vector<float> Decode(const LinearSpec& linear, const RowsToLearn& rows,
                            const LearnedLinear& learned,
                            int64_t group_size) const {
    std::vector<float> decoded = WeightOf(linear);
    for (int64_t r = 0; r < linear.rows; ++r) {
      for (int64_t j = 0; j < linear.cols; ++j) {
        float& value = decoded[r * linear.cols + j];
        if (rows.bits[r] == quant::kF16Bits) {
          value = quant::RoundToF16(value);
          continue;
        }
        const int64_t range =
            r * learned.groups + (group_size > 0 ? j / group_size : 0);
        value = quant::Decode(
            learned.codes[r * linear.cols + j],
            quant::MakeGridPoint(learned.range_min[range],
                                 learned.range_max[range], 1 << rows.bits[r]));
      }
    }
    return decoded;
  }

  // Mean squared error of the block's output with what was learned.
  double Loss(const ReconstructProblem& problem,
              const std::vector<LearnedLinear>& learned,
              int64_t group_size) const {
    const std::vector<LinearSpec> specs = linears();
    const WeightOverride weights = [&](const std::string& name)
        -> absl::StatusOr<std::optional<std::vector<float>>> {
      for (size_t l = 0; l < specs.size(); ++l) {
        if (specs[l].name != name) continue;
        return Decode(specs[l], problem.linears[l], learned[l], group_size);
      }
      return absl::NotFoundError(name);
    };
    HiddenStates states = input_;
    EXPECT_TRUE(
        fixture_.model->RunBlock(kBlock, weights, &states, nullptr).ok());
    double sum = 0;
    for (size_t i = 0; i < states.data.size(); ++i) {
      sum += std::pow(double{states.data[i]} - target_.data[i], 2);
    }
    return sum / static_cast<double>(states.data.size());
  }

  Fixture fixture_;
  HiddenStates input_, target_;
};

bool operator==(const LearnedLinear& a, const LearnedLinear& b) {
  return a.range_min == b.range_min && a.range_max == b.range_max &&
         a.codes == b.codes;
}

TEST_F(ReconstructionTest, LossFallsAndIsThatOfTheDecodedBlock) {
  for (const auto& [normal, high, group] :
       {std::tuple{2, 3, 0}, {2, 4, 5}, {3, 16, 0}, {1, 2, 7}}) {
    SCOPED_TRACE(absl::StrCat(normal, " ", high, " ", group));
    const ReconstructProblem problem = Problem(normal, high);
    const ReconstructedBlock block = Run(
        problem, {.iterations = 300, .check_every = 50, .group_size = group});
    EXPECT_LT(block.loss, 0.8 * block.first_loss);
    EXPECT_NEAR(Loss(problem, block.linears, group), block.loss,
                1e-4 * block.loss);
  }
}

class OptReconstructionTest : public ReconstructionTest {
 protected:
  OptReconstructionTest() : ReconstructionTest("opt_after_projected") {}
};

TEST_F(OptReconstructionTest, NormsAfterEachHalf) {
  const ReconstructProblem problem = Problem(2, 3);
  const ReconstructedBlock block =
      Run(problem, {.iterations = 300, .check_every = 50});
  EXPECT_LT(block.loss, 0.8 * block.first_loss);
  EXPECT_NEAR(Loss(problem, block.linears, 0), block.loss, 1e-4 * block.loss);
}

// All rows at once by AdaRound, whose start is rounding to nearest.
TEST_F(ReconstructionTest, RoundingIsLearnedAndStaysBetweenNeighbours) {
  ReconstructProblem problem = Problem(2, 3);
  for (RowsToLearn& rows : problem.linears) {
    std::fill(rows.bits.begin(), rows.bits.end(), uint8_t{3});
  }
  const ReconstructedBlock block = Run(
      problem,
      {.iterations = 600, .batch = 2, .round_rate = 1e-2, .check_every = 100});
  EXPECT_LT(block.loss, 0.4 * block.first_loss);
  const LinearSpec linear = linears()[0];
  const std::vector<float> weight = WeightOf(linear);
  int64_t moved = 0;
  for (int64_t i = 0; i < linear.rows * linear.cols; ++i) {
    const LearnedLinear& learned = block.linears[0];
    const quant::GridPoint p =
        quant::MakeGridPoint(learned.range_min[i / linear.cols],
                             learned.range_max[i / linear.cols], 8);
    const float steps = weight[i] / p.scale + p.zero;
    const float code = learned.codes[i];
    EXPECT_LE(std::abs(code - std::clamp(steps, 0.0f, 7.0f)), 1.001f);
    moved += code != quant::Encode(weight[i], p);
  }
  EXPECT_GT(moved, 0);
}

TEST_F(ReconstructionTest, ThreadsChangeNothing) {
  const ReconstructProblem problem = Problem(2, 3);
  for (int batch : {1, 3, 5}) {
    const ReconstructOptions options{
        .iterations = 40, .batch = batch, .check_every = 10};
    std::vector<ReconstructedBlock> blocks;
    for (int threads : {1, 3}) {
      const ScopedThreads scoped(threads);
      blocks.push_back(Run(problem, options));
    }
    EXPECT_EQ(blocks[0].loss, blocks[1].loss) << batch;
    for (size_t l = 0; l < blocks[0].linears.size(); ++l) {
      EXPECT_TRUE(blocks[0].linears[l] == blocks[1].linears[l]) << batch;
    }
  }
}

TEST_F(ReconstructionTest, StopsWhereItIsFlatAndKeepsTheBest) {
  const ReconstructProblem problem = Problem(2, 3);
  ReconstructOptions still{.iterations = 60,
                           .round_rate = 1e-12,
                           .clip_rate = 1e-12,
                           .check_every = 5,
                           .patience = 20};
  // Roundings gain in the second half.
  const ReconstructedBlock flat = Run(problem, still);
  EXPECT_EQ(flat.iterations, 50);
  EXPECT_EQ(flat.loss, flat.first_loss);
  ReconstructProblem clipped = problem;
  for (RowsToLearn& rows : clipped.linears) rows.bits_rounded = 8;
  EXPECT_EQ(Run(clipped, still).iterations, 20);
  still.patience = 0;
  EXPECT_EQ(Run(clipped, still).iterations, 60);
  // Rates that only do harm.
  const ReconstructedBlock wild =
      Run(problem, {.iterations = 30, .clip_rate = 50, .check_every = 10});
  EXPECT_LE(wild.loss, wild.first_loss);
  EXPECT_NEAR(Loss(problem, wild.linears, 0), wild.loss, 1e-4 * wild.loss);
}

// It once stopped with iterations that nobody had measured.
TEST_F(ReconstructionTest,
       PatienceBelowAMeasurementsIntervalKeepsWhatWasLearned) {
  ReconstructProblem problem = Problem(2, 3);
  for (RowsToLearn& rows : problem.linears) rows.bits_rounded = 8;
  const ReconstructedBlock block =
      Run(problem, {.iterations = 100, .check_every = 40, .patience = 3});
  EXPECT_GT(block.kept_iteration, 0);
  EXPECT_LT(block.loss, block.first_loss);
}

TEST_F(ReconstructionTest, RowsThatAreAllKeptLearnNothing) {
  const ReconstructProblem problem = Problem(16, 16);
  const ReconstructedBlock block = Run(problem, {.iterations = 3});
  EXPECT_EQ(block.loss, block.first_loss);
}

TEST_F(ReconstructionTest, BadInputIsRefused) {
  const auto refused = [&](const ReconstructProblem& problem,
                           const ReconstructOptions& options) {
    auto block = ReconstructBlock(*fixture_.model, problem, options);
    EXPECT_EQ(block.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(block.status().message());
  };
  const ReconstructProblem good = Problem(2, 3);
  EXPECT_THAT(refused(good, {.iterations = 0}), HasSubstr("iterations is 0"));
  EXPECT_THAT(refused(good, {.batch = 0}), HasSubstr("batch"));
  EXPECT_THAT(refused(good, {.clip_rate = std::nan("")}),
              HasSubstr("clip_rate"));
  EXPECT_THAT(refused(good, {.gamma_first = 1, .gamma_last = 2}),
              HasSubstr("gamma_last"));
  ReconstructProblem other = good;
  other.linears.pop_back();
  EXPECT_THAT(refused(other, {}), HasSubstr("rows of"));
  other = good;
  other.linears[0].bits.pop_back();
  EXPECT_THAT(refused(other, {}), HasSubstr("q_proj"));
  other = good;
  other.sequences = 0;
  EXPECT_THAT(refused(other, {}), HasSubstr("0 sequences"));
}

TEST_F(ReconstructionTest, ALossThatIsNotFiniteIsRefused) {
  target_.data[5] = std::numeric_limits<float>::quiet_NaN();
  auto block = ReconstructBlock(*fixture_.model, Problem(2, 3), {});
  EXPECT_EQ(block.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(block.status().message(),
              HasSubstr("block 1: the loss at iteration 0"));
}

TEST_F(ReconstructionTest, LearnsOnCudaWhatItLearnsOnTheCpu) {
  if (const auto device = ResolveDevice("cuda"); !device.ok()) {
    GTEST_SKIP() << device.status().message();
  }
  const LoadedModel gpu(FixturePath("llama_plain"), "cuda");
  const ReconstructProblem problem = Problem(2, 3);
  const ReconstructOptions options{.iterations = 80, .check_every = 20};
  const ReconstructedBlock want = Run(problem, options);
  const ReconstructedBlock got =
      Must(ReconstructBlock(*gpu.model, problem, options));
  EXPECT_NEAR(got.first_loss / want.first_loss, 1, 1e-4);
  EXPECT_NEAR(got.loss / want.loss, 1, 0.02);
  EXPECT_LT(got.loss, 0.9 * got.first_loss);
  EXPECT_NEAR(got.loss / Loss(problem, got.linears, 0), 1, 1e-3);
  for (size_t l = 0; l < want.linears.size(); ++l) {
    const auto& a = want.linears[l].codes;
    const auto& b = got.linears[l].codes;
    ASSERT_EQ(a.size(), b.size());
    const auto same = std::inner_product(
        a.begin(), a.end(), b.begin(), int64_t{0}, std::plus<>(),
        [](uint8_t x, uint8_t y) { return int64_t{x == y}; });
    EXPECT_GT(static_cast<double>(same), 0.97 * static_cast<double>(a.size()))
        << linears()[l].name;
  }
}

TEST_F(ReconstructionTest, TheWatcherMayEndIt) {
  ReconstructProblem problem = Problem(2, 3);
  int seen = 0;
  problem.watch = [&](int iteration, double loss) {
    EXPECT_GT(loss, 0);
    seen = iteration;
    return iteration == 4 ? absl::CancelledError("enough") : absl::OkStatus();
  };
  auto block = ReconstructBlock(*fixture_.model, problem, {});
  EXPECT_EQ(block.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(seen, 4);
}

}  // namespace
}  // namespace bitwright::model
