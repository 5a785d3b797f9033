"""Goals, and the lines that say whether they are met."""
import dataclasses
import json
import statistics


@dataclasses.dataclass
class Goal:
    """What must hold; of several bounds all. `share` is of the limit. Below
    `from_gbs` of bandwidth only a ratio of 1 is asked for: the goal's own is
    what its share comes to at that bandwidth."""
    share: float = None
    ratio: float = None
    value: float = None
    from_gbs: float = 0
    less: bool = False  # ratio and value are upper bounds

    def at(self, gbs):
        if self.ratio is None or gbs >= self.from_gbs:
            return self
        return dataclasses.replace(self, ratio=1.0)

    def text(self):
        sign = "<=" if self.less else ">="
        bounds = (("share", ">=", self.share), ("ratio", sign, self.ratio),
                  ("value", sign, self.value))
        return ", ".join(f"{name} {sign} {bound:g}"
                         for name, sign, bound in bounds if bound is not None)

    def met(self, share, ratio, value):
        """None: a bound cannot be judged, and no other is missed."""
        up = not self.less
        judged = [None if seen is None else
                  seen >= bound if upward else seen <= bound
                  for bound, seen, upward in ((self.share, share, True),
                                              (self.ratio, ratio, up),
                                              (self.value, value, up))
                  if bound is not None]
        return False if False in judged else None if None in judged else True


@dataclasses.dataclass
class Line:
    """One figure of a measurement, and its goal."""
    what: str
    unit: str
    figure: str
    goal: Goal
    limit: object = None  # function of the bandwidth in B/s
    peer: str = None      # whom the ratio is of; None: the best one
    side: str = "sluice"  # whose figure it is


def short(value):
    return None if value is None else float(f"{value:.4g}")


def spread(values):
    return [short(min(values)), short(max(values))] if values else None


class Report:
    """Prints the lines and counts them."""

    def __init__(self):
        self.met, self.missed, self.not_measured = 0, 0, 0

    def add(self, row, line, met, **fields):
        if met is None:
            self.not_measured += 1
        elif met:
            self.met += 1
        else:
            self.missed += 1
        entry = {"row": row, "what": line.what, "value": None,
                 "unit": line.unit, "limit": None, "share": None,
                 "peer": line.peer, "peer_value": None, "ratio": None,
                 "goal": line.goal.text(), "met": met, **fields}
        print(json.dumps(entry), flush=True)

    def absent(self, row, line, why):
        self.add(row, line, None, reason=str(why))

    def measured(self, row, line, measurement):
        """`measurement` is what Machine.rounds() gave."""
        rounds, gbs, dropped, missing = measurement
        goal = line.goal.at(gbs)
        own = [seen[line.side][line.figure] for seen in rounds]
        value = statistics.median(own)
        limit = line.limit(1e9 * gbs) if line.limit else None
        share = value / limit if limit else None
        against = self.against(line, rounds)
        peers = {name: figures for name, figures in against.items()
                 if line.peer in (None, name)}
        better = min if goal.less else max
        peer = better(peers, key=lambda name: peers[name]["value"],
                      default=line.peer)
        chosen = peers.get(peer, {"value": None, "ratio": None, "ratios": []})
        ratio = chosen["ratio"]
        met = goal.met(share, ratio, value)
        extra = {}
        others = {name: {"value": short(figures["value"]),
                         "ratio": short(figures["ratio"])}
                  for name, figures in against.items() if name != peer}
        if others:
            extra["other_peers"] = others
        if met is None:
            extra["reason"] = "; ".join(
                f"{name}: {why}" for name, why in missing.items()
                if line.peer in (None, name)) or f"no peer {line.peer}"
        self.add(row, dataclasses.replace(line, goal=goal), met,
                 value=short(value), limit=short(limit), share=short(share),
                 peer=peer, ratio=short(ratio),
                 peer_value=short(chosen["value"]),
                 value_range=spread(own), ratio_range=spread(chosen["ratios"]),
                 bandwidth_gbs=short(gbs), rounds=len(rounds), dropped=dropped,
                 **extra)

    @staticmethod
    def against(line, rounds):
        """{peer: its median, the ratios of ours to it round by round}"""
        peers = {}
        for name in {name: 0 for seen in rounds for name in seen}:
            pairs = [(seen[line.side][line.figure], seen[name][line.figure])
                     for seen in rounds if line.figure in seen.get(name, {})]
            if pairs and not name.startswith("sluice"):
                ratios = [own / theirs for own, theirs in pairs]
                peers[name] = {
                    "value": statistics.median(theirs for _, theirs in pairs),
                    "ratio": statistics.median(ratios), "ratios": ratios}
        return peers
