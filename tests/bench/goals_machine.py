"""What goals.py measures with: commands, servers, limits, rounds."""
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

DRIFT = 1.10  # of the bandwidth inside a round that counts
COMMAND_SECONDS = 1200
READY_SECONDS = 300
QUICK = {"decode": 4, "prefill": 64, "batch": 4, "context": 256, "clients": 4,
         "requests": 4, "out": 8, "repeat": 1}
FULL = {"decode": 64, "prefill": 512, "batch": 32, "context": 8192,
        "clients": 32, "requests": 64, "out": 64, "repeat": 3}


class NotMeasured(Exception):
    """Why a figure could not be had."""


def note(text):
    print(f"goals: {text}", file=sys.stderr, flush=True)


def json_of(command, environment=None):
    """The JSON a command prints: all of stdout, or its last line that is."""
    command = [str(part) for part in command]
    name = pathlib.Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=COMMAND_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{name} took over {COMMAND_SECONDS} s")
    except OSError as error:
        raise NotMeasured(f"{name}: {error.strerror}")
    for text in [done.stdout, *reversed(done.stdout.splitlines())]:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, (dict, list)):
            return value
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise NotMeasured(f"{name} ended with {done.returncode}: {last[:200]}")


def free_ports(count):
    """Loopback ports nothing listens on; held together, so all differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


class Processes:
    """Servers started here; leaving the block ends them and nothing else."""

    def __init__(self):
        self.started = []
        self.logs = tempfile.TemporaryDirectory(prefix="goals-")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, process, _ in self.started:
            process.send_signal(signal.SIGTERM)
        for _, process, _ in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.logs.cleanup()

    def start(self, name, command):
        log = os.path.join(self.logs.name, f"{len(self.started)}-{name}.log")
        with open(log, "w") as out:
            process = subprocess.Popen([str(part) for part in command],
                                       stdout=out, stderr=out)
        self.started.append((name, process, log))

    def wait(self, urls):
        """Until every URL answers 200."""
        deadline = time.monotonic() + READY_SECONDS
        for url in urls:
            while not answers(url):
                self.check_alive()
                if time.monotonic() > deadline:
                    raise NotMeasured(f"{url} did not answer")
                time.sleep(0.05)
        self.check_alive()  # another's server may answer on a lost port

    def check_alive(self):
        for name, process, log in self.started:
            if process.poll() is not None:
                last = pathlib.Path(log).read_text(errors="replace").strip()
                last = (last.splitlines() or ["no output"])[-1][-300:]
                raise NotMeasured(
                    f"{name} ended with {process.returncode}: {last}")


class Sluice:
    """A cluster on one machine: `split` is 1 prefill + 1 decode worker, else
    one mixed worker; beside a router."""

    def __init__(self, options, processes, model, split, extra=()):
        roles = ["prefill", "decode"] if split else ["mixed"]
        ports = free_ports(4 + 3 * len(roles))
        http, router, ports = ports[0], ports[1:4], ports[4:]
        workers = [ports[3 * i:3 * i + 3] for i in range(len(roles))]
        self.url = f"http://127.0.0.1:{http}"
        self.metrics = f"http://127.0.0.1:{workers[0][1]}/metrics"
        self.probes = [f"http://127.0.0.1:{w[2]}/readyz" for w in workers]
        for role, worker in zip(roles, workers):
            peers = [f"--kv.peers=127.0.0.1:{w[0]}" for w in workers
                     if w is not worker]
            processes.start(role, [
                options.bin / "worker/sluice-worker", *self.listen(worker),
                f"--instance={role}", f"--role={role}",
                f"--model.path={model}", "--model.name=goals",
                f"--cpu.threads={options.threads}",
                "--kv.memory_bytes=1073741824", *peers, *extra])
        processes.start("router", [
            options.bin / "router/sluice-router", *self.listen(router),
            "--instance=router", f"--server.http_address=127.0.0.1:{http}",
            *[f"--workers.static=127.0.0.1:{w[0]}" for w in workers]])
        self.probes.append(f"http://127.0.0.1:{router[2]}/readyz")

    @staticmethod
    def listen(ports):
        return [f"--server.{name}_address=127.0.0.1:{port}"
                for name, port in zip(("grpc", "metrics", "probe"), ports)]

    def wait(self, processes):
        processes.wait(self.probes)
        time.sleep(0.5)  # workers report to the router every 200 ms


def figures_of(run):
    try:
        return run()
    except (LookupError, TypeError, ZeroDivisionError) as error:
        raise NotMeasured(f"unexpected output: {error!r}")


class Machine:
    """This machine, its limits and how two systems are compared on it."""

    def __init__(self, options):
        self.options = options
        self.counts = QUICK if options.quick else FULL
        flags = pathlib.Path("/proc/cpuinfo").read_text()
        self.amx = " amx_tile" in flags
        self.limits = json_of([options.bin / "tests/bench/limits",
                               f"--threads={options.threads}"])
        note(f"{'AMX' if self.amx else 'no AMX'}, {json.dumps(self.limits)}")

    def peak(self, integer):
        """Operations a second the products could reach at most."""
        names = (("vpdpbusd_gops", "tdpbssd_gops") if integer else
                 ("fp32_fma_gflops", "vdpbf16ps_gflops", "tdpbf16ps_gflops"))
        return 1e9 * max(self.limits.get(name, 0) for name in names)

    def bandwidth(self):
        return json_of([self.options.bin / "tests/bench/limits", "--quick",
                        f"--threads={self.options.threads}"])["dram_read_gbs"]

    def rounds(self, sides):
        """Runs `sides` ({name: function giving {figure: value}}, ours first)
        A B A B ..., the bandwidth before, between and after. A peer that
        fails is left out. ([{name: figures}], median GB/s, rounds dropped,
        {peer: why it is missing})"""
        wanted = 1 if self.options.quick else self.options.rounds
        kept, bandwidths, dropped, missing = [], [], 0, {}
        while len(kept) < wanted and dropped <= 2 * wanted:
            seen, probes = {}, [self.bandwidth()]
            for name, run in sides.items():
                if name in missing:
                    continue
                try:
                    seen[name] = figures_of(run)
                except NotMeasured as why:
                    if name.startswith("sluice"):
                        raise
                    missing[name] = str(why)
                    continue
                probes.append(self.bandwidth())
            note(f"bandwidth {probes} {seen}")
            if not self.options.quick and max(probes) > DRIFT * min(probes):
                dropped += 1
                continue
            kept.append(seen)
            bandwidths += probes
        if 2 * len(kept) < wanted:
            raise NotMeasured(f"the bandwidth moved by more than 10 % in "
                              f"{dropped} rounds: the machine is too busy")
        return kept, statistics.median(bandwidths), dropped, missing
