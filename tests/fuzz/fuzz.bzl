"""fuzz_test: one libFuzzer target.

With --config=fuzz it runs for 5 seconds on top of its corpus; without, it
replays the corpus.
"""

def fuzz_test(name, deps, size = "small", data = [], **kwargs):
    corpus = native.glob(["corpus/%s/**" % name])
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"] + select({
            ":with_libfuzzer": [],
            "//conditions:default": ["replay_main.cc"],
        }),
        args = select({
            ":with_libfuzzer": [
                "-max_total_time=5",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-max_len=65536",
                "-seed=1",
            ],
            "//conditions:default": [],
        }) + (["tests/fuzz/corpus/" + name] if corpus else []),
        data = corpus + data,
        tags = ["fuzz"],
        deps = deps,
        **kwargs
    )
