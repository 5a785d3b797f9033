#include "kernels/probe.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/op_levels.h"

namespace sluice::kernels {
namespace {

const OpTable& Portable() { return **SelectOpTable(Isa::kPortable); }

void FlipLowestBit(float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof(bits));
  bits ^= 1;
  std::memcpy(value, &bits, sizeof(bits));
}

// One op each, wrong in one bit of one result.
struct Sabotage {
  const char* op;
  void (*apply)(OpTable& table);
};

const Sabotage kSabotages[] = {
    {"embedding",
     [](OpTable& table) {
       table.embedding = [](const OpContext& c, const EmbeddingArgs& a) {
         Portable().embedding(c, a);
         FlipLowestBit(a.y.Row(a.y.rows - 1));
       };
     }},
    {"rms_norm",
     [](OpTable& table) {
       table.rms_norm = [](const OpContext& c, const RmsNormArgs& a) {
         Portable().rms_norm(c, a);
         FlipLowestBit(a.y.Row(0) + 5);
       };
     }},
    {"pack_activations",
     [](OpTable& table) {
       table.pack_activations = [](const OpContext& c,
                                   const PackActivationsArgs& a) {
         Portable().pack_activations(c, a);
         a.out.bytes[3] ^= 1;
       };
     }},
    {"matmul",
     [](OpTable& table) {
       table.matmul = [](const OpContext& c, const MatmulArgs& a) {
         Portable().matmul(c, a);
         // Only one height of tile is wrong.
         if (a.a.rows == 5) FlipLowestBit(a.y.Row(4) + 100);
       };
     }},
    {"norm_pack",
     [](OpTable& table) {
       table.pack_activations = [](const OpContext& c,
                                   const PackActivationsArgs& a) {
         Portable().pack_activations(c, a);
         if (a.norm_weight != nullptr) a.out.bytes[3] ^= 1;
       };
     }},
    {"gated_matmul",
     [](OpTable& table) {
       table.matmul = [](const OpContext& c, const MatmulArgs& a) {
         Portable().matmul(c, a);
         if (a.silu_mul) FlipLowestBit(a.y.Row(a.y.rows - 1) + 33);
       };
     }},
    {"rope",
     [](OpTable& table) {
       table.append_kv = [](const OpContext& c, const AppendKvArgs& a) {
         Portable().append_kv(c, a);
         if (a.rope.x.rows > 0) FlipLowestBit(a.rope.x.Row(3) + 1);
       };
     }},
    {"write_kv",
     [](OpTable& table) {
       table.append_kv = [](const OpContext& c, const AppendKvArgs& a) {
         Portable().append_kv(c, a);
         if (a.write.slots.empty()) return;
         a.write.kv.base[a.write.kv.block_stride_bytes] ^= 1;
       };
     }},
    {"copy_blocks",
     [](OpTable& table) {
       table.copy_blocks = [](const OpContext&, const CopyBlocksArgs&) {};
     }},
    {"attention",
     [](OpTable& table) {
       table.attention = [](const OpContext& c, const AttentionArgs& a) {
         Portable().attention(c, a);
         FlipLowestBit(a.out.Row(8));
       };
     }},
    {"silu_mul",
     [](OpTable& table) {
       table.silu_mul = [](const OpContext& c, const SiluMulArgs& a) {
         Portable().silu_mul(c, a);
         FlipLowestBit(a.y.Row(1));
       };
     }},
    {"add",
     [](OpTable& table) {
       table.add = [](const OpContext& c, const AddArgs& a) {
         Portable().add(c, a);
         FlipLowestBit(a.y.Row(1));
       };
     }},
    {"sample",
     [](OpTable& table) {
       table.sample = [](const OpContext& c, const SampleArgs& a) {
         Portable().sample(c, a);
         a.tokens[7] ^= 1;
       };
     }},
    {"logprobs",
     [](OpTable& table) {
       table.logprobs = [](const OpContext& c, const LogprobsArgs& a) {
         Portable().logprobs(c, a);
         FlipLowestBit(a.rows[2].logprob);
       };
     }},
};

bool SameOps(const OpTable& a, const OpTable& b) {
  return a.embedding == b.embedding && a.rms_norm == b.rms_norm &&
         a.pack_activations == b.pack_activations && a.matmul == b.matmul &&
         a.append_kv == b.append_kv && a.copy_blocks == b.copy_blocks &&
         a.attention == b.attention && a.silu_mul == b.silu_mul &&
         a.add == b.add && a.sample == b.sample && a.logprobs == b.logprobs;
}

TEST(Probe, EveryLevelPassesWithOneId) {
  std::string id;
  for (const OpTable* level : Levels()) {
    const OpTable& wanted = *level;
    const Isa isa = wanted.isa;
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      const ProbeResult result = RunProbe({&pool}, wanted);
      for (const ProbeMismatch& mismatch : result.mismatches) {
        ADD_FAILURE() << mismatch.op << " at " << Name(mismatch.isa);
      }
      EXPECT_TRUE(SameOps(result.table, wanted));
      EXPECT_EQ(result.table.isa, isa);
      if (id.empty()) id = result.numerics_id;
      EXPECT_EQ(result.numerics_id, id) << Name(isa) << " " << threads;
    }
  }
  // The same on every machine, compiler and level. A change of the arithmetic
  // changes the digest, and must change the version in probe.cc with it.
  EXPECT_EQ(id, "x86.1/c42d53c5feec26ea");
}

