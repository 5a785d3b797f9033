"""How each kind of goal is measured and held against its bound."""
import pathlib
import tempfile

from goals_endurance import Endurance
from goals_machine import NotMeasured, Processes, Sluice
from goals_report import Goal, Line, Report, short

LLAMA, IK, VLLM = "llama.cpp", "ik_llama.cpp", "vLLM"
R1B = "r1b {}, threads: {}"


class Goals(Endurance):
    """One method a kind of row. A side is a function that gives the figures
    of one round."""

    def __init__(self, options, machine):
        super().__init__(options, machine)
        self.report = Report()

    def measure(self, row, lines, sides):
        """Lines of one measurement; `sides` as Machine.rounds() has them."""
        try:
            measurement = self.machine.rounds(sides)
        except NotMeasured as why:
            for line in lines:
                self.report.absent(row, line, why)
            return
        for line in lines:
            self.report.measured(row, line, measurement)

    def per_model(self, row, kind, lines, sides):
        """Lines of r1b, whose limits are made from the file, as `sides`."""
        try:
            model = self.model(kind)
            for line in lines:
                line.limit = line.limit and line.limit(model)
        except NotMeasured as why:
            for line in lines:
                self.report.absent(row, line, why)
            return
        self.measure(row, lines, sides(model))

    def decode_row(self, row, goals, peer=None, one_thread=None, ik=None):
        """`goals` by model, against `peer`; further goals against llama.cpp
        on one thread and against ik_llama.cpp."""
        for kind, goal in goals.items():
            self.decode_lines(row, kind, self.options.threads,
                              [(peer, goal)] + ([(IK, ik)] if ik else []))
            if one_thread:
                self.decode_lines(row, kind, 1, [(LLAMA, one_thread)])

    def decode_lines(self, row, kind, threads, goals):
        whole = threads == self.options.threads  # the limits are of all
        lines = [Line("decode, one stream, " + R1B.format(kind.upper(),
                                                          threads),
                      "tok/s", "tok_s", goal,
                      self.decode_limit if whole else None, peer)
                 for peer, goal in goals]
        self.per_model(row, kind, lines, lambda model: {
            "sluice": lambda: self.own_decode(model, threads=threads),
            **self.decode_peers(kind, model, threads)})

    def decode_peers(self, kind, model, threads):
        flags = (model, threads, "-p", 0, "-n", self.counts["decode"])
        peers = {LLAMA: lambda: self.llama(self.options.llama, *flags)}
        if self.options.ik_llama:
            peers[IK] = lambda: self.llama(self.options.ik_llama, *flags,
                                           "-rtr", 1)
        if kind == "bf16" and self.options.vllm and threads > 1:
            peers[VLLM] = lambda: self.vllm_decode(1)
        return peers

    def prefill_row(self, row, goals, peer=LLAMA):
        tokens = self.counts["prefill"]
        for kind, goal in goals.items():
            line = Line(f"prefill of {tokens}, " + R1B.format(
                kind.upper(), self.options.threads), "tok/s", "tok_s", goal,
                lambda model: self.decode_limit(model, tokens), peer)
            self.per_model(row, kind, [line], lambda model: {
                "sluice": lambda: {"tok_s": self.model_bench(
                    model, prefill=tokens)["prefill_tok_s"]["median"]},
                peer: self.vllm_prefill if peer == VLLM else
                lambda: self.llama(self.options.llama, model,
                                   self.options.threads, "-p", tokens, "-n",
                                   0)})

    def batch_row(self, row, goals):
        rows, steps = self.counts["batch"], self.counts["decode"] // 2
        for kind, goal in goals.items():
            peer = VLLM if kind == "bf16" else LLAMA
            line = Line(f"decode, {rows} streams, " + R1B.format(
                kind.upper(), self.options.threads), "tok/s", "tok_s", goal,
                lambda model: self.decode_limit(model, rows, 128), peer)
            self.per_model(row, kind, [line], lambda model: {
                "sluice": lambda: self.own_decode(
                    model, batch=rows, context=128, decode=steps),
                peer: (lambda: self.vllm_decode(rows)) if peer == VLLM else
                lambda: self.llama_batch(model, rows, steps)})

    def context_row(self, row, goals):
        context, steps = self.counts["context"], self.counts["decode"] // 4

        def own(model):
            far = self.own_decode(model, context=context, decode=steps,
                                  rounds=1)["tok_s"]
            near = self.own_decode(model)["tok_s"]
            kv_bytes = context * self.about(model)["kv_bytes_per_token"]
            return {"tok_s": far,
                    "attention_gbs": 1e-9 * kv_bytes / (1 / far - 1 / near)}

        what = f"decode at {context} tokens, " + R1B.format(
            "Q8_0", self.options.threads)
        lines = [Line(what, "tok/s", "tok_s", goals[0],
                      lambda model: self.decode_limit(model, 1, context),
                      LLAMA)]
        lines += [Line("attention in " + what, "GB/s", "attention_gbs", goal,
                       lambda model: lambda bandwidth: 1e-9 * bandwidth)
                  for goal in goals[1:]]
        self.per_model(row, "q8_0", lines, lambda model: {
            "sluice": lambda: own(model),
            LLAMA: lambda: self.llama(
                self.options.llama, model, self.options.threads, "-p", 0, "-n",
                steps, "-d", context)})

    def cluster_row(self, row, kind, goals):
        """`goals`: [(figure, peer, goal, clients)], each for one mixed worker
        and for 1 prefill + 1 decode worker."""
        named = {"out_tok_s": ("tokens out", "tok/s"),
                 "p99_ms": ("p99 of a request", "ms"),
                 "max_gap_ms": ("longest gap in a stream", "ms")}
        lines = {}  # clients -> lines
        for figure, peer, goal, clients in goals:
            lines.setdefault(clients, []).extend(
                Line(f"cluster, {named[figure][0]}, clients: {clients}, 128 in "
                     f"/ {self.counts['out']} out, r1b {kind.upper()}, {side}",
                     named[figure][1], figure, goal, None, peer,
                     f"sluice {side}")
                for side in ("mixed", "split"))
        try:
            model = self.model(kind)
            self.about(model)
            with Processes() as processes:
                urls = self.servers(processes, model,
                                    {peer for _, peer, _, _ in goals})
                for clients in list(lines):
                    self.clients(row, model, lines.pop(clients), urls, clients)
        except NotMeasured as why:
            for line in sum(lines.values(), []):
                self.report.absent(row, line, why)

    def servers(self, processes, model, peers):
        """Starts ours and the peers asked for; {side: URL}."""
        own = {f"sluice {name}": Sluice(self.options, processes, model, split)
               for name, split in (("mixed", False), ("split", True))}
        for cluster in own.values():
            cluster.wait(processes)
        urls = {side: cluster.url for side, cluster in own.items()}
        if LLAMA in peers and self.options.llama:
            urls[LLAMA] = self.llama_server(processes, model)
        if VLLM in peers and self.options.vllm:
            urls[VLLM] = self.options.vllm
        return urls

    def clients(self, row, model, lines, urls, clients):
        requests = self.counts["requests"] if clients > 1 else 4
        for line in lines:
            if line.figure == "out_tok_s":
                line.limit = self.cluster_limit(model, clients)
        self.measure(row, lines, {
            name: lambda url=url: self.load(url, clients, requests)
            for name, url in urls.items()})

    def small_row(self, row, goal, outside_products=None):
        model = self.options.small_model
        line = Line(f"decode, one stream, {model.stem}, "
                    f"threads: {self.options.threads}", "tok/s", "tok_s", goal,
                    lambda bandwidth: self.decode_limit(model)(bandwidth),
                    LLAMA)
        self.measure(row, [line], {
            "sluice": lambda: self.own_decode(model),
            **self.decode_peers("", model, self.options.threads)})
        if outside_products:
            self.measure(row, [Line(f"not products, of a decode step, "
                                    f"{model.stem}", "share", "share",
                                    outside_products)],
                         {"sluice": self.outside_products})

    def product_row(self, row, goals):
        for kind, goal in goals.items():
            peak = 1e-9 * self.machine.peak(integer=kind != "BF16")
            self.measure(row, [Line(f"product of 512 rows, {kind}", "Gop/s",
                                    "gops", goal, lambda _: peak, "oneDNN")],
                         {"sluice": lambda: self.product(kind),
                          "oneDNN": lambda: self.onednn(kind)})

    def memory_row(self, row):
        """Of r1b in Q4_0: what the issue of the CPU path asks of memory."""
        lines = [Line("worker's plan of memory, off by", "share", "plan_error",
                      Goal(value=0.02, less=True)),
                 Line("worker beyond weights and pool, of 10 % or 64 MiB",
                      "share", "rest_share", Goal(value=1, less=True)),
                 Line("router, idle", "MiB", "router_mib",
                      Goal(value=64, less=True)),
                 Line("router, an open stream", "KiB", "stream_kib",
                      Goal(value=256, less=True))]
        self.once(row, lines, "q4_0", self.memory)

    def steady_row(self, row):
        lines = [Line(f"10 minutes, clients: {self.counts['clients']}, last "
                      "minute to the first", "share", "last_to_first",
                      Goal(value=0.03, less=True)),
                 Line("the worker grew by", "MiB", "grown_mib",
                      Goal(value=16, less=True))]
        self.once(row, lines, None, self.steady)

    def shared_row(self, row):
        self.once(row, [Line("two workers on the same two cores, to taking "
                             "turns", "ratio", "ratio", Goal(value=0.9))],
                  None, self.shared_cores)

    def once(self, row, lines, kind, run):
        """One round, of r1b or (None) of the small model: the bandwidth does
        not matter to it."""
        try:
            figures = run(self.model(kind) if kind else
                          self.options.small_model)
        except NotMeasured as why:
            for line in lines:
                self.report.absent(row, line, why)
            return
        for line in lines:
            value = figures[line.figure]
            self.report.add(row, line, line.goal.met(None, None, value),
                            value=short(value))

    def determinism_row(self, row):
        line = Line("cost of equal bits", "%", "", Goal(value=0, less=True))
        self.report.add(row, line, True, value=0.0, reason="the order of "
                        "every sum is fixed; there is no other mode")

    def tokenizer_row(self, row, goal):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            for path in sorted([*pathlib.Path().glob("*.md"),
                                *pathlib.Path("docs").rglob("*.md"),
                                *pathlib.Path("base").glob("*.*"),
                                *pathlib.Path("worker").rglob("*.h")]):
                text.write(path.read_text())
            text.flush()
            self.measure(row, [
                Line("tokenise, SmolLM2, one core", "MB/s", "encode_mb_s",
                     goal, peer="tokenizers"),
                Line("detokenise, SmolLM2, one core", "MB/s", "decode_mb_s",
                     goal, peer="tokenizers"),
            ], {"sluice": lambda: self.own_tokenizer(text.name),
                "tokenizers": lambda: self.tokenizers(text.name)})

    def sample_row(self, row, goal):
        def own():
            runs = self.google("sample_bench",
                               "/128256/top_k.top_p.penalties$")
            if not runs:
                raise NotMeasured("sample_bench has no such case")
            return {"us": min(run["real_time"] for run in runs)}
        self.measure(row, [Line("sample 128256 logits, top-k 50, top-p 0.9, "
                                "penalties", "us", "us", goal)],
                     {"sluice": own})

    def cold_row(self, row, goals):
        """`goals`: without and with the cache of repacked weights."""
        flag = self.cache_flag()
        for cached, goal in goals:
            line = Line("cold start to the first token, 135M split cluster, "
                        f"{'with' if cached else 'without'} repack cache",
                        "s", "s", goal)
            if cached and flag is None:
                self.report.absent(row, line, "the worker has no repack cache")
                continue
            with tempfile.TemporaryDirectory(prefix="goals-") as folder:
                place = folder if cached else "off"
                extra = [f"--{flag}={place}"] if flag else []
                if cached:
                    self.cold_start(extra)  # fills it
                self.measure(row, [line],
                             {"sluice": lambda: self.cold_start(extra)})
