#include "kernels/op_table.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace sluice::kernels {
namespace {

TEST(OpTable, EveryLevelUpToTheDetectedIsComplete) {
  for (Isa isa : kAllIsas) {
    const absl::StatusOr<const OpTable*> table = SelectOpTable(isa);
    if (isa > DetectIsa()) {
      EXPECT_EQ(table.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_NE(table.status().message().find(Name(isa)),
                absl::string_view::npos);
      continue;
    }
    ASSERT_TRUE(table.ok()) << table.status();
    const OpTable& ops = **table;
    EXPECT_EQ(ops.isa, isa);
    EXPECT_EQ(ops.name, std::string("cpu.") + std::string(Name(isa)));
    EXPECT_NE(ops.embedding, nullptr);
    EXPECT_NE(ops.rms_norm, nullptr);
    EXPECT_NE(ops.pack_activations, nullptr);
    EXPECT_NE(ops.matmul, nullptr);
    EXPECT_NE(ops.append_kv, nullptr);
    EXPECT_NE(ops.copy_blocks, nullptr);
    EXPECT_NE(ops.attention, nullptr);
    EXPECT_NE(ops.silu_mul, nullptr);
    EXPECT_NE(ops.add, nullptr);
    EXPECT_NE(ops.sample, nullptr);
    EXPECT_NE(ops.logprobs, nullptr);
    EXPECT_EQ(*SelectOpTable(isa), &ops);
  }
}

// Forced by --cpu.isa=amx where there is none.
TEST(OpTable, AboveTheDetectedLevelSaysWhatThereIs) {
  if (DetectIsa() == Isa::kAmx) GTEST_SKIP() << "nothing is above";
  EXPECT_EQ(SelectOpTable(Isa::kAmx).status().message(),
            absl::StrCat("instruction set amx is not available; this machine "
                         "has ",
                         Name(DetectIsa())));
}

TEST(Isa, NamesParseBack) {
  for (Isa isa : kAllIsas) {
    const absl::StatusOr<Isa> parsed = ParseIsa(Name(isa));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, isa);
  }
  EXPECT_EQ(Name(Isa::kAmx), "amx");
  for (absl::string_view name : {"", "AVX2", "avx", "amx "}) {
    const absl::Status status = ParseIsa(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(name), absl::string_view::npos);
    for (Isa isa : kAllIsas) {
      EXPECT_NE(status.message().find(Name(isa)), absl::string_view::npos);
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
