// The part of a job's method that an action depends on: what its task does not
// look at does not belong to it, so that tasks which differ in nothing else
// share their results. Private to this folder.
#ifndef BITWRIGHT_SERVER_PLANNER_ACTION_METHODS_H_
#define BITWRIGHT_SERVER_PLANNER_ACTION_METHODS_H_

#include "bitwright/v1/job.pb.h"

namespace bitwright {

// Bits that come with an allocation or a solution are not a parameter.
v1::MethodSpec QuantizeMethod(v1::MethodSpec method);
v1::MethodSpec MeasureMethod(v1::MethodSpec method);
v1::MethodSpec AllocateMethod(const v1::MethodSpec& method, double bits);
v1::MethodSpec SolveMethod(const v1::MethodSpec& method);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_PLANNER_ACTION_METHODS_H_
