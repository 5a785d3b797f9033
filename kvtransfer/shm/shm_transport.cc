#include "kvtransfer/shm/shm_transport.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/shm/shm_handshake.h"

namespace sluice::kvtransfer {
namespace {

constexpr int64_t kHandshakeMs = 3000;
constexpr size_t kMaxInbound = 64;
// One turn copies about this much: well under a millisecond.
constexpr uint64_t kTurnBytes = 4 << 20;
// One turn enters this much into the page tables: some tenths of a
// millisecond.
constexpr uint64_t kPopulateBytes = 4 << 20;
constexpr char kHello[] = "SLK1";
constexpr char kGo[] = "GO";
constexpr char kUp[] = "UP";

// Enters the next pages of [base, base + size) into our page tables; false
// once all are, or the kernel will not.
bool PopulateNext(const std::byte* base, uint64_t size, int advice,
                  uint64_t& done) {
  if (done >= size) return false;
  const uint64_t bytes = std::min(kPopulateBytes, size - done);
  void* at = const_cast<std::byte*>(base + done);
  done = madvise(at, bytes, advice) == 0 ? done + bytes : size;
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShmTransport>> ShmTransport::Create(
    const ShmTransportOptions& options) {
  auto transport = std::unique_ptr<ShmTransport>(new ShmTransport(options));
  ASSIGN_OR_RETURN(const ShmListener listener, ListenAbstract());
  transport->listen_fd_ = listener.fd;
  transport->address_ = listener.name;
  transport->event_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (transport->event_fd_ < 0 || !transport->Watch(listener.fd)) {
    return absl::UnavailableError(
        absl::StrCat("shm epoll: ", std::strerror(errno)));
  }
  return transport;
}

ShmTransport::~ShmTransport() {
  // A read left here could still be polled by nobody.
  SLUICE_CHECK(reads_.empty() && finished_.empty());
  for (auto& [id, link] : links_) {
    if (link.fd >= 0) close(link.fd);
    UnmapPool(link.mapping);
  }
  for (const Inbound& inbound : inbound_) close(inbound.fd);
  if (listen_fd_ >= 0) close(listen_fd_);
  if (event_fd_ >= 0) close(event_fd_);
}

bool ShmTransport::Watch(int fd) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = fd;
  return epoll_ctl(event_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
}

absl::Status ShmTransport::Register(const Region& region) {
  region_ = region;
  return absl::OkStatus();
}

absl::StatusOr<LinkId> ShmTransport::Connect(const LinkArgs& args) {
  Link link;
  link.args = args;
  if (args.dial) {
    ASSIGN_OR_RETURN(link.fd, ConnectAbstract(args.address));
    absl::Status status = CheckSameUser(link.fd);
    if (status.ok()) {
      status = SendPacket(link.fd, absl::StrCat(kHello, args.peer_token));
    }
    if (status.ok() && !Watch(link.fd)) {
      status = absl::ResourceExhaustedError("shm epoll");
    }
    if (!status.ok()) {
      close(link.fd);
      return status;
    }
    link.step = Step::kDialled;
    link.deadline_ms = clock_->NowMs() + kHandshakeMs;
  } else if (region_.fd < 0) {
    return absl::FailedPreconditionError("our kv pool cannot be shared");
  }
  const LinkId id = NewId();
  links_.emplace(id, std::move(link));
  return id;
}

absl::StatusOr<OperationId> ShmTransport::StartWrite(
    LinkId link, const DataHeader& header, std::vector<std::byte> payload) {
  return absl::UnimplementedError("shm links are read by the other side");
}

absl::StatusOr<OperationId> ShmTransport::StartRead(
    LinkId link, std::vector<ReadPiece> pieces, ReadSink* sink) {
  const auto found = links_.find(link);
  if (found == links_.end() || found->second.mapping.empty()) {
    return absl::UnavailableError("shm link has no mapping");
  }
  const uint64_t limit = found->second.mapping.size();
  for (const ReadPiece& piece : pieces) {
    if (piece.remote_offset > limit ||
        piece.size_bytes > limit - piece.remote_offset) {
      return absl::InvalidArgumentError(
          absl::StrCat("read [", piece.remote_offset, ", +", piece.size_bytes,
                       ") outside the peer's pool of ", limit, " bytes"));
    }
  }
  const OperationId id = NewId();
  reads_.push_back(Read{id, link, std::move(pieces), sink});
  return id;
}

std::optional<absl::Status> ShmTransport::Poll(OperationId operation) {
  const auto found = finished_.find(operation);
  if (found == finished_.end()) return std::nullopt;
  absl::Status status = std::move(found->second);
  finished_.erase(found);
  return status;
}

void ShmTransport::Finish(const Read& read, const absl::Status& status) {
  finished_.emplace(read.id, status);
}

bool ShmTransport::ProgressReads() {
  uint64_t budget = kTurnBytes;
  while (!reads_.empty()) {
    Read& read = reads_.front();
    const absl::Span<const std::byte> mapping = links_.at(read.link).mapping;
    turn_.clear();
    size_t end = read.next;
    for (; end < read.pieces.size() && budget > 0; ++end) {
      const ReadPiece& piece = read.pieces[end];
      turn_.push_back(mapping.subspan(piece.remote_offset, piece.size_bytes));
      budget -= std::min(budget, piece.size_bytes);
    }
    read.sink->OnPieces(std::exchange(read.next, end), turn_);
    if (end < read.pieces.size()) return true;
    Finish(read, absl::OkStatus());
    reads_.pop_front();
    if (budget == 0) return true;
  }
  return budget != kTurnBytes;
}

// The first transfer after a pairing should not pay for a page fault per
// block on either side; while nothing is being read they are taken ahead.
bool ShmTransport::PopulateSome() {
  if (!reads_.empty()) return false;
#if defined(MADV_POPULATE_READ) && defined(MADV_POPULATE_WRITE)
  bool reads = false;
  for (auto& [id, link] : links_) {
    if (link.mapping.empty() || link.populate_at_ms > clock_->NowMs()) {
      continue;
    }
    reads = true;
    if (PopulateNext(link.mapping.data(), link.mapping.size(),
                     MADV_POPULATE_READ, link.mapped_bytes)) {
      return true;
    }
  }
  return reads && region_.base != nullptr &&
         PopulateNext(region_.base, region_.size_bytes, MADV_POPULATE_WRITE,
                      region_mapped_bytes_);
#else
  return false;
#endif
}

bool ShmTransport::AcceptAll() {
  bool any = false;
  while (true) {
    const int fd =
        accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return any;
    any = true;
    if (inbound_.size() >= kMaxInbound || !CheckSameUser(fd).ok() ||
        !Watch(fd)) {
      close(fd);
      continue;
    }
    inbound_.push_back(Inbound{fd, clock_->NowMs() + kHandshakeMs, ""});
  }
}

// Hands an inbound connection to the link that expects its token. The link may
// be announced to us a moment after the peer has dialled.
bool ShmTransport::Match(Inbound& inbound) {
  LinkId match = 0;
  for (const auto& [id, link] : links_) {
    // Every candidate is compared, so that time tells nothing.
    if (link.step == Step::kExpected &&
        ConstantTimeEqual(link.args.own_token, inbound.token)) {
      match = id;
    }
  }
  if (match == 0) return false;
  Link& link = links_.at(match);
  link.fd = inbound.fd;
  link.step = Step::kAnswered;
  link.deadline_ms = clock_->NowMs() + kHandshakeMs;
  link.args.own_token.clear();  // one use
  if (!SendPacket(link.fd, link.args.peer_token).ok()) {
    link.deadline_ms = clock_->NowMs();  // ends as a failed handshake
  }
  return true;
}

bool ShmTransport::ProgressInbound() {
  bool any = false;
  for (size_t i = 0; i < inbound_.size();) {
    Inbound& inbound = inbound_[i];
    bool drop = clock_->NowMs() >= inbound.deadline_ms;
    if (!drop && inbound.token.empty()) {
      const auto packet = ReceivePacket(inbound.fd);
      if (!packet.ok()) {
        drop = true;
      } else if (packet->has_value()) {
        any = true;
        const std::string& bytes = (*packet)->bytes;
        if ((*packet)->passed_fd >= 0) close((*packet)->passed_fd);
        const size_t prefix = sizeof kHello - 1;
        drop = (*packet)->passed_fd >= 0 || bytes.size() <= prefix ||
               bytes.compare(0, prefix, kHello) != 0;
        if (!drop) inbound.token = bytes.substr(prefix);
      }
    }
    const bool matched = !drop && !inbound.token.empty() && Match(inbound);
    if (drop) close(inbound.fd);
    if (!drop && !matched) {
      ++i;
      continue;
    }
    any = true;
    inbound_[i] = std::move(inbound_.back());
    inbound_.pop_back();
  }
  return any;
}

// One packet of the handshake; sets the next step.
absl::Status ShmTransport::OnPacket(Link& link, Step& step,
                                    const std::string& bytes, int passed_fd) {
  if (link.step != Step::kWentOn && passed_fd >= 0) {
    close(passed_fd);
    return absl::InvalidArgumentError("shm descriptor out of turn");
  }
  switch (link.step) {
    case Step::kDialled:
      if (!ConstantTimeEqual(bytes, link.args.own_token)) {
        return absl::PermissionDeniedError("shm peer has another token");
      }
      link.args.own_token.clear();
      step = Step::kWentOn;
      return SendPacket(link.fd, kGo);
    case Step::kWentOn: {
      if (passed_fd < 0) {
        return absl::InvalidArgumentError("shm pool without a descriptor");
      }
      const absl::StatusOr<PoolAnnouncement> pool = DecodePool(bytes);
      if (!pool.ok()) {
        close(passed_fd);
        return pool.status();
      }
      ASSIGN_OR_RETURN(link.mapping,
                       MapPool(passed_fd, *pool, link.args.peer_region_bytes));
      step = Step::kUp;
      return SendPacket(link.fd, kUp);
    }
    case Step::kAnswered:
      if (bytes != kGo) return absl::InvalidArgumentError("shm: want GO");
      step = Step::kPassed;
      return SendPacket(link.fd,
                        Encode({.size_bytes = region_.size_bytes,
                                .probe_offset = region_.probe_offset,
                                .probe_value = region_.probe_value}),
                        region_.fd);
    case Step::kPassed:
      if (bytes != kUp) return absl::InvalidArgumentError("shm: want UP");
      step = Step::kUp;
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("shm packet out of turn");
  }
}

bool ShmTransport::ProgressLink(LinkId id, Link& link,
                                TransportEvents& events) {
  if (link.fd < 0 || link.step == Step::kDown) return false;
  absl::Status status;
  bool any = false;
  const auto packet = ReceivePacket(link.fd);
  if (!packet.ok()) {
    status = packet.status();
  } else if (packet->has_value()) {
    any = true;
    Step step = link.step;
    status = OnPacket(link, step, (*packet)->bytes, (*packet)->passed_fd);
    link.step = step;
    if (status.ok() && step == Step::kUp) {
      link.deadline_ms = 0;
      link.populate_at_ms = clock_->NowMs() + populate_after_ms_;
      events.OnLinkUp(id);
    }
  } else if (link.deadline_ms > 0 && clock_->NowMs() >= link.deadline_ms) {
    status = absl::UnavailableError("shm handshake took too long");
  }
  if (status.ok()) return any;
  // The mapping stays: what a dead peer announced can still be read.
  close(std::exchange(link.fd, -1));
  link.step = Step::kDown;
  events.OnLinkDown(
      id, absl::Status(status.code(), absl::StrCat("peer ", link.args.peer,
                                                   ": ", status.message())));
  return true;
}

bool ShmTransport::ProgressLinks(TransportEvents& events) {
  bool any = false;
  for (auto& [id, link] : links_) {
    any = ProgressLink(id, link, events) || any;
  }
  return any;
}

bool ShmTransport::Progress(TransportEvents& events, bool may_sleep) {
  bool any = AcceptAll();
  any = ProgressInbound() || any;
  any = ProgressLinks(events) || any;
  any = ProgressReads() || any;
  any = PopulateSome() || any;
  return any;
}

void ShmTransport::Close(LinkId id) {
  const auto found = links_.find(id);
  if (found == links_.end()) return;
  for (auto it = reads_.begin(); it != reads_.end();) {
    if (it->link != id) {
      ++it;
      continue;
    }
    Finish(*it, absl::UnavailableError("shm link closed"));
    it = reads_.erase(it);
  }
  if (found->second.fd >= 0) close(found->second.fd);
  UnmapPool(found->second.mapping);
  links_.erase(found);
}

}  // namespace sluice::kvtransfer
