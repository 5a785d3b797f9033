#include "worker/model/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

using kernels::WeightFormat;

// Value types of the container.
enum ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

constexpr int kMaxDimensions = 4;
constexpr uint64_t kMaxNameBytes = 64 << 10;

// Smallest number of bytes a value of `type` takes; 0 for an unknown type.
uint64_t ValueBytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
    case kString:
      return 8;
    default:
      return 0;
  }
}

// Reads little-endian values; a failed read leaves ok() false for good.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  template <typename T>
  T Read() {
    T value{};
    if (!ok_ || remaining() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::string_view ReadString() {
    const uint64_t length = Read<uint64_t>();
    if (!ok_ || length > remaining()) {
      ok_ = false;
      return {};
    }
    absl::string_view text = bytes_.substr(offset_, length);
    offset_ += length;
    return text;
  }

 private:
  absl::string_view bytes_;
  uint64_t offset_ = 0;
  bool ok_ = true;
};

uint64_t ReadUnsigned(Reader& reader, uint32_t type) {
  switch (type) {
    case kU8:
      return reader.Read<uint8_t>();
    case kU16:
      return reader.Read<uint16_t>();
    case kU32:
      return reader.Read<uint32_t>();
    default:
      return reader.Read<uint64_t>();
  }
}

int64_t ReadSigned(Reader& reader, uint32_t type) {
  switch (type) {
    case kI8:
      return reader.Read<int8_t>();
    case kI16:
      return reader.Read<int16_t>();
    case kI32:
      return reader.Read<int32_t>();
    default:
      return reader.Read<int64_t>();
  }
}

double ReadFloat(Reader& reader, uint32_t type) {
  return type == kF32 ? double{reader.Read<float>()} : reader.Read<double>();
}

bool IsUnsigned(uint32_t t) {
  return t == kU8 || t == kU16 || t == kU32 || t == kU64;
}
bool IsSigned(uint32_t t) {
  return t == kI8 || t == kI16 || t == kI32 || t == kI64;
}
bool IsFloat(uint32_t t) { return t == kF32 || t == kF64; }

// `count` elements, checked by the caller to fit the file.
GgufValue ReadElements(Reader& reader, uint32_t type, uint64_t count) {
  if (IsUnsigned(type)) {
    std::vector<uint64_t> out(count);
    for (uint64_t& v : out) v = ReadUnsigned(reader, type);
    return out;
  }
  if (IsSigned(type)) {
    std::vector<int64_t> out(count);
    for (int64_t& v : out) v = ReadSigned(reader, type);
    return out;
  }
  if (IsFloat(type)) {
    std::vector<double> out(count);
    for (double& v : out) v = ReadFloat(reader, type);
    return out;
  }
  if (type == kBool) {
    std::vector<bool> out(count);
    for (uint64_t i = 0; i < count; ++i) out[i] = reader.Read<uint8_t>() != 0;
    return out;
  }
  std::vector<std::string> out;
  out.reserve(count);
  for (uint64_t i = 0; i < count && reader.ok(); ++i) {
    out.emplace_back(reader.ReadString());
  }
  return out;
}

absl::StatusOr<GgufValue> ReadValue(Reader& reader, uint32_t type) {
  if (IsUnsigned(type)) return ReadUnsigned(reader, type);
  if (IsSigned(type)) return ReadSigned(reader, type);
  if (IsFloat(type)) return ReadFloat(reader, type);
  if (type == kBool) return reader.Read<uint8_t>() != 0;
  if (type == kString) return std::string(reader.ReadString());
  if (type != kArray) {
    return absl::DataLossError(absl::StrCat("unknown value type ", type));
  }
  const uint32_t element = reader.Read<uint32_t>();
  const uint64_t count = reader.Read<uint64_t>();
  if (!reader.ok()) return absl::DataLossError("ends inside an array");
  const uint64_t least = ValueBytes(element);
  if (least == 0) {
    return absl::DataLossError(
        absl::StrCat("array of unknown element type ", element));
  }
  if (count > reader.remaining() / least) {
    return absl::DataLossError(absl::StrCat("array of ", count, " elements, ",
                                            reader.remaining(),
                                            " bytes are left in the file"));
  }
  return ReadElements(reader, element, count);
}

struct TypeTrait {
  uint32_t id;
  const char* name;
  int64_t elements;  // of a block
  int64_t bytes;     // of a block
  std::optional<WeightFormat> format;
};

// Quantisation specification section 10.2; ids of ggml.
constexpr TypeTrait kTypes[] = {
    {0, "F32", 1, 4, WeightFormat::kF32},
    {1, "F16", 1, 2, WeightFormat::kF16},
    {2, "Q4_0", 32, 18, WeightFormat::kQ4_0},
    {3, "Q4_1", 32, 20, WeightFormat::kQ4_1},
    {6, "Q5_0", 32, 22, WeightFormat::kQ5_0},
    {7, "Q5_1", 32, 24, WeightFormat::kQ5_1},
    {8, "Q8_0", 32, 34, WeightFormat::kQ8_0},
    {9, "Q8_1", 32, 36, std::nullopt},
    {10, "Q2_K", 256, 84, std::nullopt},
    {11, "Q3_K", 256, 110, std::nullopt},
    {12, "Q4_K", 256, 144, WeightFormat::kQ4_K},
    {13, "Q5_K", 256, 176, WeightFormat::kQ5_K},
    {14, "Q6_K", 256, 210, WeightFormat::kQ6_K},
    {15, "Q8_K", 256, 292, std::nullopt},
    {16, "IQ2_XXS", 256, 66, std::nullopt},
    {17, "IQ2_XS", 256, 74, std::nullopt},
    {18, "IQ3_XXS", 256, 98, std::nullopt},
    {20, "IQ4_NL", 32, 18, std::nullopt},
    {21, "IQ3_S", 256, 110, std::nullopt},
    {22, "IQ2_S", 256, 82, std::nullopt},
    {23, "IQ4_XS", 256, 136, std::nullopt},
    {24, "I8", 1, 1, std::nullopt},
    {25, "I16", 1, 2, std::nullopt},
    {26, "I32", 1, 4, std::nullopt},
    {27, "I64", 1, 8, std::nullopt},
    {28, "F64", 1, 8, std::nullopt},
    {30, "BF16", 1, 2, WeightFormat::kBF16},
    {34, "TQ1_0", 256, 54, std::nullopt},
    {35, "TQ2_0", 256, 66, std::nullopt},
    {39, "MXFP4", 32, 17, std::nullopt},
};

const TypeTrait* FindType(uint32_t id) {
  for (const TypeTrait& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

struct TableEntry {
  StoredTensor tensor;
  uint64_t offset = 0;  // from the start of the tensor data
};

absl::Status ReadDimensions(Reader& reader, StoredTensor* tensor,
                            uint64_t* elements) {
  const uint32_t num_dimensions = reader.Read<uint32_t>();
  if (!reader.ok() || num_dimensions > kMaxDimensions) {
    return absl::DataLossError(
        absl::StrCat("tensor ", tensor->name, ": wanted at most ",
                     kMaxDimensions, " dimensions, found ", num_dimensions));
  }
  *elements = 1;
  constexpr uint64_t kMax = uint64_t{1} << 48;
  for (uint32_t d = 0; d < num_dimensions; ++d) {
    const uint64_t size = reader.Read<uint64_t>();
    if (size == 0 || size > kMax || *elements > kMax / size) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", tensor->name, ": dimension ", d, " of ", size,
          reader.ok() ? " is out of range" : ": the file ends here"));
    }
    *elements *= size;
    tensor->shape.push_back(static_cast<int64_t>(size));
  }
  std::reverse(tensor->shape.begin(), tensor->shape.end());
  return absl::OkStatus();
}

