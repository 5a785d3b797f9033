#include "kvtransfer/ucx/put_greeting.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::kvtransfer {
namespace {

// Calls field(value) for every field in wire order.
template <typename Greeting, typename Field>
void ForEachField(Greeting& greeting, Field field) {
  field(greeting.token);
  field(greeting.pid);
  field(greeting.address);
  field(greeting.nonce);
  field(greeting.probe_address);
  field(greeting.probe_key);
  field(greeting.region_address);
  field(greeting.region_bytes);
  field(greeting.region_key);
}

class Writer {
 public:
  void operator()(uint64_t value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void operator()(const std::string& value) {
    (*this)(uint64_t{value.size()});
    bytes_ += value;
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(absl::string_view bytes) : rest_(bytes) {}

  void operator()(uint64_t& value) {
    ok_ = ok_ && rest_.size() >= sizeof value;
    if (!ok_) return;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
  }
  void operator()(std::string& value) {
    uint64_t size = 0;
    (*this)(size);
    ok_ = ok_ && size <= rest_.size();
    if (!ok_) return;
    value = std::string(rest_.substr(0, size));
    rest_.remove_prefix(size);
  }
  bool done() const { return ok_ && rest_.empty(); }

 private:
  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace

std::string EncodePutGreeting(const PutGreeting& greeting) {
  Writer write;
  write(static_cast<uint64_t>(greeting.step));
  ForEachField(greeting, [&write](const auto& value) { write(value); });
  return write.Take();
}

absl::StatusOr<PutGreeting> DecodePutGreeting(absl::string_view bytes) {
  PutGreeting greeting;
  Reader read(bytes);
  uint64_t step = 0;
  read(step);
  ForEachField(greeting, [&read](auto& value) { read(value); });
  if (!read.done() || step > static_cast<uint64_t>(PutStep::kKey) ||
      bytes.size() > kMaxGreetingBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed put greeting of ", bytes.size(), " bytes"));
  }
  greeting.step = static_cast<PutStep>(step);
  return greeting;
}

}  // namespace sluice::kvtransfer
