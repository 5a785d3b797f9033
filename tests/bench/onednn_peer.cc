// Products of oneDNN, beside which those of matmul_bench are held. Not built
// with the tree: goals.py compiles it against the folder that --onednn names.
//
//   onednn_peer ROWS K N        (threads: OMP_NUM_THREADS)
//
// Prints Gop/s of bf16 x bf16 -> f32 and of u8 x s8 -> s32, weights in the
// layout that oneDNN likes best, operands rounded before: less than ours do,
// which round their rows and apply a scale for every 32 values.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "dnnl.hpp"

namespace {

using dnnl::memory;

struct Shape {
  memory::dim rows, k, n;
};

struct Types {
  memory::data_type source, weights, result;
};

double Gops(const dnnl::engine& engine, const Shape& shape,
            const Types& types) {
  const memory::desc source({shape.rows, shape.k}, types.source,
                            memory::format_tag::ab);
  const memory::desc weights({shape.k, shape.n}, types.weights,
                             memory::format_tag::any);
  const memory::desc result({shape.rows, shape.n}, types.result,
                            memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description(engine, source, weights,
                                                 result);
  const dnnl::matmul product(description);
  dnnl::stream stream(engine);
  memory a(source, engine);
  memory b(description.weights_desc(), engine);
  memory c(result, engine);
  // Not zeros: their products are no faster, but pages of them are shared.
  for (memory* m : {&a, &b, &c}) {
    auto* bytes = static_cast<unsigned char*>(m->get_data_handle());
    std::fill_n(bytes, m->get_desc().get_size(), 1);
  }
  const std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
  std::vector<double> seconds;
  for (int i = 0; i < 30; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    product.execute(stream, arguments);
    stream.wait();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + 15, seconds.end());
  return 2e-9 * static_cast<double>(shape.rows * shape.k * shape.n) /
         seconds[15];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 64;
  const Shape shape = {std::atoll(argv[1]), std::atoll(argv[2]),
                       std::atoll(argv[3])};
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  using type = memory::data_type;
  std::printf("{\"BF16\": %.1f, \"Q8_0\": %.1f}\n",
              Gops(engine, shape, {type::bf16, type::bf16, type::f32}),
              Gops(engine, shape, {type::u8, type::s8, type::s32}));
  return 0;
}
