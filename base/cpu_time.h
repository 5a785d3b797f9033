#ifndef BASE_CPU_TIME_H_
#define BASE_CPU_TIME_H_

namespace sluice {

// User and system time of this process so far, all its threads, in seconds.
double ProcessCpuSeconds();

}  // namespace sluice

#endif  // BASE_CPU_TIME_H_
