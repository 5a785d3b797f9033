// Any text as config.json and its companions: a status, or a configuration
// whose sizes are sane.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "worker/model/model_config.h"
#include "worker/model/model_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sluice::worker::ConfigFromJson(text);
  if (config.ok()) {
    SLUICE_CHECK(sluice::worker::CheckConfig(*config).ok());
    SLUICE_CHECK(config->architecture != nullptr);
    SLUICE_CHECK(config->heads % config->kv_heads == 0);
  }
  (void)sluice::worker::EosIdsFromJson(text);
  (void)sluice::worker::ChatTemplateFromJson(text);
  return 0;
}
