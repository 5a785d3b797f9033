"""Writes docs/metrics.md from what live processes export.

Usage: python3 tools/metrics_doc.py ROLE=URL ... > docs/metrics.md
for instance router=http://127.0.0.1:8002/metrics
"""

import re
import sys
import urllib.request

HEAD = """# Metrics

What the processes export on `GET /metrics` (text format 0.0.4; OpenMetrics 1.0
on request). Every series with a closed label set exists from start-up with
value 0. Written by `tools/metrics_doc.py` from live processes.
"""


def families(url):
    """(name, type, help, labels) of each family, by name."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    helps, kinds, labels = {}, {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, rest = line[7:].partition(" ")
            helps[name] = rest
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            kinds[name] = kind
        elif line:
            name = re.match(r"[^{ ]+", line).group(0)
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            if kinds.get(family) != "histogram":
                family = name
            found = re.findall(r'[{,]([a-z_]+)="', line)
            labels.setdefault(family, set()).update(
                label for label in found if label != "le")
    return [(name, kinds[name], helps.get(name, ""),
             ", ".join(sorted(labels.get(name, ())))) for name in sorted(kinds)]


def main():
    print(HEAD)
    for argument in sys.argv[1:]:
        role, _, url = argument.partition("=")
        print(f"## {role.capitalize()}\n")
        print("| name | type | labels | meaning |\n|---|---|---|---|")
        for name, kind, text, labels in families(url):
            print(f"| `{name}` | {kind} | {labels} | {text} |")
        print()


if __name__ == "__main__":
    main()
