#include "worker/model/source_digests.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

namespace fs = std::filesystem;

class SourceDigestsTest : public testing::Test {
 protected:
  SourceDigestsTest() {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }

  void Write(const std::string& content) {
    std::ofstream(model_, std::ios::binary) << content;
  }
  Sha256Digest DigestBy(const SourceDigests& digests) const {
    const auto file = MappedFile::Open(model_);
    EXPECT_TRUE(file.ok()) << file.status();
    return digests.Of(**file);
  }
  // The one note, or empty.
  std::string NotePath() const {
    if (!fs::exists(folder_)) return std::string();
    std::vector<std::string> notes;
    for (const auto& file : fs::directory_iterator(folder_)) {
      notes.push_back(file.path());
    }
    EXPECT_LE(notes.size(), 1u);
    return notes.empty() ? std::string() : notes[0];
  }

  const std::string root_ = absl::StrCat(testing::TempDir(), "/digests");
  const std::string folder_ = root_ + "/notes";
  const std::string model_ = root_ + "/model";
  const SourceDigests eager_{
      {.folder = folder_, .settle_ms = 0, .min_bytes = 4}};
};

std::string Read(const std::string& path) {
  return *ReadTextFile(path, 1 << 20);
}

// A note with another digest in it, well formed: whoever believes it did not
// read the file.
std::string Forged(const std::string& note, const Sha256Digest& digest) {
  const std::string text = note.substr(0, note.find('\n') + 1);
  const std::string hex = ToHex(digest);
  return absl::StrCat(text, hex, "\n", ToHex(Sha256Of(text + hex)), "\n");
}

TEST_F(SourceDigestsTest, ReadsAFileOnce) {
  Write("content");
  EXPECT_EQ(DigestBy(eager_), Sha256Of("content"));
  ASSERT_FALSE(NotePath().empty());
  const Sha256Digest forged = Sha256Of("forged");
  const std::string note = Forged(Read(NotePath()), forged);
  std::ofstream(NotePath()) << note;
  EXPECT_EQ(DigestBy(eager_), forged);
}

TEST_F(SourceDigestsTest, AChangedFileIsReadAgain) {
  Write("content");
  const auto written = fs::last_write_time(model_);
  DigestBy(eager_);
  Write("CONTENT");
  fs::last_write_time(model_, written);  // size and time as before
  EXPECT_EQ(DigestBy(eager_), Sha256Of("CONTENT"));
  // By a copy that takes its name.
  std::ofstream(root_ + "/copy") << "another";
  fs::rename(root_ + "/copy", model_);
  EXPECT_EQ(DigestBy(eager_), Sha256Of("another"));
}

TEST_F(SourceDigestsTest, ABrokenNoteIsOfNoUse) {
  Write("content");
  DigestBy(eager_);
  const std::string note = Read(NotePath());
  std::string flipped = note;
  flipped[note.find('\n') + 5] ^= 1;  // of the digest
  for (const std::string& broken :
       {flipped, note.substr(0, note.size() / 2), std::string(), note + "x"}) {
    std::ofstream(NotePath()) << broken;
    EXPECT_EQ(DigestBy(eager_), Sha256Of("content"));
    EXPECT_EQ(Read(NotePath()), note);
  }
}

TEST_F(SourceDigestsTest, WhatJustChangedOrIsSmallIsNotRemembered) {
  Write("content");
  const SourceDigests settled({.folder = folder_, .min_bytes = 4});
  EXPECT_EQ(DigestBy(settled), Sha256Of("content"));
  EXPECT_EQ(NotePath(), "");
  const SourceDigests large({.folder = folder_, .settle_ms = 0});
  EXPECT_EQ(DigestBy(large), Sha256Of("content"));
  EXPECT_EQ(NotePath(), "");
}

TEST_F(SourceDigestsTest, WithoutAFolderItOnlyReads) {
  Write("content");
  EXPECT_EQ(DigestBy(SourceDigests({.folder = "", .settle_ms = 0})),
            Sha256Of("content"));
  const SourceDigests nowhere(
      {.folder = "/proc/sluice", .settle_ms = 0, .min_bytes = 4});
  EXPECT_EQ(DigestBy(nowhere), Sha256Of("content"));
  Write("");
  EXPECT_EQ(DigestBy(eager_), Sha256Of(""));
}

}  // namespace
}  // namespace sluice::worker
