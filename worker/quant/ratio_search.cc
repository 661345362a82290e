#include "worker/quant/ratio_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace bitwright::quant {
namespace {

// Of the objective's terms: an improvement that is smaller is a rounding error.
constexpr double kLeastChoiceGain = 1e-12;
constexpr int kMostPasses = 1000;

// One linear taking another option, or two of them; indices into M.
struct ChoiceChange {
  double gain = 0;
  int64_t to = -1, second = -1;
};

class ChoiceSearcher {
 public:
  ChoiceSearcher(const ChoiceSearch& search, std::vector<int>* choice)
      : search_(search),
        n_(static_cast<int64_t>(search.costs.size())),
        choice_(*choice),
        sums_(n_),
        rise_(n_),
        extra_(n_),
        cross_(n_) {}

  void Run() {
    for (int pass = 0; pass < kMostPasses; ++pass) {
      Begin();
      bool changed = false;
      for (int64_t l = 0; l < linears(); ++l) {
        const ChoiceChange change = BestOf(l);
        if (change.to < 0) continue;
        Apply(change);
        changed = true;
      }
      if (!changed) return;
    }
  }

 private:
  int64_t linears() const { return n_ / search_.options; }
  int64_t Current(int64_t l) const { return l * search_.options + choice_[l]; }
  const double* Row(int64_t i) const { return search_.m.data() + i * n_; }

  // Row sums of M over the options that are chosen, afresh.
  void Begin() {
    left_ = search_.budget;
    double terms = 0;
    std::fill(sums_.begin(), sums_.end(), 0);
    for (int64_t l = 0; l < linears(); ++l) {
      const double* row = Row(Current(l));
      for (int64_t i = 0; i < n_; ++i) sums_[i] += row[i];
      terms += std::abs(row[Current(l)]);
      left_ -= search_.costs[Current(l)];
    }
    least_gain_ = kLeastChoiceGain * terms;
    SetRises();
  }

  // What each option would add to the objective and the bits, alone.
  void SetRises() {
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t at = Current(i / search_.options);
      const double* row = Row(i);
      rise_[i] =
          i == at ? 0
                  : 2 * (sums_[i] - row[at] - sums_[at]) + row[i] + Row(at)[at];
      extra_[i] = search_.costs[i] - search_.costs[at];
    }
  }

  // The best change of linear l, alone or with one that comes after it.
  ChoiceChange BestOf(int64_t l) {
    ChoiceChange best{.gain = least_gain_};
    const int64_t at = Current(l), first = (l + 1) * search_.options;
    const double* old_row = Row(at);
    for (int64_t i = l * search_.options; i < first; ++i) {
      if (i == at) continue;
      if (extra_[i] <= left_ && -rise_[i] > best.gain) {
        best = {.gain = -rise_[i], .to = i};
      }
      const double* row = Row(i);
      for (int64_t j = first; j < n_; ++j) cross_[j] = row[j] - old_row[j];
      for (int64_t k = l + 1; k < linears(); ++k) {
        const double base = rise_[i] - 2 * cross_[Current(k)];
        for (int64_t j = k * search_.options; j < (k + 1) * search_.options;
             ++j) {
          const double gain = -(base + rise_[j] + 2 * cross_[j]);
          if (gain > best.gain && extra_[i] + extra_[j] <= left_) {
            best = {.gain = gain, .to = i, .second = j};
          }
        }
      }
    }
    return best;
  }

  void Apply(const ChoiceChange& change) {
    for (int64_t to : {change.to, change.second}) {
      if (to < 0) continue;
      const int64_t l = to / search_.options;
      const double* old_row = Row(Current(l));
      const double* row = Row(to);
      for (int64_t i = 0; i < n_; ++i) sums_[i] += row[i] - old_row[i];
      left_ -= search_.costs[to] - search_.costs[Current(l)];
      choice_[l] = static_cast<int>(to % search_.options);
    }
    SetRises();
  }

  const ChoiceSearch& search_;
  const int64_t n_;
  std::vector<int>& choice_;
  std::vector<double> sums_, rise_;
  std::vector<int64_t> extra_;
  std::vector<double> cross_;
  int64_t left_ = 0;
  double least_gain_ = 0;
};

}  // namespace

void ImproveChoice(const ChoiceSearch& search, std::vector<int>* choice) {
  ChoiceSearcher(search, choice).Run();
}

}  // namespace bitwright::quant
