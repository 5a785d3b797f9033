"""Moves scattered blocks between two processes with another transfer library.

  PYTHON tests/bench/kv_peers.py nixl|mooncake [SIZE:COUNT ...]

PYTHON has the package `nixl-cu13` (its UCX backend on host memory) or
`mooncake-transfer-engine-non-cuda` (tcp). Both sides have a pool of 256 MiB; a
request writes COUNT blocks of SIZE bytes from random places of one to random
places of the other and waits for the end; it is asked for as often as 64 MiB
take, the first time checked block by block and not counted. Prints one JSON
object a shape: {"row": NAME, "size": SIZE, "count": COUNT, "gb_per_s": ...}.
"""
import array
import json
import mmap
import os
import random
import subprocess
import sys
import time

POOL_BYTES = 256 << 20
MOVED_BYTES = 64 << 20
WORDS = POOL_BYTES // 8


class Pool:
    """Anonymous memory, touched, as words and by address."""

    def __init__(self):
        import ctypes
        self.memory = mmap.mmap(-1, POOL_BYTES,
                                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, POOL_BYTES, mmap.PAGESIZE):
            self.memory[page] = 1
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.words = memoryview(self.memory).cast("Q")

    def fill(self):
        self.words[:] = memoryview(array.array("Q", range(WORDS)))

    def heads(self, size, blocks):
        return [self.words[block * size // 8] for block in blocks]


class Nixl:
    def __init__(self, name, pool):
        from nixl_cu13._api import nixl_agent, nixl_agent_config
        self.agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
        self.agent.register_memory([(pool.base, POOL_BYTES, 0, "")], "DRAM")
        self.pool = pool

    def address(self):
        return self.agent.get_agent_metadata().hex()

    def connect(self, address):
        self.peer = self.agent.add_remote_agent(bytes.fromhex(address))
        self.agent.make_connection(self.peer)

    def prepare(self, size, pairs, remote_base):
        import numpy

        def descriptors(base, blocks):
            rows = [(base + block * size, size, 0) for block in blocks]
            return self.agent.get_xfer_descs(
                numpy.array(rows, dtype=numpy.uint64), "DRAM")
        source, target = zip(*pairs)
        ours = self.agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", descriptors(self.pool.base, source))
        theirs = self.agent.prep_xfer_dlist(
            self.peer, descriptors(remote_base, target))
        order = numpy.arange(len(pairs), dtype=numpy.int32)
        return self.agent.make_prepped_xfer("WRITE", ours, order, theirs,
                                            order)

    def write(self, handle):
        state = self.agent.transfer(handle)
        while state == "PROC":
            state = self.agent.check_xfer_state(handle)
        return state == "DONE"


class Mooncake:
    def __init__(self, _, pool):
        os.environ.setdefault("MC_TCP_BIND_ADDRESS", "127.0.0.1")
        os.environ.setdefault("MC_TCP_ENABLE_CONNECTION_POOL", "1")
        from mooncake.engine import TransferEngine
        self.engine = TransferEngine()
        failed = self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "")
        if failed or self.engine.register_memory(pool.base, POOL_BYTES):
            sys.exit("mooncake: no engine")
        self.pool = pool

    def address(self):
        return f"127.0.0.1:{self.engine.get_rpc_port()}"

    def connect(self, address):
        self.peer = address

    def prepare(self, size, pairs, remote_base):
        return ([self.pool.base + source * size for source, _ in pairs],
                [remote_base + target * size for _, target in pairs],
                [size] * len(pairs))

    def write(self, lists):
        return self.engine.batch_transfer_sync_write(self.peer, *lists) == 0


LIBRARIES = {"nixl": Nixl, "mooncake": Mooncake}


def serve(name):
    """The target: answers what blocks begin with, line by line."""
    os.sched_setaffinity(0, {0})
    pool = Pool()
    library = LIBRARIES[name]("target", pool)
    print("@" + json.dumps([library.address(), pool.base]), flush=True)
    for line in sys.stdin:
        size, blocks = json.loads(line)
        print("@" + json.dumps(pool.heads(size, blocks)), flush=True)
    os._exit(0)  # the libraries' threads


def read(child):
    for line in child.stdout:  # the libraries print there too
        if line.startswith("@"):
            return json.loads(line[1:])
    sys.exit("the target ended")


def measure(library, pool, child, remote_base, size, count):
    rng = random.Random(size)
    slots = POOL_BYTES // size
    seconds = 0.0
    requests = max(1, MOVED_BYTES // (size * count))
    for request in range(requests + 1):
        pairs = list(zip(rng.sample(range(slots), count),
                         rng.sample(range(slots), count)))
        prepared = library.prepare(size, pairs, remote_base)
        begin = time.perf_counter()
        if not library.write(prepared):
            return None
        if request > 0:
            seconds += time.perf_counter() - begin
            continue
        child.stdin.write(json.dumps([size, [t for _, t in pairs]]) + "\n")
        child.stdin.flush()
        if read(child) != pool.heads(size, [s for s, _ in pairs]):
            sys.exit(f"{size} x {count}: other bytes arrived")
    return requests * size * count / seconds / 1e9


def main():
    name, *shapes = sys.argv[1:]
    if shapes == ["--serve"]:
        serve(name)
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    child = subprocess.Popen([sys.executable, __file__, name, "--serve"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    address, remote_base = read(child)
    pool = Pool()
    pool.fill()
    library = LIBRARIES[name]("source", pool)
    library.connect(address)
    for shape in shapes:
        size, count = map(int, shape.split(":"))
        speed = measure(library, pool, child, remote_base, size, count)
        if speed is not None:
            print(json.dumps({"row": name, "size": size, "count": count,
                              "gb_per_s": round(speed, 4)}), flush=True)
    child.stdin.close()
    child.wait(20)
    os._exit(0)


if __name__ == "__main__":
    main()
