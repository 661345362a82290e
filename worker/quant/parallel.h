// A parallel loop whose result cannot depend on the number of threads.
//
// The caller cuts its work into pieces by the size of the problem alone (never
// by Threads()), lets each piece write to places of its own, and combines the
// pieces in index order afterwards:
//
//   std::vector<double> partial(chunks);
//   ParallelFor(chunks, [&](int64_t i) { partial[i] = SumOfChunk(i); });
//   double total = 0;
//   for (double p : partial) total += p;
//
// BLAS is called from inside such pieces and must therefore be single-threaded
// itself: PinBlasToOneThread(). (oneDNN is held to one thread in blas.cc.)
#ifndef BITWRIGHT_WORKER_QUANT_PARALLEL_H_
#define BITWRIGHT_WORKER_QUANT_PARALLEL_H_

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace bitwright::quant {

// How many threads ParallelFor may use, the caller's own included. 0 (the
// default) means one per core this process may run on. Thread-safe; takes
// effect at the next ParallelFor.
void SetThreads(int threads);
int Threads();

// Sets the BLAS library to one thread for the whole process (a no-op when it is
// so already, or when the BLAS has no such switch). Every function of this
// folder that calls BLAS does this first.
void PinBlasToOneThread();

// Calls fn(0), ..., fn(n - 1), each exactly once, in any order and on any
// thread, and returns when all have returned. The calling thread takes part.
// A call from inside fn runs its loop on the calling thread. fn must not throw.
// Thread-safe: several loops may run at once and share the threads.
void ParallelFor(int64_t n, absl::FunctionRef<void(int64_t)> fn);

// The size of the pieces that `rows` rows are cut into by the row-parallel
// loops of this folder: a function of `rows` alone.
int64_t RowChunk(int64_t rows);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_PARALLEL_H_
