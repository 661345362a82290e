#include <cstdlib>
#include <cstring>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "tests/gpu/gpu_bench.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::gpu_bench {
namespace {

absl::Status WriteAll(const char* path, int64_t sequences) {
  std::FILE* out = std::fopen(path, "w");
  if (out == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s cannot be written: %s", path, strerror(errno)));
  }
  const auto run = [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(const std::string name, DeviceName());
    absl::FPrintF(out, "%s.\n\n", name);
    BW_RETURN_IF_ERROR(BenchLayers(out));
    return sequences > 0 ? BenchBlock(sequences, out) : absl::OkStatus();
  };
  absl::Status status = run();
  if (std::fclose(out) != 0 && status.ok()) {
    status =
        absl::InternalError(absl::StrFormat("%s: %s", path, strerror(errno)));
  }
  return status;
}

int Main(int argc, char** argv) {
  int64_t sequences = 128;
  const bool with_sequences =
      argc == 4 && std::strcmp(argv[2], "--sequences") == 0 &&
      absl::SimpleAtoi(argv[3], &sequences) && sequences >= 0;
  if (argc != 2 && !with_sequences) {
    std::cerr << "usage: " << argv[0] << " RESULTS.md [--sequences N]\n"
              << "  N: of 2048 tokens, for the block; 0 leaves it out\n";
    return 2;
  }
  if (absl::Status s = quant::CudaDeviceStatus(); !s.ok()) {
    std::cout << "SKIPPED: " << s.message() << "\n";
    return 0;
  }
  if (absl::Status s = WriteAll(argv[1], sequences); !s.ok()) {
    std::cerr << "error: " << s << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace bitwright::gpu_bench

int main(int argc, char** argv) {
  return bitwright::gpu_bench::Main(argc, argv);
}
