#ifndef KERNELS_EXACT_MATH_H_
#define KERNELS_EXACT_MATH_H_

namespace sluice::kernels {

// exp, log, sin and cos in f64 from + - * / alone (CPU numerics section 9):
// libm picks variants by CPU and version, these give the same bits wherever
// IEEE doubles round to nearest. Relative error at most 1e-15, sin and cos
// absolute 1e-15. Cost about 20 ns each.

// |x| <= 700.
double ExactExp(double x);

// x > 0, normal, finite.
double ExactLog(double x);

struct SineCosine {
  double sine = 0;
  double cosine = 0;
};

// 0 <= x < 2^26.
SineCosine ExactSineCosine(double x);

}  // namespace sluice::kernels

#endif  // KERNELS_EXACT_MATH_H_
