#include "worker/server/attempt.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "worker/server/request_table.h"

namespace sluice::worker {
namespace {

class CountingReader final : public AttemptReader {
 public:
  void OnReadable() override { ++readable; }
  void OnReplaced() override { ++replaced; }
  void OnCut(const absl::Status&) override { ++cut; }
  int readable = 0;
  int replaced = 0;
  int cut = 0;
};

AttemptInfo Info(uint32_t attempt = 1,
                 RequestPhase phase = RequestPhase::kBoth) {
  return {.request_id = "r",
          .attempt = attempt,
          .key = attempt + 100,
          .phase = phase,
          .orphan_ms = 1000,
          .instance = "w",
          .generation = 7};
}

// Everything a reader would be sent, one word an event.
std::vector<std::string> ReadAll(Attempt& attempt, Attempt::Cursor& cursor) {
  std::vector<std::string> words;
  while (auto event = attempt.Next(cursor)) {
    switch (event->event_case()) {
      case v1::WorkerEvent::kState:
        words.push_back(v1::WorkerEvent::SequenceState_Name(event->state()));
        break;
      case v1::WorkerEvent::kAdmitted:
        words.push_back(event->admitted().has_ticket() ? "admitted+ticket"
                                                       : "admitted");
        break;
      case v1::WorkerEvent::kDelta:
        words.push_back("delta@" +
                        std::to_string(event->delta().first_position()) + "x" +
                        std::to_string(event->delta().token_ids_size()));
        break;
      case v1::WorkerEvent::kChoiceEnd:
        words.push_back("choice_end");
        break;
      case v1::WorkerEvent::kEnd:
        words.push_back("end");
        break;
      default:
        words.push_back("other");
    }
  }
  return words;
}

TEST(AttemptTest, ReaderGetsEveryEventInOrderAndTheFinalStatus) {
  FakeClock clock;
  Attempt attempt(Info(), clock);
  auto reader = std::make_shared<CountingReader>();
  attempt.Attach(reader, {});
  attempt.OnStarted(16);
  attempt.OnTokens({.choice = 0, .first_position = 0, .tokens = {5, 6}});
  attempt.OnChoiceEnded({.choice = 0, .positions = 2});
  Attempt::Cursor cursor;
  EXPECT_EQ(ReadAll(attempt, cursor),
            (std::vector<std::string>{"QUEUED", "admitted", "delta@0x2",
                                      "choice_end"}));
  EXPECT_FALSE(attempt.FinalStatus(cursor).has_value());
  attempt.OnFinished(absl::OkStatus(), {.prompt_tokens = 20});
  EXPECT_FALSE(attempt.FinalStatus(cursor).has_value()) << "end is unread";
  EXPECT_EQ(ReadAll(attempt, cursor), (std::vector<std::string>{"end"}));
  ASSERT_TRUE(attempt.FinalStatus(cursor).has_value());
  EXPECT_TRUE(attempt.FinalStatus(cursor)->ok());
  EXPECT_EQ(reader->readable, 5);
}

TEST(AttemptTest, NothingFollowsTheFinalStatus) {
  FakeClock clock;
  Attempt attempt(Info(), clock);
  attempt.OnFinished(absl::CancelledError("cancelled"), {});
  attempt.OnTokens({.tokens = {1}});
  attempt.OnFinished(absl::OkStatus(), {});
  Attempt::Cursor cursor;
  EXPECT_EQ(ReadAll(attempt, cursor), (std::vector<std::string>{"QUEUED"}));
  EXPECT_EQ(attempt.FinalStatus(cursor)->code(), absl::StatusCode::kCancelled);
}

TEST(AttemptTest, DecodeIsAdmittedWithItsTicketOnly) {
  FakeClock clock;
  Attempt attempt(Info(1, RequestPhase::kDecode), clock);
  attempt.OnStarted(64);
  Attempt::Cursor cursor;
  EXPECT_EQ(ReadAll(attempt, cursor), (std::vector<std::string>{"QUEUED"}));
  attempt.OnTicket(v1::Ticket());
  EXPECT_EQ(ReadAll(attempt, cursor),
            (std::vector<std::string>{"admitted+ticket"}));
}

TEST(AttemptTest, ReattachSkipsWhatTheReaderHas) {
  FakeClock clock;
  Attempt attempt(Info(), clock);
  attempt.OnTokens({.first_position = 0, .tokens = {1, 2}});
  attempt.OnTokens({.first_position = 2, .tokens = {3, 4, 5}});
  attempt.OnTokens({.first_position = 5, .tokens = {6}});
  auto first = std::make_shared<CountingReader>();
  auto second = std::make_shared<CountingReader>();
  attempt.Attach(first, {});
  attempt.Attach(second, {{0, 4}});
  EXPECT_EQ(first->replaced, 1);
  Attempt::Cursor cursor;
  EXPECT_EQ(ReadAll(attempt, cursor),
            (std::vector<std::string>{"QUEUED", "delta@4x1", "delta@5x1"}));
}

TEST(AttemptTest, ExpiresWithoutAReaderAndAtOnceWhenFullyRead) {
  FakeClock clock;
  Attempt attempt(Info(), clock);
  auto reader = std::make_shared<CountingReader>();
  attempt.Attach(reader, {});
  clock.AdvanceMs(5000);
  EXPECT_FALSE(attempt.Expired()) << "a reader is there";
  attempt.Detach(reader.get(), false);
  clock.AdvanceMs(999);
  EXPECT_FALSE(attempt.Expired());
  clock.AdvanceMs(1);
  EXPECT_TRUE(attempt.Expired());
  EXPECT_TRUE(attempt.MarkOrphaned());
  EXPECT_FALSE(attempt.MarkOrphaned());

  Attempt read(Info(), clock);
  read.Attach(reader, {});
  read.OnFinished(absl::OkStatus(), {});
  read.Detach(reader.get(), true);
  EXPECT_TRUE(read.Expired());
}

TEST(RequestTableTest, AttemptsReplaceRepeatAndGoStale) {
  FakeClock clock;
  std::vector<RequestKey> cancelled;
  RequestTable table(clock, [&cancelled](RequestKey key, absl::Status) {
    cancelled.push_back(key);
  });
  const auto first = table.Enter(Info(2));
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->is_new);
  const auto repeat = table.Enter(Info(2));
  ASSERT_TRUE(repeat.ok());
  EXPECT_FALSE(repeat->is_new);
  EXPECT_EQ(repeat->attempt, first->attempt);
  EXPECT_EQ(table.Enter(Info(1)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(cancelled.empty());
  const auto later = table.Enter(Info(3));
  ASSERT_TRUE(later.ok());
  EXPECT_TRUE(later->is_new);
  EXPECT_EQ(cancelled, (std::vector<RequestKey>{102}));
  EXPECT_FALSE(table.Find("r", 2).ok());
  EXPECT_TRUE(table.Find("r", 3).ok());
}

TEST(RequestTableTest, ACancelBeforeTheRequestIsRemembered) {
  FakeClock clock;
  RequestTable table(clock, [](RequestKey, absl::Status) {});
  EXPECT_FALSE(table.CancelRequest("r", 0, absl::CancelledError("x")));
  EXPECT_EQ(table.Enter(Info()).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(table.Enter(Info(2)).status().code(), absl::StatusCode::kCancelled);
  clock.AdvanceMs(5001);
  EXPECT_TRUE(table.Enter(Info()).ok());
}

TEST(RequestTableTest, ACancelThatWasAheadEndsItsAttemptAndNoLaterOne) {
  struct Case {
    const char* name;
    std::vector<uint32_t> cancels;
    uint32_t submit;
    bool runs;
  };
  const Case kCases[] = {
      {"its own", {1}, 1, false},
      {"a later one runs", {1}, 2, true},
      {"an older one is ended", {2}, 1, false},
      {"the highest holds", {2, 1}, 2, false},
      {"all after one", {1, 0}, 5, false},
      {"one after all", {0, 1}, 5, false},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    FakeClock clock;
    RequestTable table(clock, [](RequestKey, absl::Status) {});
    for (const uint32_t attempt : c.cancels) {
      EXPECT_FALSE(table.CancelRequest(
          "r", attempt, absl::DeadlineExceededError("deadline exceeded")));
    }
    const auto entered = table.Enter(Info(c.submit));
    EXPECT_EQ(entered.ok(), c.runs);
    if (!c.runs) {
      EXPECT_EQ(entered.status().code(), absl::StatusCode::kDeadlineExceeded);
    }
  }
}

TEST(RequestTableTest, ACancelOfTheNextAttemptIsRememberedWhileOneLives) {
  FakeClock clock;
  std::vector<RequestKey> cancelled;
  RequestTable table(clock, [&cancelled](RequestKey key, absl::Status) {
    cancelled.push_back(key);
  });
  ASSERT_TRUE(table.Enter(Info(1)).ok());
  EXPECT_FALSE(table.CancelRequest("r", 2, absl::CancelledError("x")));
  EXPECT_TRUE(cancelled.empty());
  EXPECT_FALSE(table.Enter(Info(2)).ok());
  EXPECT_TRUE(table.Enter(Info(3)).ok());
}

TEST(RequestTableTest, WhatIsCutOrCancelledAndFinishedExpiresAtOnce) {
  FakeClock clock;
  RequestTable table(clock, [](RequestKey, absl::Status) {});
  const auto attempt = table.Enter(Info())->attempt;
  auto reader = std::make_shared<CountingReader>();
  attempt->Attach(reader, {});
  table.CutFinished(absl::UnavailableError("x"));
  EXPECT_EQ(reader->cut, 0) << "it has not finished";
  EXPECT_TRUE(table.CancelRequest("r", 1, absl::CancelledError("x")));
  attempt->OnFinished(absl::CancelledError("x"), {});
  EXPECT_FALSE(attempt->Expired()) << "a reader is there";
  table.CutFinished(absl::UnavailableError("x"));
  EXPECT_EQ(reader->cut, 1);
  attempt->Detach(reader.get(), false);
  EXPECT_TRUE(attempt->Expired());
  EXPECT_EQ(table.orphans(), 0u);
}

TEST(RequestTableTest, CancelNamesOneAttempt) {
  FakeClock clock;
  std::vector<RequestKey> cancelled;
  RequestTable table(clock, [&cancelled](RequestKey key, absl::Status) {
    cancelled.push_back(key);
  });
  ASSERT_TRUE(table.Enter(Info(2)).ok());
  EXPECT_FALSE(table.CancelRequest("r", 1, absl::CancelledError("x")));
  EXPECT_TRUE(table.CancelRequest("r", 2, absl::CancelledError("x")));
  EXPECT_TRUE(table.CancelRequest("r", 0, absl::CancelledError("x")));
  EXPECT_EQ(cancelled.size(), 2u);
}

TEST(AttemptTest, AsksForAPauseWhileItsReaderIsFarBehind) {
  FakeClock clock;
  Attempt attempt(Info(), clock);
  std::vector<bool> asked;
  attempt.set_on_backlog([&asked](bool behind) { asked.push_back(behind); });
  auto reader = std::make_shared<CountingReader>();
  attempt.Attach(reader, {});
  const std::vector<TokenId> tokens(1000, 300);
  uint32_t position = 0;
  while (asked.empty()) {
    attempt.OnTokens({.first_position = position, .tokens = tokens});
    position += 1000;
    ASSERT_LE(attempt.journal_bytes(), Attempt::kMaxAheadBytes + 4096);
  }
  EXPECT_EQ(asked, std::vector<bool>{true});
  EXPECT_GT(attempt.journal_bytes(), Attempt::kMaxAheadBytes);
  Attempt::Cursor cursor;
  uint64_t read = 0;
  while (asked.size() == 1) {
    const auto event = attempt.Next(cursor);
    ASSERT_NE(event, nullptr);
    read += event->ByteSizeLong();
  }
  EXPECT_FALSE(asked.back());
  EXPECT_NEAR(static_cast<double>(attempt.journal_bytes() - read),
              Attempt::kMaxAheadBytes / 2, 4096);
  // One who comes back from the start of the journal is behind again.
  auto next = std::make_shared<CountingReader>();
  attempt.Attach(next, {});
  cursor = {};
  ReadAll(attempt, cursor);
  EXPECT_FALSE(asked.back());
}

}  // namespace
}  // namespace sluice::worker
