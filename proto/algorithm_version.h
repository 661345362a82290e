// The version of each kind's algorithm: part of every action, and so of every
// action digest. A result must not go on record as something that it is not, so
// the server leases nothing to a worker whose versions are not its own, and
// plans a job anew that was planned for others.
#ifndef BITWRIGHT_PROTO_ALGORITHM_VERSION_H_
#define BITWRIGHT_PROTO_ALGORITHM_VERSION_H_

#include <string>

#include "bitwright/v1/job.pb.h"

namespace bitwright {

// 1 or more; 0 for what is no kind of task.
int AlgorithmVersion(v1::TaskKind kind);

// Those of all kinds, like "PREPARE 1, FORWARD 2": what a worker says of
// itself.
std::string AlgorithmVersions();

}  // namespace bitwright

#endif  // BITWRIGHT_PROTO_ALGORITHM_VERSION_H_