absl::StatusOr<TableEntry> ReadTableEntry(Reader& reader) {
  TableEntry entry;
  StoredTensor& tensor = entry.tensor;
  const absl::string_view name = reader.ReadString();
  if (!reader.ok() || name.empty() || name.size() > kMaxNameBytes) {
    return absl::DataLossError("a tensor name is missing or too long");
  }
  tensor.name = std::string(name);
  uint64_t elements = 0;
  RETURN_IF_ERROR(ReadDimensions(reader, &tensor, &elements));
  const uint32_t type_id = reader.Read<uint32_t>();
  entry.offset = reader.Read<uint64_t>();
  if (!reader.ok()) {
    return absl::DataLossError(absl::StrCat(
        "tensor ", tensor.name, ": the file ends inside the tensor table"));
  }
  const TypeTrait* type = FindType(type_id);
  if (type == nullptr) {
    return absl::UnimplementedError(absl::StrCat(
        "tensor ", tensor.name, ": GGUF type ", type_id, " is not supported"));
  }
  tensor.type_name = type->name;
  tensor.format = type->format;
  const int64_t k = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (k % type->elements != 0) {
    return absl::DataLossError(absl::StrCat(
        "tensor ", tensor.name, ": rows of ", k, " values are no multiple of ",
        type->elements, ", the block of ", type->name));
  }
  tensor.num_bytes = elements / type->elements * type->bytes;
  return entry;
}

