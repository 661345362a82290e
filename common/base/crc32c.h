// CRC-32C (Castagnoli), the checksum of one transferred chunk.
#ifndef BITWRIGHT_COMMON_BASE_CRC32C_H_
#define BITWRIGHT_COMMON_BASE_CRC32C_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace bitwright {

// Crc32c("123456789") == 0xE3069283.
uint32_t Crc32c(absl::string_view data);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_BASE_CRC32C_H_
