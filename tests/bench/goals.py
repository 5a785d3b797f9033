"""The goals for speed, row by row, on this machine; see goals.sh."""
import argparse
import os
import pathlib
import signal
import sys

from goals_machine import Machine, NotMeasured, note
from goals_report import Goal, Line
from goals_rows import LLAMA, VLLM, Goals

PLAIN_ROWS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "14", "15", "17",
              "memory", "steady", "shared"]
AMX_ROWS = ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "14", "15",
            "memory", "steady", "shared"]


def rows(goals):
    """Every row of the tables: what measures it."""
    def cluster(row, kind, *wanted):
        return lambda: goals.cluster_row(row, kind, wanted)

    many, one = goals.counts["clients"], 1
    below = lambda ratio: Goal(ratio=ratio, less=True)  # noqa: E731
    return {
        "1": lambda: goals.decode_row("1", {
            "q4_0": Goal(share=0.85, ratio=1.45, from_gbs=65),
            "q8_0": Goal(share=0.85, ratio=1.5, from_gbs=65),
            "bf16": Goal(share=0.85, ratio=1.05, from_gbs=65)},
            LLAMA, one_thread=Goal(ratio=1.4), ik=Goal(ratio=1.05)),
        "2": lambda: goals.prefill_row("2", {
            "q8_0": Goal(ratio=4), "q4_0": Goal(ratio=2.1),
            "q6_k": Goal(ratio=6), "bf16": Goal(ratio=1.6)}),
        "3": lambda: goals.batch_row("3", {"q4_0": Goal(ratio=2.8),
                                           "q8_0": Goal(ratio=4)}),
        "4": cluster("4", "q4_0", ("out_tok_s", LLAMA, Goal(ratio=2.5), many),
                     ("p99_ms", LLAMA, below(0.4), many),
                     ("out_tok_s", LLAMA, Goal(ratio=1.5), one)),
        "5": lambda: goals.context_row(
            "5", [Goal(ratio=2.4, from_gbs=66), Goal(share=0.5)]),
        "6": lambda: goals.small_row("6", Goal(ratio=2.5),
                                     Goal(value=0.15, less=True)),
        "7": lambda: goals.product_row("7", {"BF16": Goal(ratio=0.95),
                                             "Q8_0": Goal(ratio=0.95)}),
        "8": lambda: goals.product_row("8", {"Q8_0": Goal(share=0.72)}),
        "9": lambda: goals.determinism_row("9"),
        "14": lambda: goals.tokenizer_row("14", Goal(ratio=4)),
        "15": lambda: goals.sample_row(
            "15", Goal(value=60 if goals.machine.amx else 40, less=True)),
        "17": lambda: goals.cold_row("17", [
            (False, Goal(value=1, less=True)),
            (True, Goal(value=0.5, less=True))]),
        "memory": lambda: goals.memory_row("memory"),
        "steady": lambda: goals.steady_row("steady"),
        "shared": lambda: goals.shared_row("shared"),
        "A1": lambda: goals.decode_row("A1", {
            "q4_0": Goal(share=0.84, ratio=1.1),
            "q8_0": Goal(share=0.88, ratio=1.15),
            "bf16": Goal(share=0.88, ratio=1.45)}),
        "A2": lambda: goals.prefill_row("A2", {"bf16": Goal(ratio=1.6)}, VLLM),
        "A3": lambda: goals.prefill_row("A3", {
            "q8_0": Goal(ratio=2.9), "q4_0": Goal(ratio=3),
            "q4_k": Goal(value=740), "q6_k": Goal(value=1000)}),
        "A4": lambda: goals.batch_row("A4", {
            "q4_0": Goal(ratio=3.5), "q8_0": Goal(ratio=2.8),
            "bf16": Goal(ratio=1.4)}),
        "A5": lambda: [run() for run in (
            cluster("A5", "q4_0", ("out_tok_s", VLLM, Goal(ratio=1.4), many),
                    ("out_tok_s", LLAMA, Goal(ratio=3.5), many),
                    ("p99_ms", VLLM, below(0.6), many),
                    ("max_gap_ms", VLLM, Goal(value=500, less=True), many),
                    ("out_tok_s", LLAMA, Goal(ratio=1.4), one)),
            cluster("A5", "bf16", ("out_tok_s", VLLM, Goal(ratio=2), many)))],
        "A6": lambda: goals.context_row("A6", [Goal(ratio=5.5)]),
        "A7": lambda: goals.small_row("A7", Goal(ratio=1.3)),
        "A8": lambda: goals.cold_row("A8", [
            (True, Goal(value=0.5, less=True))]),
    }


def parse_args():
    cli = argparse.ArgumentParser(prog="goals.sh")
    path = lambda text: pathlib.Path(text).resolve()  # noqa: E731
    cli.add_argument("--llama", type=path)
    cli.add_argument("--ik-llama", type=path)
    cli.add_argument("--vllm")
    cli.add_argument("--onednn", type=path)
    cli.add_argument("--tokenizers")
    cli.add_argument("--rows")
    cli.add_argument("--models", type=path, default=path("build/models"))
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--threads", type=int,
                     default=len(os.sched_getaffinity(0)))
    cli.add_argument("--bin", type=pathlib.Path,
                     default=pathlib.Path("bazel-bin"))
    cli.add_argument("--small-model", type=path, help=argparse.SUPPRESS)
    cli.add_argument("--quick", action="store_true")
    cli.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = cli.parse_args()
    unknown = sorted(set((options.rows or "1").split(",")) -
                     set(PLAIN_ROWS) - set(AMX_ROWS))
    if unknown:
        cli.error(f"no such row: {', '.join(unknown)}; there are "
                  f"{', '.join(PLAIN_ROWS + AMX_ROWS[:8])}")
    for directory in (options.llama, options.ik_llama):
        if directory and not (directory / "llama-bench").exists():
            cli.error(f"no llama-bench in {directory}")
    if options.rounds < 1 or options.threads < 1:
        cli.error("--rounds and --threads want at least 1")
    return options


def main():
    options = parse_args()
    if options.check:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        machine = Machine(options)
    except NotMeasured as why:
        note(why)
        sys.exit(70)
    goals = Goals(options, machine)
    usual = AMX_ROWS if machine.amx else PLAIN_ROWS
    table = rows(goals)
    for row in options.rows.split(",") if options.rows else usual:
        if row not in usual:
            goals.report.absent(row, Line(f"row {row}", "", "", Goal()),
                                "a goal of the other kind of machine")
            continue
        note(f"row {row}")
        table[row]()
    report = goals.report
    print(f"{report.met} met, {report.missed} missed, "
          f"{report.not_measured} not measured")


if __name__ == "__main__":
    main()
