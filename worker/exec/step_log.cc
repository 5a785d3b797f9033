#include "worker/exec/step_log.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/step_log.pb.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kMaxRecordBytes = 256 << 20;

std::string DtypeName(kernels::KvDtype dtype) {
  return dtype == kernels::KvDtype::kBF16 ? "bf16" : "f32";
}

void ToProto(const SamplingParams& in, v1::SamplingParams* out) {
  out->set_temperature(in.temperature);
  out->set_top_p(in.top_p);
  out->set_top_k(static_cast<uint32_t>(std::max(in.top_k, 0)));
  out->set_min_p(in.min_p);
  out->set_frequency_penalty(in.frequency_penalty);
  out->set_presence_penalty(in.presence_penalty);
  out->set_repetition_penalty(in.repetition_penalty);
  out->set_max_tokens(static_cast<uint32_t>(in.max_tokens));
  out->set_min_tokens(static_cast<uint32_t>(in.min_tokens));
  for (TokenId id : in.stop_token_ids) {
    out->add_stop_token_ids(static_cast<uint32_t>(id));
  }
  out->set_ignore_eos(in.ignore_eos);
  out->set_n(static_cast<uint32_t>(in.n));
  if (in.logprobs >= 0) out->set_logprobs(in.logprobs);
  if (in.prompt_logprobs >= 0) out->set_prompt_logprobs(in.prompt_logprobs);
  out->set_seed(static_cast<int64_t>(in.seed));
  for (const kernels::TokenBias& bias : in.logit_bias) {
    (*out->mutable_logit_bias())[bias.token] = bias.bias;
  }
}

SamplingParams FromProto(const v1::SamplingParams& in) {
  SamplingParams out;
  out.temperature = in.temperature();
  out.top_p = in.top_p();
  out.top_k = static_cast<int32_t>(in.top_k());
  out.min_p = in.min_p();
  out.frequency_penalty = in.frequency_penalty();
  out.presence_penalty = in.presence_penalty();
  out.repetition_penalty = in.repetition_penalty();
  out.max_tokens = static_cast<int32_t>(in.max_tokens());
  out.min_tokens = static_cast<int32_t>(in.min_tokens());
  out.stop_token_ids.assign(in.stop_token_ids().begin(),
                            in.stop_token_ids().end());
  out.ignore_eos = in.ignore_eos();
  out.n = static_cast<int32_t>(in.n());
  out.logprobs = in.has_logprobs() ? in.logprobs() : -1;
  out.prompt_logprobs = in.has_prompt_logprobs() ? in.prompt_logprobs() : -1;
  out.seed = static_cast<uint64_t>(in.seed());
  for (const auto& [token, bias] : in.logit_bias()) {
    out.logit_bias.push_back({.token = token, .bias = bias});
  }
  std::sort(out.logit_bias.begin(), out.logit_bias.end(),
            [](const kernels::TokenBias& a, const kernels::TokenBias& b) {
              return a.token < b.token;
            });
  return out;
}

void ToProto(const StepPlan& in, steplog::Plan* out) {
  out->set_step(in.step);
  for (const SequenceStart& start : in.starts) {
    steplog::SequenceStart* s = out->add_starts();
    s->set_seq(start.seq);
    s->mutable_tokens()->Add(start.tokens.begin(), start.tokens.end());
    s->set_prompt_tokens(start.prompt_tokens);
    s->set_seed(start.seed);
    ToProto(*start.sampling, s->mutable_sampling());
  }
  out->mutable_ends()->Add(in.ends.begin(), in.ends.end());
  for (const kernels::BlockCopyPair& pair : in.copies) {
    steplog::BlockCopy* copy = out->add_copies();
    copy->set_from(pair.from);
    copy->set_to(pair.to);
  }
  for (const PlanRow& row : in.rows) {
    steplog::Row* r = out->add_rows();
    r->set_seq(row.seq);
    r->set_kv_before(row.kv_before);
    r->mutable_tokens()->Add(row.tokens.begin(), row.tokens.end());
    r->mutable_blocks()->Add(row.blocks.begin(), row.blocks.end());
    r->set_sample(!row.samples.empty());
    r->mutable_samples()->Add(row.samples.begin(), row.samples.end());
    r->set_prompt_logprobs(static_cast<uint32_t>(row.prompt_logprobs + 1));
  }
}

StepPlan FromProto(const steplog::Plan& in) {
  StepPlan out;
  out.step = in.step();
  for (const steplog::SequenceStart& s : in.starts()) {
    out.starts.push_back({.seq = s.seq(),
                          .tokens = {s.tokens().begin(), s.tokens().end()},
                          .prompt_tokens = s.prompt_tokens(),
                          .seed = s.seed(),
                          .sampling = std::make_shared<const SamplingParams>(
                              FromProto(s.sampling()))});
  }
  out.ends.assign(in.ends().begin(), in.ends().end());
  for (const steplog::BlockCopy& copy : in.copies()) {
    out.copies.push_back({.from = copy.from(), .to = copy.to()});
  }
  for (const steplog::Row& r : in.rows()) {
    out.rows.push_back(
        {.seq = r.seq(),
         .kv_before = r.kv_before(),
         .tokens = {r.tokens().begin(), r.tokens().end()},
         .blocks = {r.blocks().begin(), r.blocks().end()},
         .samples = {r.samples().begin(), r.samples().end()},
         .prompt_logprobs = static_cast<int32_t>(r.prompt_logprobs()) - 1});
  }
  return out;
}

