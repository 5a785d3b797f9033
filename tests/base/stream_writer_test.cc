#include "base/stream_writer.h"

#include <deque>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sluice {
namespace {

// What StreamWriter needs of a gRPC reactor; remembers what was started.
class FakeReactor {
 public:
  virtual ~FakeReactor() = default;
  virtual void OnWriteDone(bool ok) = 0;
  void StartWrite(const std::string* message) { log.push_back(*message); }

  std::vector<std::string> log;
};

class Stream final : public StreamWriter<FakeReactor, std::string> {
 public:
  void Push(const std::string& message) {
    queue.push_back(message);
    Advance();
  }

  std::deque<std::string> queue;
  bool closed = false;
  bool write_returns_inside_cancel = false;

 private:
  const std::string* NextMessage(std::optional<absl::Status>& end) override {
    if (queue.empty()) {
      if (closed) end = absl::OkStatus();
      return nullptr;
    }
    current_ = queue.front();
    queue.pop_front();
    return &current_;
  }
  void CancelCall() override {
    log.push_back("cancel(");
    if (write_returns_inside_cancel) OnWriteDone(false);
    log.push_back(")cancel");
  }
  void EndCall(const absl::Status& status) override {
    log.push_back("end " + std::string(status.message()));
  }

  std::string current_;
};

using Log = std::vector<std::string>;

TEST(StreamWriterTest, OneWriteAtATimeThenTheEnd) {
  Stream stream;
  stream.Push("a");
  stream.Push("b");
  stream.closed = true;
  EXPECT_EQ(stream.log, (Log{"a"}));
  stream.OnWriteDone(true);
  EXPECT_EQ(stream.log, (Log{"a", "b"}));
  stream.OnWriteDone(true);
  EXPECT_EQ(stream.log, (Log{"a", "b", "end "}));
}

TEST(StreamWriterTest, AnEndWaitsForTheWriteInFlightAndTheFirstCounts) {
  Stream stream;
  stream.Push("a");
  stream.Push("b");
  stream.End(absl::AbortedError("first"));
  stream.End(absl::AbortedError("second"));
  EXPECT_EQ(stream.log, (Log{"a"}));
  stream.OnWriteDone(true);
  EXPECT_EQ(stream.log, (Log{"a", "end first"}));
  stream.EndNow(absl::AbortedError("third"));
  stream.Push("c");
  EXPECT_EQ(stream.log, (Log{"a", "end first"})) << "it has ended";
}

TEST(StreamWriterTest, AnEndAtOnceCancelsAWriteInFlight) {
  Stream stream;
  stream.Push("a");
  stream.End(absl::AbortedError("soft"));
  stream.EndNow(absl::AbortedError("hard"));
  EXPECT_EQ(stream.log, (Log{"a", "cancel(", ")cancel"}));
  stream.OnWriteDone(false);
  EXPECT_EQ(stream.log, (Log{"a", "cancel(", ")cancel", "end soft"}));
}

TEST(StreamWriterTest, NothingInFlightNothingToCancel) {
  Stream stream;
  stream.EndNow(absl::AbortedError("x"));
  EXPECT_EQ(stream.log, (Log{"end x"}));
}

// The call must outlive the cancel, though the write returns in the middle.
TEST(StreamWriterTest, TheCallEndsAfterItsCancelHasReturned) {
  Stream stream;
  stream.write_returns_inside_cancel = true;
  stream.Push("a");
  stream.EndNow(absl::AbortedError("x"));
  EXPECT_EQ(stream.log, (Log{"a", "cancel(", ")cancel", "end x"}));
}

TEST(StreamWriterTest, AFailedWriteEndsTheStream) {
  Stream stream;
  stream.Push("a");
  stream.Push("b");
  stream.OnWriteDone(false);
  EXPECT_EQ(stream.log, (Log{"a", "end the reader is gone"}));
}

}  // namespace
}  // namespace sluice
