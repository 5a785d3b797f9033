#ifndef TESTS_WORKER_EXEC_STEP_COST_HOOKS_H_
#define TESTS_WORKER_EXEC_STEP_COST_HOOKS_H_

#include <cstdint>
#include <string>

namespace sluice::worker {

// What every thread of the process asked of others while counting was on.
struct StepCosts {
  int64_t allocations = 0;   // malloc and its kin
  int64_t locks = 0;         // pthread_mutex_lock
  int64_t system_calls = 0;  // but for the two that follow
  int64_t yields = 0;        // sched_yield: offers a core while it waits
  int64_t futexes = 0;       // sleeps and wakes
  int64_t last_call = -1;    // number of the last of `system_calls`
};

// Traps all system calls of all threads that there are, for the rest of the
// process; no thread may be made afterwards. Returns why not, or "".
std::string TrapSystemCalls();

void StartCounting();
StepCosts StopCounting();

}  // namespace sluice::worker

#endif  // TESTS_WORKER_EXEC_STEP_COST_HOOKS_H_
