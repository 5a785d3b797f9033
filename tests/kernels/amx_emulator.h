#ifndef TESTS_KERNELS_AMX_EMULATOR_H_
#define TESTS_KERNELS_AMX_EMULATOR_H_

namespace sluice::kernels {

// Runs the machine code of AMX kernels where the CPU has no AMX: each tile
// instruction traps, and a handler of SIGILL does what the Intel SDM (volume
// 2: LDTILECFG, TILELOADD, TDPBSSD, TDPBF16PS, ...) says it does, on tiles of
// the thread's own. What would fault on hardware, such as a tile that is not
// configured or shapes that do not fit, fails a CHECK. It shows bits and
// faults, never speed: a trap takes microseconds.

// Whether kernels of level amx can run in this process: the CPU has AMX, or it
// has AVX-512 for the rest of them and the emulator, which the first call then
// installs for the life of the process. Any thread.
bool AmxRuns();

// AmxRuns() without a CPU that does.
bool AmxIsEmulated();

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_AMX_EMULATOR_H_
