// Keeps gRPC's library running until the process ends.
#ifndef BITWRIGHT_PROTO_GRPC_LIFETIME_H_
#define BITWRIGHT_PROTO_GRPC_LIFETIME_H_

#include <grpc/grpc.h>

namespace bitwright {

// Otherwise the end of the last channel or server stops gRPC's threads, which
// may wait ten seconds for one that polls. Call it before either is made.
inline void KeepGrpcRunning() {
  [[maybe_unused]] static const bool running = (grpc_init(), true);
}

}  // namespace bitwright

#endif  // BITWRIGHT_PROTO_GRPC_LIFETIME_H_
