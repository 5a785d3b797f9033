#include "base/grpc_status.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/test/server_context_test_spouse.h>

#include <string>

#include "base/rpc_error.pb.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

TEST(GrpcStatusTest, EveryCodeBothWays) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status rpc = ToGrpcStatus(status);
    EXPECT_EQ(rpc.error_code(), code);
    EXPECT_EQ(rpc.error_message(), "why");
    EXPECT_EQ(rpc.error_details(), "");
    EXPECT_EQ(FromGrpcStatus(rpc), status);
  }
  EXPECT_EQ(FromGrpcStatus(grpc::Status(static_cast<grpc::StatusCode>(99), ""))
                .code(),
            absl::StatusCode::kUnknown);
}

TEST(GrpcStatusTest, FactsTravel) {
  const absl::Status status = WithReason(
      WithRetry(absl::ResourceExhaustedError("full"), 1250), "QUEUE_FULL");
  EXPECT_EQ(RetryDelayMs(status), 1250);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  const grpc::Status rpc = ToGrpcStatus(status);
  google::rpc::Status proto;
  ASSERT_TRUE(proto.ParseFromString(rpc.error_details()));
  EXPECT_EQ(proto.code(), 8);
  EXPECT_EQ(proto.message(), "full");
  ASSERT_EQ(proto.details_size(), 2);
  google::rpc::RetryInfo retry;
  google::rpc::ErrorInfo info;
  for (const auto& any : proto.details()) {
    EXPECT_TRUE(any.UnpackTo(&retry) || any.UnpackTo(&info)) << any.type_url();
  }
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 250'000'000);
  EXPECT_EQ(info.reason(), "QUEUE_FULL");
  EXPECT_EQ(info.domain(), "sluice");
  const absl::Status back = FromGrpcStatus(rpc);
  EXPECT_EQ(back, status);
  EXPECT_EQ(RetryDelayMs(back), 1250);
  EXPECT_EQ(ReasonOf(back), "QUEUE_FULL");
}

TEST(GrpcStatusTest, WithoutFacts) {
  EXPECT_EQ(RetryDelayMs(absl::InternalError("x")), std::nullopt);
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), "");
  EXPECT_TRUE(WithRetry(absl::OkStatus(), 5).ok());
  EXPECT_EQ(RetryDelayMs(WithRetry(absl::InternalError(""), -5)), 0);
}

TEST(GrpcStatusTest, HostileDetails) {
  const grpc::Status garbage(grpc::StatusCode::INTERNAL, "m", "\xff\xff\xff");
  EXPECT_EQ(FromGrpcStatus(garbage), absl::InternalError("m"));
  google::rpc::Status proto;
  auto* any = proto.add_details();
  any->set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(INT64_MAX);
  retry.mutable_retry_delay()->set_nanos(-1);
  any->set_value(retry.SerializeAsString());
  EXPECT_EQ(RetryDelayMs(FromGrpcStatus(grpc::Status(
                grpc::StatusCode::UNAVAILABLE, "", proto.SerializeAsString()))),
            86'400'000);
  any->set_value("\xff");
  EXPECT_EQ(RetryDelayMs(FromGrpcStatus(grpc::Status(
                grpc::StatusCode::UNAVAILABLE, "", proto.SerializeAsString()))),
            std::nullopt);
}

std::string Pushback(const absl::Status& status) {
  grpc::ServerContext context;
  const grpc::Status rpc = FinishStatus(status, context);
  EXPECT_EQ(rpc.error_code(), static_cast<int>(status.code()));
  const auto trailers =
      grpc::testing::ServerContextTestSpouse(&context).GetTrailingMetadata();
  const auto it = trailers.find("grpc-retry-pushback-ms");
  return it == trailers.end() ? "none" : it->second;
}

TEST(GrpcStatusTest, FinishSetsPushback) {
  EXPECT_EQ(Pushback(absl::OkStatus()), "none");
  EXPECT_EQ(Pushback(WithRetry(absl::UnavailableError(""), 50)), "50");
  EXPECT_EQ(Pushback(absl::InvalidArgumentError("")), "-1");
}

}  // namespace
}  // namespace sluice
