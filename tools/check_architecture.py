"""Fails when a document names a file or folder that is not in the tree.

Looks at every `code span` of the documents that reads like a path of ours.
Usage: python3 tools/check_architecture.py      (from the project's root)
"""

import pathlib
import re
import sys

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md",
             "kernels/README.md", "kvtransfer/README.md", "router/README.md",
             "worker/engine/README.md"]
TOP = ("base/", "deploy/", "docs/", "kernels/", "kvtransfer/", "proto/",
       "router/", "tests/", "third_party/", "tools/", "worker/", "./")
SPAN = re.compile(r"`([^`\s]+)`")
BRACES = re.compile(r"\{([^{}]*)\}")


def expand(path):
    """a.{h,cc} -> a.h, a.cc"""
    match = BRACES.search(path)
    if not match:
        return [path]
    return [p for part in match.group(1).split(",")
            for p in expand(path[:match.start()] + part + path[match.end():])]


def main():
    bad = []
    names = 0
    for document in DOCUMENTS:
        if not pathlib.Path(document).exists():
            bad.append(f"{document}: missing")
            continue
        lines = pathlib.Path(document).read_text()
        if document == "ARCHITECTURE.md" and lines.count("\n") > 250:
            bad.append(f"{document}: {lines.count(chr(10))} lines, limit 250")
        for span in SPAN.findall(lines):
            if not span.startswith(TOP) or "*" in span or "<" in span:
                continue
            for path in expand(span):
                names += 1
                if not pathlib.Path(path.rstrip("/")).exists():
                    bad.append(f"{document}: {path} does not exist")
    print("\n".join(bad))
    print(f"{names} names, {len(bad)} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