steplog::Record RecordOf(const StepLogHeader& in) {
  steplog::Record record;
  steplog::Header* out = record.mutable_header();
  out->set_model_digest(in.model_digest);
  out->set_numerics_id(in.numerics_id);
  out->set_kv_dtype(DtypeName(in.kv_dtype));
  out->set_widened_to_f32(in.widened_to_f32);
  out->set_block_tokens(in.block_tokens);
  out->set_num_blocks(in.num_blocks);
  out->set_max_batch_seqs(in.max_batch_seqs);
  out->set_max_batch_tokens(in.max_batch_tokens);
  out->set_model_tokens(in.model_tokens);
  return record;
}

StepLogHeader FromProto(const steplog::Header& in) {
  return {.model_digest = in.model_digest(),
          .numerics_id = in.numerics_id(),
          .kv_dtype = in.kv_dtype() == "f32" ? kernels::KvDtype::kF32
                                             : kernels::KvDtype::kBF16,
          .widened_to_f32 = in.widened_to_f32(),
          .block_tokens = in.block_tokens(),
          .num_blocks = in.num_blocks(),
          .max_batch_seqs = in.max_batch_seqs(),
          .max_batch_tokens = in.max_batch_tokens(),
          .model_tokens = in.model_tokens()};
}

absl::Status WriteRecord(int fd, const std::string& path,
                         const steplog::Record& record) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.WriteVarint32(static_cast<uint32_t>(record.ByteSizeLong()));
    record.SerializeToCodedStream(&coded);
  }
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + written, bytes.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return absl::UnavailableError(absl::StrCat("cannot write step log ", path,
                                                 ": ", std::strerror(errno)));
    }
    written += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

StepLogRecord RecordFromProto(const steplog::Record& in) {
  StepLogRecord out;
  out.is_header = in.has_header();
  if (out.is_header) {
    out.header = FromProto(in.header());
    return out;
  }
  out.plan = FromProto(in.plan());
  for (const steplog::Sampled& s : in.results()) {
    out.result.sampled.push_back(
        {.seq = s.seq(),
         .token = s.token(),
         .status = static_cast<kernels::SampleStatus>(s.status()),
         .logprobs = {},
         .logits_sha256 = s.logits_sha256()});
  }
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepLogWriter>> StepLogWriter::Open(
    const std::string& path, const StepLogHeader& header) {
  const int fd =
      open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot open step log ", path, ": ", std::strerror(errno)));
  }
  std::unique_ptr<StepLogWriter> writer(new StepLogWriter(path, fd));
  RETURN_IF_ERROR(WriteRecord(fd, path, RecordOf(header)));
  return writer;
}

StepLogWriter::~StepLogWriter() { close(fd_); }

absl::Status StepLogWriter::Write(const StepPlan& plan,
                                  const StepResult& result) {
  steplog::Record record;
  ToProto(plan, record.mutable_plan());
  for (const SampledToken& token : result.sampled) {
    steplog::Sampled* s = record.add_results();
    s->set_seq(token.seq);
    s->set_token(token.token);
    s->set_status(static_cast<uint32_t>(token.status));
    s->set_logits_sha256(token.logits_sha256);
  }
  return WriteRecord(fd_, path_, record);
}

absl::StatusOr<std::vector<StepLogRecord>> ReadStepLog(
    const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(absl::StrCat("cannot open step log ", path));
  }
  std::ostringstream text;
  text << in.rdbuf();
  const std::string bytes = text.str();
  std::vector<StepLogRecord> records;
  size_t offset = 0;
  while (offset < bytes.size()) {
    // A stream of its own for each record: a coded stream reads 2 GiB at most.
    google::protobuf::io::CodedInputStream coded(
        reinterpret_cast<const uint8_t*>(bytes.data()) + offset,
        static_cast<int>(
            std::min<size_t>(bytes.size() - offset, kMaxRecordBytes + 16)));
    uint32_t size = 0;
    steplog::Record record;
    if (!coded.ReadVarint32(&size) || size > kMaxRecordBytes ||
        size > bytes.size() - offset -
                   static_cast<size_t>(coded.CurrentPosition()) ||
        !record.ParseFromArray(bytes.data() + offset + coded.CurrentPosition(),
                               static_cast<int>(size))) {
      return absl::DataLossError(absl::StrCat(path, ": the record at byte ",
                                              offset, " is cut or malformed"));
    }
    offset += static_cast<size_t>(coded.CurrentPosition()) + size;
    records.push_back(RecordFromProto(record));
  }
  return records;
}

}  // namespace sluice::worker
