"""Fails when an #include points against the dependency picture.

Usage: python3 tools/check_layers.py      (from the project's root)
"""

import pathlib
import re
import sys

# Folder -> folders it may include, besides itself. The longest prefix of a
# file's folder decides.
ALLOWED = {
    "base": set(),
    "proto": {"base"},
    "kernels": {"base"},
    "kvtransfer": {"base", "proto"},
    "router/text": {"base"},
    "router/cluster": {"base", "proto", "router/text"},
    "router/route": {"base", "proto", "router/cluster", "router/text"},
    "router/flow": {"base", "proto", "router/route", "router/cluster",
                    "router/text"},
    "router/server": {"base", "proto", "router/flow", "router/route",
                      "router/cluster", "router/text"},
    "router": {"base", "proto", "router/server", "router/flow",
               "router/route", "router/cluster", "router/text"},
    "worker/cache": {"base", "kernels", "kvtransfer"},
    "worker/engine": {"base", "kernels", "worker/cache", "worker/sampling"},
    "worker/sampling": {"base", "proto", "kernels"},
    "worker/parallel": {"base", "kernels"},
    "worker/model": {"base", "kernels", "kvtransfer", "worker/parallel",
                     "worker/cache"},
    "worker/exec": {"base", "proto", "kernels", "kvtransfer", "worker/cache",
                    "worker/engine", "worker/model", "worker/parallel",
                    "worker/sampling"},
    "worker/handoff": {"base", "proto", "kernels", "kvtransfer",
                       "worker/cache", "worker/engine"},
    "worker/server": {"base", "proto", "kernels", "kvtransfer",
                      "worker/cache", "worker/engine", "worker/handoff",
                      "worker/model", "worker/sampling"},
    "worker": {"base", "proto", "kernels", "kvtransfer", "worker/cache",
               "worker/engine", "worker/exec", "worker/handoff",
               "worker/model", "worker/parallel", "worker/sampling",
               "worker/server"},
}
TOP = ("base", "proto", "kernels", "kvtransfer", "router", "worker")
INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.M)


def layer_of(folder):
    """The key of ALLOWED that governs `folder`."""
    while folder:
        if folder in ALLOWED:
            return folder
        folder = folder.rpartition("/")[0]
    return None


def main():
    bad = []
    files = 0
    for top in TOP:
        for path in sorted(pathlib.Path(top).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
                continue
            files += 1
            own = layer_of(path.parent.as_posix())
            for include in INCLUDE.findall(path.read_text()):
                theirs = layer_of(include.rpartition("/")[0])
                if theirs is None or theirs == own:
                    continue
                if theirs not in ALLOWED[own]:
                    bad.append(f"{path}: {own} must not include {include}")
    print("\n".join(bad))
    print(f"{files} files, {len(bad)} includes against the layers")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
