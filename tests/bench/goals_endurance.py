"""Figures of a whole cluster over time: memory, steadiness, shared cores."""
import json
import os
import pathlib
import re
import subprocess
import time
import urllib.request

from goals_figures import Figures
from goals_machine import NotMeasured, Processes, Sluice

MIB = 1 << 20
USED = ("target weights", "step buffers", "step inputs", "kv:")


def pss_bytes(pid, name=""):
    """Of a process, or of its mappings of that name."""
    total, counts = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = name in line
        elif counts and line.startswith("Pss:"):
            total += 1024 * int(line.split()[1])
    return total


def kept_bytes(url):
    """{kind: bytes} of a worker's memory, by its metrics."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {kind: float(value) for kind, value in re.findall(
        r'^sluice_memory_bytes{kind="(\w+)"[^}]*} (\S+)$', text, re.M)}


def planned_bytes(log):
    """What a worker's plan says it will use; the rest of it is margin."""
    for line in pathlib.Path(log).read_text(errors="replace").splitlines():
        if '"model loaded"' in line:
            return sum(int(re.search(r"  +(\d+)  +\d+\.\d", entry).group(1))
                       for entry in json.loads(line)["budget"].splitlines()
                       if entry.startswith(USED))
    raise NotMeasured("the worker printed no plan")


class Endurance(Figures):
    def long_load(self, url, seconds, window):
        """The command that keeps all clients busy for so long."""
        clients = self.counts["clients"]
        return [str(part) for part in (
            self.options.bin / "tools/load_bench", f"--base-url={url}",
            f"--clients={clients}", f"--requests={1 << 20}",
            f"--seconds={seconds}", f"--window={window}", "--in-tokens=256",
            f"--out-tokens={self.counts['out']}", "--timeout=900")]

    def memory(self, model):
        """Of a mixed worker under load, and of its router."""
        seconds = 5 if self.options.quick else 60
        with Processes() as processes:
            cluster = Sluice(self.options, processes, model, False)
            cluster.wait(processes)
            (_, worker, log), (_, router, _) = processes.started
            idle = pss_bytes(router.pid)
            self.load(cluster.url, 1, 1, in_tokens=16, out_tokens=8)
            one = pss_bytes(router.pid)
            load = subprocess.Popen(self.long_load(cluster.url, seconds, 60),
                                    stdout=subprocess.DEVNULL)
            time.sleep(0.9 * seconds)
            streams = pss_bytes(router.pid) - one
            load.wait()
            kept = kept_bytes(cluster.metrics)
            pool = pss_bytes(worker.pid, "memfd:sluice-kv")
            must = kept["weights"] + pool  # as far as blocks were used
            used = pss_bytes(worker.pid)
            return {
                "plan_error": abs(planned_bytes(log) / sum(kept.values()) - 1),
                "rest_share": (used - must) / max(0.1 * must, 64 * MIB),
                "router_mib": idle / MIB,
                "stream_kib": streams / 1024 / self.counts["clients"]}

    def steady(self, model):
        """Ten minutes of all clients: the last against the first."""
        seconds, window = (8, 2) if self.options.quick else (600, 60)
        with Processes() as processes:
            cluster = Sluice(self.options, processes, model, False)
            cluster.wait(processes)
            worker = processes.started[0][1]
            self.load(cluster.url, self.counts["clients"],
                      self.counts["clients"])
            begin = pss_bytes(worker.pid)
            done = subprocess.run(
                self.long_load(cluster.url, seconds, window),
                capture_output=True, text=True)
            report = json.loads(done.stdout)
            if report["errors"]:
                raise NotMeasured(f"{report['errors']} requests failed: "
                                  f"{report['first_error']}")
            rates = report["window_tok_s"]
            return {"last_to_first": abs(rates[-1] / rates[0] - 1),
                    "grown_mib": (pss_bytes(worker.pid) - begin) / MIB}

    def shared_cores(self, model):
        """Two workers' decode on the same two cores, to that of one after
        the other."""
        cores = sorted(os.sched_getaffinity(0))[:2]
        command = [str(part) for part in (
            self.options.bin / "tools/model_bench", f"--model={model}",
            "--prefill=0", f"--decode={2 * self.counts['decode']}",
            f"--threads={len(cores)}", "--rounds=1")]

        def start():
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores))

        def rate(process):
            return json.loads(
                process.communicate()[0])["decode_tok_s"]["median"]

        alone = rate(start())
        pair = [start(), start()]
        return {"ratio": sum(rate(process) for process in pair) / alone}