absl::Status CheckNoOverlap(const std::vector<TableEntry>& table) {
  std::vector<const TableEntry*> order;
  order.reserve(table.size());
  for (const TableEntry& entry : table) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const TableEntry* a, const TableEntry* b) {
              return a->offset < b->offset;
            });
  for (size_t i = 1; i < order.size(); ++i) {
    const TableEntry& before = *order[i - 1];
    if (before.offset + before.tensor.num_bytes > order[i]->offset) {
      return absl::DataLossError(absl::StrCat("tensor ", order[i]->tensor.name,
                                              ": its bytes overlap those of ",
                                              before.tensor.name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> AlignmentOf(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(int64_t alignment,
                   metadata.CountOr("general.alignment", 32));
  const bool power = alignment > 0 && (alignment & (alignment - 1)) == 0;
  if (!power || alignment > (1 << 20)) {
    return absl::DataLossError(absl::StrCat(
        "general.alignment must be a power of two, got ", alignment));
  }
  return static_cast<uint64_t>(alignment);
}

absl::Status ReadMetadata(Reader& reader, uint64_t count,
                          GgufMetadata* metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string key(reader.ReadString());
    const uint32_t type = reader.Read<uint32_t>();
    if (!reader.ok() || key.size() > kMaxNameBytes) {
      return absl::DataLossError(
          absl::StrCat("the file ends inside metadata key ", i));
    }
    absl::StatusOr<GgufValue> value = ReadValue(reader, type);
    if (!value.ok()) {
      return absl::DataLossError(
          absl::StrCat("key ", key, ": ", value.status().message()));
    }
    if (!reader.ok()) {
      return absl::DataLossError(
          absl::StrCat("key ", key, ": the file ends inside its value"));
    }
    if (!metadata->values.emplace(key, *std::move(value)).second) {
      return absl::DataLossError(absl::StrCat("key ", key, " comes twice"));
    }
  }
  return absl::OkStatus();
}

// Places the table's tensors into `data` (what follows the header).
absl::Status PlaceTensors(std::vector<TableEntry> table, absl::string_view data,
                          uint64_t alignment, WeightFile* weights) {
  for (TableEntry& entry : table) {
    StoredTensor& tensor = entry.tensor;
    if (entry.offset % alignment != 0) {
      return absl::DataLossError(
          absl::StrCat("tensor ", tensor.name, ": offset ", entry.offset,
                       " is no multiple of ", alignment));
    }
    if (entry.offset > data.size() ||
        tensor.num_bytes > data.size() - entry.offset) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", tensor.name, ": wanted ", tensor.num_bytes,
          " bytes at offset ", entry.offset, ", found ",
          data.size() - std::min<uint64_t>(entry.offset, data.size())));
    }
  }
  RETURN_IF_ERROR(CheckNoOverlap(table));
  for (TableEntry& entry : table) {
    entry.tensor.bytes =
        reinterpret_cast<const uint8_t*>(data.data()) + entry.offset;
    RETURN_IF_ERROR(weights->Add(std::move(entry.tensor)));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile> ParseContainer(
    absl::string_view bytes, const std::shared_ptr<const MappedFile>& file) {
  GgufFile out;
  out.weights.set_container("GGUF");
  Reader reader(bytes);
  if (reader.Read<uint32_t>() != 0x46554747 || !reader.ok()) {
    return absl::DataLossError("does not start with GGUF");
  }
  out.version = reader.Read<uint32_t>();
  if (reader.ok() && out.version != 2 && out.version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("GGUF version ", out.version, ", wanted 2 or 3"));
  }
  const uint64_t num_tensors = reader.Read<uint64_t>();
  const uint64_t num_keys = reader.Read<uint64_t>();
  if (!reader.ok()) return absl::DataLossError("ends inside the header");
  // A key takes 13 bytes at least, a tensor 24.
  if (num_keys > reader.remaining() / 13 ||
      num_tensors > reader.remaining() / 24) {
    return absl::DataLossError(absl::StrCat(num_keys, " keys and ", num_tensors,
                                            " tensors cannot fit in ",
                                            bytes.size(), " bytes"));
  }
  RETURN_IF_ERROR(ReadMetadata(reader, num_keys, &out.metadata));
  ASSIGN_OR_RETURN(uint64_t alignment, AlignmentOf(out.metadata));
  std::vector<TableEntry> table;
  table.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) {
    ASSIGN_OR_RETURN(TableEntry entry, ReadTableEntry(reader));
    entry.tensor.file = file;
    table.push_back(std::move(entry));
  }
  const uint64_t start =
      (reader.offset() + alignment - 1) / alignment * alignment;
  const absl::string_view data =
      bytes.substr(std::min<uint64_t>(start, bytes.size()));
  RETURN_IF_ERROR(
      PlaceTensors(std::move(table), data, alignment, &out.weights));
  return out;
}

