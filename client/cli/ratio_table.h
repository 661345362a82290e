// What `bitwright inspect` says about a checkpoint of the ratio method: the
// share of each linear's rows at the higher bits, block by block (math.md §4).
//
//   block  self_attn.q_proj  self_attn.k_proj  ...
//   0                  0.02              0.20
//
// Taken from the report of each linear.
#ifndef BITWRIGHT_CLIENT_CLI_RATIO_TABLE_H_
#define BITWRIGHT_CLIENT_CLI_RATIO_TABLE_H_

#include <string>

#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {

// Empty for a checkpoint of another method.
std::string RatioTableText(const CheckpointDescription& description);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_RATIO_TABLE_H_
