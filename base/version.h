#ifndef BASE_VERSION_H_
#define BASE_VERSION_H_

#include <string>

namespace sluice {

inline constexpr char kVersion[] = "0.1.0";
// The commit this was built from; "unknown" unless stamped by the build
// (-DSLUICE_COMMIT="...").
#ifdef SLUICE_COMMIT
inline constexpr char kCommit[] = SLUICE_COMMIT;
#else
inline constexpr char kCommit[] = "unknown";
#endif

// What --version prints: "<program> 0.1.0 (commit unknown)".
inline std::string VersionLine(const std::string& program) {
  return program + " " + kVersion + " (commit " + kCommit + ")";
}

}  // namespace sluice

#endif  // BASE_VERSION_H_