TEST(Probe, ReplacesASabotagedOpAndKeepsTheId) {
  ThreadPool pool(2);
  for (Isa isa : {Isa::kPortable, DetectIsa()}) {
    const OpTable& good = **SelectOpTable(isa);
    const std::string id = RunProbe({&pool}, good).numerics_id;
    OpTable expected = good;
    if (isa != Isa::kPortable) {
      expected = **SelectOpTable(static_cast<Isa>(static_cast<int>(isa) - 1));
    }
    for (const Sabotage& sabotage : kSabotages) {
      SCOPED_TRACE(sabotage.op);
      OpTable bad = good;
      sabotage.apply(bad);
      ASSERT_FALSE(SameOps(bad, good));
      const ProbeResult result = RunProbe({&pool}, bad);
      ASSERT_EQ(result.mismatches.size(), 1u);
      EXPECT_EQ(result.mismatches[0].op, sabotage.op);
      EXPECT_EQ(result.mismatches[0].isa, isa);
      EXPECT_EQ(result.numerics_id, id);
      // Where the levels share a function, taking the lower one restores it.
      EXPECT_FALSE(SameOps(result.table, bad));
      if (std::string(sabotage.op) == "matmul") {
        EXPECT_EQ(result.table.matmul, expected.matmul);
        EXPECT_EQ(result.table.attention, good.attention);
      }
    }
  }
}

// What one op of a cell does not see, another does.
TEST(Probe, AnyOpOfACellReplacesIt) {
  if (DetectIsa() == Isa::kPortable) GTEST_SKIP() << "one level only";
  ThreadPool pool(2);
  OpTable bad = **SelectOpTable(DetectIsa());
  // Right for plain rows, wrong where it gates: found after "matmul" passed.
  bad.matmul = [](const OpContext& c, const MatmulArgs& a) {
    Portable().matmul(c, a);
    if (a.silu_mul && a.packed_y == nullptr) FlipLowestBit(a.y.Row(0));
  };
  const ProbeResult result = RunProbe({&pool}, bad);
  ASSERT_EQ(result.mismatches.size(), 1u);
  EXPECT_EQ(result.mismatches[0].op, "gated_matmul");
  EXPECT_NE(result.table.matmul, bad.matmul);
  EXPECT_EQ(result.numerics_id, RunProbe({&pool}, Portable()).numerics_id);
}

// Products of whole blocks alone are wrong: of no level but amx.
TEST(Probe, ReplacesSabotagedBlocks) {
  const OpTable& good = *Levels().back();
  if (good.isa != Isa::kAmx) GTEST_SKIP() << "neither AMX nor AVX-512";
  ThreadPool pool(2);
  OpTable bad = good;
  bad.matmul = [](const OpContext& c, const MatmulArgs& a) {
    Portable().matmul(c, a);
    if (a.a.rows > 16) FlipLowestBit(a.y.Row(16));
  };
  const ProbeResult result = RunProbe({&pool}, bad);
  ASSERT_EQ(result.mismatches.size(), 1u);
  EXPECT_EQ(result.mismatches[0].op, "block_matmul");
  EXPECT_EQ(result.mismatches[0].isa, Isa::kAmx);
  EXPECT_EQ(result.table.matmul, UncheckedOpTable(Isa::kAvx512Bf16).matmul);
  EXPECT_EQ(result.table.attention, good.attention);
  EXPECT_EQ(result.numerics_id, RunProbe({&pool}, Portable()).numerics_id);
}

}  // namespace
}  // namespace sluice::kernels
