#ifndef BITWRIGHT_COMMON_BASE_VERSION_H_
#define BITWRIGHT_COMMON_BASE_VERSION_H_

namespace bitwright {

// The tool's version, as the build says it; part of every checkpoint's lineage.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_BASE_VERSION_H_
