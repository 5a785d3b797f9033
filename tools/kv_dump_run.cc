#include "tools/kv_dump_run.h"

#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.grpc.pb.h"
#include "proto/worker.grpc.pb.h"
#include "tools/kv_dump_text.h"

namespace sluice {
namespace {

using kvtransfer::LayoutManifest;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 64;
constexpr auto kCallTimeout = std::chrono::seconds(5);

struct Options {
  std::string command;
  std::vector<std::string> places;  // of manifest and ledger
  std::string source;
  std::string destination;
  uint32_t tokens = 512;
  uint32_t skip = 0;
  uint32_t source_replica = 0;
  uint32_t destination_replica = 0;
  bool proto = false;
};

absl::StatusOr<Options> ParseArgs(absl::Span<const absl::string_view> args) {
  Options options;
  if (args.empty()) return absl::InvalidArgumentError("a command is required");
  options.command = std::string(args[0]);
  const std::pair<absl::string_view, std::string*> texts[] = {
      {"--source", &options.source}, {"--destination", &options.destination}};
  const std::pair<absl::string_view, uint32_t*> numbers[] = {
      {"--tokens", &options.tokens},
      {"--skip", &options.skip},
      {"--source-replica", &options.source_replica},
      {"--destination-replica", &options.destination_replica}};
  for (size_t i = 1; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (!absl::StartsWith(arg, "--")) {
      options.places.emplace_back(arg);
      continue;
    }
    if (arg == "--proto") {
      options.proto = true;
      continue;
    }
    // --flag=value, or the value as the next argument.
    const size_t equals = arg.find('=');
    const absl::string_view name = arg.substr(0, equals);
    if (equals == absl::string_view::npos && i + 1 == args.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, " needs a value"));
    }
    const absl::string_view value =
        equals == absl::string_view::npos ? args[++i] : arg.substr(equals + 1);
    bool known = false;
    for (const auto& [flag, text] : texts) {
      if (flag != name) continue;
      *text = std::string(value);
      known = true;
    }
    for (const auto& [flag, number] : numbers) {
      if (flag != name) continue;
      known = true;
      if (!absl::SimpleAtoi(value, number)) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, " is \"", value, "\", want a number"));
      }
    }
    if (!known) {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", name));
    }
  }
  return options;
}

absl::Status CheckOptions(const Options& options) {
  if (options.command == "plan") {
    if (!options.places.empty() || options.source.empty() ||
        options.destination.empty()) {
      return absl::InvalidArgumentError(
          "plan needs --source and --destination and nothing else");
    }
    return absl::OkStatus();
  }
  if (options.command != "manifest" && options.command != "ledger") {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown command ", options.command));
  }
  if (options.places.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.command, " needs one HOST:PORT or FILE"));
  }
  return absl::OkStatus();
}

bool IsFile(const std::string& place) {
  std::error_code ignored;
  return std::filesystem::exists(place, ignored) &&
         !std::filesystem::is_directory(place, ignored);
}

template <typename Message>
absl::Status ReadText(const std::string& path, Message& message) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)),
                         std::istreambuf_iterator<char>());
  if (file.bad() ||
      !google::protobuf::TextFormat::ParseFromString(text, &message)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no ", Message::descriptor()->name(),
                     " in the text format of protobuf"));
  }
  return absl::OkStatus();
}

template <typename Message>
std::string ProtoText(const Message& message) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(message, &text);
  return text;
}

std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  return grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
}

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
}

absl::Status CallStatus(const std::string& address, absl::string_view call,
                        const grpc::Status& status) {
  const absl::Status native = FromGrpcStatus(status);
  if (native.ok()) return native;
  return absl::Status(
      native.code(), absl::StrCat(address, ", ", call, ": ", native.message()));
}

// A worker's manifest, or that of a file; without its id a file gets one.
absl::StatusOr<LayoutManifest> ReadManifest(const std::string& place) {
  v1::LayoutManifest proto;
  if (IsFile(place)) {
    RETURN_IF_ERROR(ReadText(place, proto));
  } else {
    grpc::ClientContext context;
    SetDeadline(context);
    RETURN_IF_ERROR(CallStatus(
        place, "GetManifest",
        v1::Kv::NewStub(Dial(place))->GetManifest(&context, {}, &proto)));
  }
  // What the file leaves out cannot be told from what is not 32 bytes.
  const bool without_id = proto.manifest_id().empty();
  if (without_id) proto.set_manifest_id(std::string(32, '\0'));
  ASSIGN_OR_RETURN(LayoutManifest manifest, kvtransfer::FromProto(proto));
  if (without_id) manifest.manifest_id = ComputeManifestId(manifest);
  const absl::Status valid = ValidateManifest(manifest);
  if (!valid.ok()) {
    return absl::Status(valid.code(),
                        absl::StrCat(place, ": ", valid.message()));
  }
  return manifest;
}

