#include "worker/model/safetensors.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

using kernels::WeightFormat;
using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr char kIndexName[] = "model.safetensors.index.json";

struct DtypeTrait {
  const char* name;
  int64_t bytes;
  std::optional<WeightFormat> format;
};

constexpr DtypeTrait kDtypes[] = {
    {"F64", 8, std::nullopt},       {"F32", 4, WeightFormat::kF32},
    {"F16", 2, WeightFormat::kF16}, {"BF16", 2, WeightFormat::kBF16},
    {"I64", 8, std::nullopt},       {"I32", 4, std::nullopt},
    {"I16", 2, std::nullopt},       {"I8", 1, std::nullopt},
    {"U8", 1, std::nullopt},        {"BOOL", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},   {"F8_E5M2", 1, std::nullopt},
    {"U16", 2, std::nullopt},       {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt},
};

const DtypeTrait* FindDtype(absl::string_view name) {
  for (const DtypeTrait& dtype : kDtypes) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

// Parses the header and finds keys that come twice, which a DOM would hide.
absl::StatusOr<Json> ParseHeader(absl::string_view text) {
  std::set<std::string> names;
  std::string twice;
  const auto on_event = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !names.insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return true;
  };
  Json header = Json::parse(text.begin(), text.end(), on_event, false);
  if (!twice.empty()) {
    return absl::DataLossError(
        absl::StrCat("tensor ", twice, ": two tensors of this name"));
  }
  if (header.is_discarded()) {
    return absl::DataLossError("the header is not valid JSON");
  }
  if (!header.is_object()) {
    return absl::DataLossError("the header is not a JSON object");
  }
  return header;
}

absl::Status ReadShape(const Json& shape, StoredTensor* tensor,
                       uint64_t* elements) {
  constexpr uint64_t kMax = uint64_t{1} << 48;
  *elements = 1;
  bool has_zero = false;
  for (const Json& size : shape) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > kMax) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", tensor->name, ": a dimension is ", size.dump()));
    }
    const uint64_t value = size.get<uint64_t>();
    tensor->shape.push_back(static_cast<int64_t>(value));
    if (value == 0) {
      has_zero = true;
    } else if (*elements > kMax / value) {
      return absl::DataLossError(absl::StrCat("tensor ", tensor->name,
                                              ": shape ", shape.dump(),
                                              " is out of range"));
    } else {
      *elements *= value;
    }
  }
  if (has_zero) *elements = 0;
  return absl::OkStatus();
}

// One header entry; `data` is what follows the header.
absl::StatusOr<StoredTensor> ReadEntry(const std::string& name,
                                       const Json& entry,
                                       absl::string_view data) {
  StoredTensor tensor;
  tensor.name = name;
  const auto malformed = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("tensor ", name, ": ", what));
  };
  if (!entry.is_object()) return malformed("its entry is not an object");
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) {
    return malformed("dtype is missing");
  }
  if (shape == entry.end() || !shape->is_array() || shape->size() > 8) {
    return malformed("shape is missing or no list of at most 8");
  }
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return malformed("data_offsets is missing or no pair of offsets");
  }
  const DtypeTrait* trait = FindDtype(dtype->get<std::string>());
  if (trait == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", name, ": safetensors type ",
                     dtype->get<std::string>(), " is not supported"));
  }
  uint64_t elements = 0;
  RETURN_IF_ERROR(ReadShape(*shape, &tensor, &elements));
  const uint64_t begin = (*offsets)[0].get<uint64_t>();
  const uint64_t end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return malformed(absl::StrCat("wanted bytes [", begin, ", ", end,
                                  "), found ", data.size(),
                                  " bytes of tensor data"));
  }
  tensor.num_bytes = elements * trait->bytes;
  if (tensor.num_bytes != end - begin) {
    return malformed(absl::StrCat("shape ", shape->dump(), " of ", trait->name,
                                  " wanted ", tensor.num_bytes,
                                  " bytes, found ", end - begin));
  }
  tensor.type_name = trait->name;
  tensor.format = trait->format;
  tensor.bytes = reinterpret_cast<const uint8_t*>(data.data()) + begin;
  return tensor;
}

