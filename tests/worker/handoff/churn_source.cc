// A prefill worker without a model, to be killed:
//
//   churn_source TRANSPORT PORT GENERATION
//
// Listens on 127.0.0.1:PORT (0: a free one), prints the port in a line, and
// sends what each line of its input asks for:
//
//   HEX_OF_TICKET SEQUENCE PAUSE_US
//
// the KV of SEQUENCE (tests/kvtransfer/testing/kv_worker.h), layer by layer,
// with a pause after each.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.pb.h"
#include "tests/worker/handoff/wired_worker.h"
#include "worker/handoff/kv_service.h"

namespace sluice::worker {
namespace {

void Send(WiredWorker& worker, const std::string& line) {
  std::string hex;
  uint64_t sequence = 0;
  int pause_us = 0;
  std::istringstream(line) >> hex >> sequence >> pause_us;
  v1::Ticket proto;
  SLUICE_CHECK(proto.ParseFromString(absl::HexStringToBytes(hex)));
  const auto ticket = kvtransfer::FromProto(proto);
  SLUICE_CHECK(ticket.ok());
  const kvtransfer::KvWorkerSpec& spec = worker.kv.spec;
  const std::vector<uint32_t> blocks =
      kvtransfer::Blocks(ticket->num_tokens, spec.block_tokens, 1);
  worker.kv.Fill(blocks, ticket->num_tokens, sequence);
  kvtransfer::SendArgs send;
  send.ticket = *ticket;
  send.on_ended = [](const auto&, const auto&) {};
  SLUICE_CHECK(worker.engine->StartSend(send).ok());
  for (int layer = 0; layer < spec.layers; ++layer) {
    const uint32_t l = static_cast<uint32_t>(layer);
    worker.engine->OfferRectangle(
        {.transfer_id = ticket->transfer_id,
         .rectangle = {0, ticket->num_tokens, l, l + 1},
         .blocks = blocks});
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
  }
}

int Run(const std::string& transport, int port, uint64_t generation) {
  WiredWorker worker(ChurnSource(generation), transport, /*sends=*/true);
  KvService service(*worker.engine, worker.links, worker.kv.manifest);
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port),
                           grpc::InsecureServerCredentials(), &bound);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  if (server == nullptr || bound == 0) return 1;
  std::cout << bound << std::endl;
  for (std::string line; std::getline(std::cin, line);) Send(worker, line);
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

}  // namespace
}  // namespace sluice::worker

int main(int argc, char** argv) {
  int port = 0;
  uint64_t generation = 0;
  if (argc != 4 || !absl::SimpleAtoi(argv[2], &port) ||
      !absl::SimpleAtoi(argv[3], &generation)) {
    std::fprintf(stderr, "usage: churn_source TRANSPORT PORT GENERATION\n");
    return 64;
  }
  return sluice::worker::Run(argv[1], port, generation);
}
