#include "tests/worker/exec/step_cost_hooks.h"

#include <dlfcn.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

// The one place from which the filter lets system calls through.
extern "C" {
long SluiceUntrappedCall(long number, const long* args);
extern const char SluiceUntrappedReturn[];
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
}
__asm__(
    ".text\n"
    ".globl SluiceUntrappedCall\n"
    "SluiceUntrappedCall:\n"
    "  mov %rdi, %rax\n"
    "  mov %rsi, %r11\n"
    "  mov 0(%r11), %rdi\n"
    "  mov 8(%r11), %rsi\n"
    "  mov 16(%r11), %rdx\n"
    "  mov 24(%r11), %r10\n"
    "  mov 32(%r11), %r8\n"
    "  mov 40(%r11), %r9\n"
    "  syscall\n"
    ".globl SluiceUntrappedReturn\n"
    "SluiceUntrappedReturn:\n"
    "  ret\n");

namespace sluice::worker {
namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> locks{0};
std::atomic<int64_t> system_calls{0};
std::atomic<int64_t> yields{0};
std::atomic<int64_t> futexes{0};
std::atomic<int64_t> last_call{-1};

void Count(std::atomic<int64_t>& what) {
  if (counting.load(std::memory_order_relaxed)) {
    what.fetch_add(1, std::memory_order_relaxed);
  }
}

void OnTrap(int, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  auto& regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const long number = info->si_syscall;
  if (number == SYS_sched_yield) {
    Count(yields);
  } else if (number == SYS_futex) {
    Count(futexes);
  } else if (counting.load(std::memory_order_relaxed)) {
    Count(system_calls);
    last_call.store(number, std::memory_order_relaxed);
  }
  const long args[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                        regs[REG_R10], regs[REG_R8],  regs[REG_R9]};
  regs[REG_RAX] = SluiceUntrappedCall(number, args);
  errno = saved_errno;
}

}  // namespace

std::string TrapSystemCalls() {
  struct sigaction action = {};
  action.sa_sigaction = OnTrap;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGSYS, &action, nullptr) != 0) return std::strerror(errno);
  const auto allowed = reinterpret_cast<uint64_t>(SluiceUntrappedReturn);
  const auto field = [](size_t offset) {
    return sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0,
                       static_cast<uint32_t>(offset)};
  };
  const auto unless = [](uint32_t value, uint8_t skip) {
    return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, skip, value};
  };
  const sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
  sock_filter filter[] = {
      field(offsetof(seccomp_data, nr)),
      unless(SYS_rt_sigreturn, 1),
      allow,
      field(offsetof(seccomp_data, instruction_pointer)),
      unless(static_cast<uint32_t>(allowed), 3),
      field(offsetof(seccomp_data, instruction_pointer) + 4),
      unless(static_cast<uint32_t>(allowed >> 32), 1),
      allow,
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP},
  };
  sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return std::strerror(errno);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
              &program) != 0) {
    return std::strerror(errno);
  }
  return "";
}

void StartCounting() {
  for (std::atomic<int64_t>* counter :
       {&allocations, &locks, &system_calls, &yields, &futexes}) {
    counter->store(0, std::memory_order_relaxed);
  }
  last_call.store(-1, std::memory_order_relaxed);
  counting.store(true, std::memory_order_seq_cst);
}

StepCosts StopCounting() {
  counting.store(false, std::memory_order_seq_cst);
  return {.allocations = allocations.load(),
          .locks = locks.load(),
          .system_calls = system_calls.load(),
          .yields = yields.load(),
          .futexes = futexes.load(),
          .last_call = last_call.load()};
}

}  // namespace sluice::worker

// Instead of libc's, for the whole process.
extern "C" {

void* malloc(size_t size) {
  sluice::worker::Count(sluice::worker::allocations);
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  sluice::worker::Count(sluice::worker::allocations);
  return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) {
  sluice::worker::Count(sluice::worker::allocations);
  return __libc_realloc(old, size);
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  using Lock = int (*)(pthread_mutex_t*);
  static std::atomic<Lock> next{nullptr};
  Lock lock = next.load(std::memory_order_relaxed);
  if (lock == nullptr) {
    lock = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    next.store(lock, std::memory_order_relaxed);
  }
  sluice::worker::Count(sluice::worker::locks);
  return lock(mutex);
}

}  // extern "C"