absl::Status CheckNoOverlap(std::vector<StoredTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              return std::pair(a.bytes, a.num_bytes) <
                     std::pair(b.bytes, b.num_bytes);
            });
  for (size_t i = 1; i < tensors.size(); ++i) {
    const StoredTensor& before = tensors[i - 1];
    if (tensors[i].num_bytes > 0 &&
        before.bytes + before.num_bytes > tensors[i].bytes) {
      return absl::DataLossError(absl::StrCat("tensor ", tensors[i].name,
                                              ": its bytes overlap those of ",
                                              before.name));
    }
  }
  return absl::OkStatus();
}

absl::Status AddFile(absl::string_view bytes,
                     const std::shared_ptr<const MappedFile>& file,
                     WeightFile* weights) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::DataLossError("the file ends inside the header's length");
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes ||
      header_bytes > bytes.size() - sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat(
        "wanted a header of ", header_bytes, " bytes, found ",
        bytes.size() - sizeof(header_bytes), " (limit ", kMaxHeaderBytes, ")"));
  }
  ASSIGN_OR_RETURN(Json header, ParseHeader(bytes.substr(8, header_bytes)));
  const absl::string_view data = bytes.substr(8 + header_bytes);
  std::vector<StoredTensor> tensors;
  for (auto it = header.begin(); it != header.end(); ++it) {
    if (it.key() == "__metadata__") continue;
    ASSIGN_OR_RETURN(StoredTensor tensor, ReadEntry(it.key(), *it, data));
    tensor.file = file;
    tensors.push_back(std::move(tensor));
  }
  RETURN_IF_ERROR(CheckNoOverlap(tensors));
  for (StoredTensor& tensor : tensors) {
    RETURN_IF_ERROR(weights->Add(std::move(tensor)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FilesOfIndex(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, kMaxIndexBytes));
  const Json index = Json::parse(text, nullptr, false);
  if (!index.is_object() || !index.contains("weight_map") ||
      !index["weight_map"].is_object()) {
    return absl::DataLossError(
        absl::StrCat(path, ": wanted an object with weight_map"));
  }
  std::set<std::string> names;
  for (auto it = index["weight_map"].begin(); it != index["weight_map"].end();
       ++it) {
    if (!it->is_string()) {
      return absl::DataLossError(
          absl::StrCat(path, ": weight_map of ", it.key(), " is no string"));
    }
    const std::string name = it->get<std::string>();
    if (name.empty() || absl::StrContains(name, "/") || name[0] == '.') {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": ", it.key(), " is in \"", name, "\", not a file here"));
    }
    names.insert(name);
  }
  if (names.empty()) {
    return absl::DataLossError(absl::StrCat(path, ": weight_map is empty"));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace

absl::Status AddSafetensors(absl::string_view bytes, absl::string_view path,
                            const std::shared_ptr<const MappedFile>& file,
                            WeightFile* weights) {
  weights->set_container("safetensors");
  const absl::Status status = AddFile(bytes, file, weights);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<std::vector<std::string>> SafetensorsFilesOf(
    const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) {
    return absl::NotFoundError(absl::StrCat("cannot open folder ", folder, ": ",
                                            std::strerror(errno)));
  }
  std::vector<std::string> names;
  bool has_index = false;
  while (const dirent* entry = readdir(dir)) {
    const absl::string_view name = entry->d_name;
    has_index = has_index || name == kIndexName;
    if (absl::EndsWith(name, ".safetensors")) names.emplace_back(name);
  }
  closedir(dir);
  if (has_index) return FilesOfIndex(absl::StrCat(folder, "/", kIndexName));
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no .safetensors file in ", folder));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<WeightFile> ReadSafetensorsFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(std::vector<std::string> names, SafetensorsFilesOf(folder));
  WeightFile weights;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file,
                     MappedFile::Open(path));
    RETURN_IF_ERROR(AddSafetensors(file->bytes(), path, file, &weights));
  }
  return weights;
}

}  // namespace sluice::worker
