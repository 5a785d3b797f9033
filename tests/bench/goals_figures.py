"""Figures of one system: ours, a peer's, and what the machine allows."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

from goals_machine import NotMeasured, Processes, Sluice, free_ports, json_of

HERE = pathlib.Path(__file__).parent
PRODUCT_SHAPE = (512, 2048, 8192)  # rows, k and n of matmul_bench
PRODUCTS = ("qkv", "output", "gate_up", "down", "head")


class Figures:
    """Each method measures once and gives {figure: value}, or raises
    NotMeasured."""

    def __init__(self, options, machine):
        self.options = options
        self.machine = machine
        self.counts = machine.counts
        self.known = {}  # model file -> what model_bench says of it
        self.seed = int(time.time()) % 1000000

    def model(self, kind):
        path = self.options.models / f"r1b-{kind}.gguf"
        if not path.exists():
            raise NotMeasured(f"no model {path.name} in --models")
        return path

    def model_bench(self, model, **counts):
        flags = {"prefill": 0, "decode": 0, "threads": self.options.threads,
                 "rounds": self.counts["repeat"], **counts}
        return json_of([self.options.bin / "tools/model_bench",
                        f"--model={model}",
                        *[f"--{name}={n}" for name, n in flags.items()]])

    def llama(self, directory, model, threads, *flags):
        """The median of what a llama-bench measures."""
        if directory is None:
            raise NotMeasured("not given")
        rows = json_of([directory / "llama-bench", "-m", model, "-t", threads,
                        *flags, "-r", self.counts["repeat"], "-o", "json"])
        samples = sorted(rows[0]["samples_ts"])
        return {"tok_s": samples[len(samples) // 2]}

    def load(self, url, clients, requests, **counts):
        """load_bench's figures, those of interest flat."""
        self.seed += 1
        sizes = {"in_tokens": 128, "out_tokens": self.counts["out"], **counts}
        seen = json_of([self.options.bin / "tools/load_bench",
                        f"--base-url={url}", f"--clients={clients}",
                        f"--requests={requests}", f"--seed={self.seed}",
                        "--warmup=1", "--timeout=900",
                        *[f"--{name.replace('_', '-')}={n}"
                          for name, n in sizes.items()]])
        if seen["errors"]:
            raise NotMeasured(f"{seen['errors']} of {seen['requests']} "
                              f"requests failed: {seen['first_error']}")
        return {"out_tok_s": seen["out_tok_s"],
                "ttft_ms": seen["ttft_ms"]["p50"],
                "tpot_ms": seen["tpot_ms"]["p50"],
                "p99_ms": seen["e2e_ms"]["p99"],
                "max_gap_ms": seen["max_gap_ms"]}

    def vllm(self, clients=1, **counts):
        if self.options.vllm is None:
            raise NotMeasured("not given")
        return self.load(self.options.vllm, clients, clients, **counts)

    def vllm_decode(self, clients):
        return {"tok_s": 1e3 * clients / self.vllm(clients)["tpot_ms"]}

    def vllm_prefill(self):
        tokens = self.counts["prefill"]
        seen = self.vllm(in_tokens=tokens, out_tokens=1)
        return {"tok_s": 1e3 * tokens / seen["ttft_ms"]}

    def about(self, model):
        if model not in self.known:
            self.known[model] = self.model_bench(model, rounds=1)
        return self.known[model]

    def decode_limit(self, model, rows=1, context=0):
        """Tokens per second of a step of `rows`: weights read once, or their
        products; then the KV entries."""
        seen, peak = self.about(model), self.machine.peak("bf16" not in
                                                          model.name)

        def limit(bandwidth):
            step = max(seen["stream_bytes"] / bandwidth,
                       2 * seen["stream_weights"] * rows / peak)
            kv = rows * context * seen["kv_bytes_per_token"] / bandwidth
            return rows / (step + kv)
        return limit

    def cluster_limit(self, model, clients):
        """Prompts and generated tokens one after the other on the cores."""
        out = self.counts["out"]
        decode = self.decode_limit(model, clients, 128 + out // 2)
        prefill = self.decode_limit(model, 128)
        return lambda bandwidth: out / (128 / prefill(bandwidth) +
                                        out / decode(bandwidth))

    def own_decode(self, model, **counts):
        seen = self.model_bench(model, **{"decode": self.counts["decode"],
                                          **counts})
        return {"tok_s": seen["decode_tok_s"]["median"]}

    def llama_batch(self, model, rows, steps):
        if self.options.llama is None:
            raise NotMeasured("not given")
        return {"tok_s": json_of(
            [self.options.llama / "llama-batched-bench", "-m", model, "-t",
             self.options.threads, "-c", rows * (128 + steps) + 256, "-npp",
             128, "-ntg", steps, "-npl", rows, "--output-format",
             "jsonl"])["speed_tg"]}

    def llama_server(self, processes, model):
        port, slots = free_ports(1)[0], self.counts["clients"]
        processes.start("llama-server", [
            self.options.llama / "llama-server", "-m", model, "-t",
            self.options.threads, "-np", slots, "-c", 256 * slots, "--host",
            "127.0.0.1", "--port", port])
        url = f"http://127.0.0.1:{port}"
        processes.wait([url + "/health"])
        return url

    def google(self, target, pattern):
        """The runs of a Google Benchmark whose names match."""
        seconds = 0.01 if self.options.quick else 0.5
        return json_of([self.options.bin / "tests/bench" / target,
                        f"--benchmark_filter={pattern}",
                        f"--benchmark_min_time={seconds}",
                        "--benchmark_format=json"]).get("benchmarks", [])

    def product(self, kind):
        runs = self.google("matmul_bench", f"^{kind}/[^/]*/rows:512")
        rates = [run["Gop/s"] for run in runs if "Gop/s" in run]
        if not rates:
            raise NotMeasured(f"matmul_bench has no {kind}")
        return {"gops": max(rates)}

    def onednn(self, kind):
        """The same product by oneDNN."""
        folder = self.options.onednn
        if folder is None:
            raise NotMeasured("not given")
        with tempfile.TemporaryDirectory(prefix="goals-") as built:
            peer = pathlib.Path(built) / "onednn_peer"
            made = subprocess.run(
                ["g++", "-std=c++20", "-O2", f"-I{folder}/include",
                 HERE / "onednn_peer.cc", f"-L{folder}/lib", "-ldnnl",
                 f"-Wl,-rpath,{folder}/lib", "-o", peer],
                capture_output=True, text=True)
            if made.returncode:
                raise NotMeasured(f"onednn_peer: {made.stderr.strip()[-200:]}")
            seen = json_of([peer, *PRODUCT_SHAPE], {
                **os.environ, "OMP_NUM_THREADS": str(self.options.threads)})
        return {"gops": seen[kind]}

    def own_tokenizer(self, text):
        return json_of([self.options.bin / "tests/bench/tokenizer_bench", text,
                        self.counts["repeat"]])

    def tokenizers(self, text):
        if self.options.tokenizers is None:
            raise NotMeasured("not given")
        seen = json_of([self.options.tokenizers, HERE / "tokenizer_peer.py",
                        text, self.counts["repeat"]])
        if seen["ids_sha256"] != self.own_tokenizer(text)["ids_sha256"]:
            raise NotMeasured("its ids differ from ours")
        return seen

    def cache_flag(self):
        """The worker's flag for the folder of repacked weights, if it has
        one."""
        shown = subprocess.run(
            [self.options.bin / "worker/sluice-worker", "--check",
             f"--model.path={self.options.small_model}", "--role=mixed"],
            capture_output=True, text=True).stdout
        found = re.search(r"\b(weights\.\w*cache\w*)", shown)
        return found and found.group(1)

    def outside_products(self):
        """The share of a decode step of the small model that is not spent in
        products, from a worker's own profile of 100 steps."""
        with Processes() as processes:
            cluster = Sluice(self.options, processes,
                             self.options.small_model, False)
            cluster.wait(processes)
            self.load(cluster.url, 1, 1, in_tokens=16, out_tokens=8)
            _, worker, log = processes.started[0]
            worker.send_signal(signal.SIGUSR2)
            self.load(cluster.url, 1, 1, in_tokens=16, out_tokens=120)
            for _ in range(100):
                processes.check_alive()
                shares = op_shares(log)
                if "sample" in shares:
                    inside = sum(shares.get(op, 0) for op in PRODUCTS)
                    return {"share": 1 - inside}
                time.sleep(0.05)
            raise NotMeasured("the worker wrote no profile")

    def cold_start(self, extra):
        with Processes() as processes:
            begin = time.monotonic()
            cluster = Sluice(self.options, processes,
                             self.options.small_model, True, extra)
            while not first_token(cluster.url):
                processes.check_alive()
                if time.monotonic() > begin + 120:
                    raise NotMeasured("no token after 120 s")
                time.sleep(0.005)
            return {"s": time.monotonic() - begin}


def op_shares(log):
    """{op: share of the steps' time} from a worker's log."""
    shares = {}
    for line in pathlib.Path(log).read_text(errors="replace").splitlines():
        if '"op profile"' in line:
            entry = json.loads(line)
            shares[entry["op"]] = entry["time_share"]
    return shares


def first_token(url):
    """Asks a cluster for one token; whether it came."""
    body = json.dumps({"model": "goals", "prompt": "The sea", "max_tokens": 1})
    connection = http.client.HTTPConnection(url.removeprefix("http://"),
                                            timeout=60)
    try:
        connection.request("POST", "/v1/completions", body,
                           {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