absl::Status WrongKind(absl::string_view key, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key ", key, " must be ", wanted));
}

}  // namespace

bool GgufMetadata::Has(absl::string_view key) const {
  return values.find(std::string(key)) != values.end();
}

absl::StatusOr<const GgufValue*> GgufMetadata::Get(
    absl::string_view key) const {
  auto it = values.find(std::string(key));
  if (it == values.end()) {
    return absl::NotFoundError(absl::StrCat("GGUF key ", key, " is missing"));
  }
  return &it->second;
}

absl::StatusOr<std::string> GgufMetadata::String(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  return WrongKind(key, "a string");
}

absl::StatusOr<int64_t> GgufMetadata::Count(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* v = std::get_if<uint64_t>(value)) {
    if (*v <= uint64_t{1} << 48) return static_cast<int64_t>(*v);
  }
  if (const auto* v = std::get_if<int64_t>(value)) {
    if (*v >= 0 && *v <= int64_t{1} << 48) return *v;
  }
  return WrongKind(key, "a count");
}

absl::StatusOr<int64_t> GgufMetadata::CountOr(absl::string_view key,
                                              int64_t fallback) const {
  if (!Has(key)) return fallback;
  return Count(key);
}

absl::StatusOr<double> GgufMetadata::Number(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* v = std::get_if<double>(value)) {
    if (std::isfinite(*v)) return *v;
  }
  if (const auto* v = std::get_if<uint64_t>(value)) {
    return static_cast<double>(*v);
  }
  if (const auto* v = std::get_if<int64_t>(value)) {
    return static_cast<double>(*v);
  }
  return WrongKind(key, "a finite number");
}

absl::StatusOr<double> GgufMetadata::NumberOr(absl::string_view key,
                                              double fallback) const {
  if (!Has(key)) return fallback;
  return Number(key);
}

absl::StatusOr<bool> GgufMetadata::Bool(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* v = std::get_if<bool>(value)) return *v;
  return WrongKind(key, "a bool");
}

absl::StatusOr<std::vector<std::string>> GgufMetadata::Strings(
    absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* v = std::get_if<std::vector<std::string>>(value)) return *v;
  return WrongKind(key, "an array of strings");
}

absl::StatusOr<std::vector<double>> GgufMetadata::Numbers(
    absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key));
  if (const auto* v = std::get_if<std::vector<double>>(value)) return *v;
  if (const auto* v = std::get_if<std::vector<uint64_t>>(value)) {
    return std::vector<double>(v->begin(), v->end());
  }
  if (const auto* v = std::get_if<std::vector<int64_t>>(value)) {
    return std::vector<double>(v->begin(), v->end());
  }
  return WrongKind(key, "an array of numbers");
}

bool LooksLikeGguf(const MappedFile& file) {
  return file.bytes().substr(0, 4) == "GGUF";
}

absl::StatusOr<GgufFile> ParseGguf(
    absl::string_view bytes, absl::string_view path,
    const std::shared_ptr<const MappedFile>& file) {
  absl::StatusOr<GgufFile> parsed = ParseContainer(bytes, file);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      absl::StrCat(path, ": ", parsed.status().message()));
}

absl::StatusOr<GgufFile> ReadGguf(
    const std::shared_ptr<const MappedFile>& file) {
  return ParseGguf(file->bytes(), file->path(), file);
}

}  // namespace sluice::worker
