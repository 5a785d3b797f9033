"""Holds the output of kv_bench and ucx_perftest against the speed goals.

Usage: kv_goals.py FOLDER    (what kv_goals.sh left there)
"""

import json
import pathlib
import statistics
import sys


def rows_of(folder, name):
    path = pathlib.Path(folder) / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()
            if line.startswith("{")]


def median(rows, field="gb_per_s", **want):
    """Median of a field over the rows that match; None without any."""
    values = [r[field] for r in rows
              if all(r.get(k) == v for k, v in want.items())]
    return statistics.median(values) if values else None


def ratio(a, b):
    return a / b if a and b else None


class Ledger:
    def __init__(self):
        self.counts = {"met": 0, "missed": 0, "not measured": 0}

    def row(self, what, value, goal, at_most=False):
        if value is None:
            result = "not measured"
        elif (value <= goal) if at_most else (value >= goal):
            result = "met"
        else:
            result = "missed"
        self.counts[result] += 1
        print(json.dumps({
            "goal": what, "want": ("<= " if at_most else ">= ") + str(goal),
            "value": None if value is None else round(value, 4),
            "result": result}))


def main():
    folder = sys.argv[1]
    shm = rows_of(folder, "shm")
    ucx = rows_of(folder, "ucx")
    peers = rows_of(folder, "peers")
    rest = rows_of(folder, "rest")
    ledger = Ledger()

    def moved(size, digests, rows=shm, field="gb_per_s"):
        return median(rows, field, row="transfer", size=size, digests=digests)

    def floor(size, way="nt"):
        return median(shm, row="floor", way=way, size=size)

    for size in (4096, 16384, 65536, 1 << 20):
        ledger.row(f"shm, no digest, {size} B blocks, share of the NT copy",
                   ratio(moved(size, "off"), floor(size)),
                   0.9 if size == 4096 else 0.95)
    for size in (4096, 16384, 65536, 1 << 20):
        ledger.row(f"shm, digests kept and verified, {size} B blocks, share "
                   "of the NT copy",
                   ratio(moved(size, "append"), floor(size)), 0.8)
    for size, goal in ((4096, 0.7), (16384, 0.9)):
        ledger.row(f"shm, {size} B blocks against 1 MiB blocks",
                   ratio(moved(size, "append"), moved(1 << 20, "append")),
                   goal)
        # What the pages of this machine allow at all.
        ledger.row(f"shm, {size} B against 1 MiB blocks, over the same of "
                   "the NT copy",
                   ratio(ratio(moved(size, "append"),
                               moved(1 << 20, "append")),
                         ratio(floor(size), floor(1 << 20))), 1.0)
    for size in (4096, 65536):
        ledger.row(f"shm, no digest, {size} B blocks against cma",
                   ratio(moved(size, "off"), floor(size, "cma")), 1.7)
        ledger.row(f"shm, no digest, {size} B blocks against a UCX put into "
                   "UCX's memory",
                   ratio(moved(size, "off"), floor(size, "ucx_put")), 1.2)
    for size in (4096, 65536, 1 << 20):
        ledger.row(f"shm, digests, {size} B blocks, decode CPU a GB over the "
                   "NT copy's", moved(size, "append", field="cpu_vs_floor"),
                   1.3, at_most=True)
    for size in (65536, 1 << 20):
        for digests, goal in (("off", 0.65), ("append", 0.55)):
            ledger.row(f"stream over tcp, digests {digests}, {size} B, share "
                       "of ucp_am_bw",
                       ratio(moved(size, digests, ucx),
                             median(ucx, row="am_bw", size=size)), goal)
    for name, goals in (("nixl", (4, 2)), ("mooncake", (3, 3))):
        for size, goal in zip((4096, 65536), goals):
            ledger.row(f"shm, digests, {size} B blocks, against {name}",
                       ratio(moved(size, "append", peers),
                             median(peers, row=name, size=size)), goal)
    ledger.row("exposed part of a 2048-token transfer, ms",
               median(rest, "exposed_ms", row="exposed"), 3, at_most=True)
    idle = [r["wakeups_per_s"] for r in rest if r["row"] == "idle"]
    ledger.row("wake-ups a second of an idle transfer thread",
               max(idle) if idle else None, 5, at_most=True)
    first = moved(65536, "append", field="first_ms")
    later = moved(65536, "append")
    size = moved(65536, "append", field="bytes")
    ledger.row("first transfer after pairing against the later ones",
               first / (size / later / 1e6) if first else None, 1.2,
               at_most=True)
    print(f"{ledger.counts['met']} met, {ledger.counts['missed']} missed, "
          f"{ledger.counts['not measured']} not measured")


if __name__ == "__main__":
    main()