absl::StatusOr<std::string> DumpManifest(const Options& options) {
  ASSIGN_OR_RETURN(const LayoutManifest manifest,
                   ReadManifest(options.places[0]));
  return options.proto ? ProtoText(kvtransfer::ToProto(manifest))
                       : ManifestText(manifest);
}

absl::StatusOr<std::string> DumpPlan(const Options& options) {
  ASSIGN_OR_RETURN(const LayoutManifest source, ReadManifest(options.source));
  ASSIGN_OR_RETURN(const LayoutManifest destination,
                   ReadManifest(options.destination));
  return PlanText({.source = &source,
                   .destination = &destination,
                   .source_replica = options.source_replica,
                   .destination_replica = options.destination_replica,
                   .skip_tokens = options.skip,
                   .num_tokens = options.tokens});
}

// The first report of a worker, as a router would get it.
absl::StatusOr<v1::WorkerReport> ReadReport(v1::Worker::Stub& stub,
                                            const std::string& address) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ReportRequest request;
  request.set_router_id("kv_dump");
  const auto reader = stub.Report(&context, request);
  v1::WorkerReport report;
  const bool read = reader->Read(&report);
  context.TryCancel();
  const grpc::Status status = reader->Finish();
  if (read) return report;
  RETURN_IF_ERROR(CallStatus(address, "Report", status));
  return absl::UnavailableError(absl::StrCat(address, " ended its reports"));
}

struct Ledger {
  v1::LedgerResponse blocks;
  std::optional<v1::WorkerReport> report;  // none of a file
};

absl::StatusOr<Ledger> ReadLedger(const std::string& place) {
  Ledger ledger;
  if (IsFile(place)) {
    RETURN_IF_ERROR(ReadText(place, ledger.blocks));
    return ledger;
  }
  const auto stub = v1::Worker::NewStub(Dial(place));
  grpc::ClientContext context;
  SetDeadline(context);
  RETURN_IF_ERROR(
      CallStatus(place, "Ledger", stub->Ledger(&context, {}, &ledger.blocks)));
  ASSIGN_OR_RETURN(ledger.report, ReadReport(*stub, place));
  return ledger;
}

KvDumpResult Printed(absl::StatusOr<std::string> text) {
  if (text.ok()) return {.exit_code = 0, .out = *std::move(text), .err = ""};
  return {.exit_code = kExitFailed,
          .out = "",
          .err = absl::StrCat("kv_dump: ", text.status().ToString(), "\n")};
}

KvDumpResult DumpLedger(const Options& options) {
  const absl::StatusOr<Ledger> ledger = ReadLedger(options.places[0]);
  if (!ledger.ok()) return Printed(ledger.status());
  const v1::WorkerReport* const report =
      ledger->report.has_value() ? &*ledger->report : nullptr;
  KvDumpResult result =
      Printed(options.proto ? ProtoText(ledger->blocks)
                            : LedgerText(ledger->blocks, report));
  if (!Balances(ledger->blocks)) result.exit_code = kExitFailed;
  return result;
}

}  // namespace

KvDumpResult RunKvDump(absl::Span<const absl::string_view> args) {
  const absl::StatusOr<Options> options = ParseArgs(args);
  absl::Status status = options.status();
  if (status.ok()) status = CheckOptions(*options);
  if (!status.ok()) {
    return {.exit_code = kExitUsage,
            .out = "",
            .err = absl::StrCat(
                "kv_dump: ", status.message(),
                "\nusage: kv_dump manifest HOST:PORT|FILE [--proto]\n"
                "       kv_dump plan --source HOST:PORT|FILE "
                "--destination HOST:PORT|FILE [--tokens N] [--skip N]\n"
                "               [--source-replica N] "
                "[--destination-replica N]\n"
                "       kv_dump ledger HOST:PORT|FILE [--proto]\n")};
  }
  if (options->command == "ledger") return DumpLedger(*options);
  return Printed(options->command == "plan" ? DumpPlan(*options)
                                            : DumpManifest(*options));
}

}  // namespace sluice
