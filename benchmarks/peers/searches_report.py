"""What searches.py shows: one row per attack and library, the best peer of each attack, the original."""

from typing import Any

import numpy as np

from benchmarks.peers.eps_report import OURS
from benchmarks.results import table, verdict

POINTS, CLOSER, ORIGINAL = 0.5, 1.02, "original"
NORMS = {"l0": "L0 (entries)", "l1": "L1", "l2": "L2", "linf": "Linf", "en": "elastic net"}


def rows_of(name: str, norm: str, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per library, compared with ours on the images that the library attacked.

    Args:
        name: of the attack.
        norm: of its distance.
        found: per library ``times`` (seconds per image of attack and bare gradient, a pair per round),
            ``closeness`` and what else is known, or ``error``, or ``lacks``.
    """
    ours = found[OURS]
    rows = []
    for library, record in found.items():
        kept = {key: value for key, value in record.items() if key not in ("times", "closeness")}
        row: dict[str, Any] = {"attack": name, "library": library, "norm": norm, **kept}
        if record["times"] and "closeness" in record:
            row |= _measured(record)
            if library != OURS and ours["times"] and "closeness" in ours:
                row |= _compared(ours, record)
        rows.append(row)
    return rows


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    closeness, times = record["closeness"], np.asarray(record["times"])
    return {
        "images": len(closeness.success), "success": 100.0 * float(closeness.success.mean()),
        "distance": _median(closeness.distance[closeness.success]),
        "faults": {name: count for name, count in closeness.faults.items() if count},
        "ms": 1e3 * float(np.median(times[:, 0])), "bare_ms": 1e3 * float(np.median(times[:, 1])),
        "in_bare": float(np.median(times[:, 0] / times[:, 1])),
    }  # fmt: skip


def _compared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    their, rows = theirs["closeness"], len(theirs["closeness"].success)
    success, distance = ours["closeness"].success[:rows], ours["closeness"].distance[:rows]
    both = success & their.success
    pairs = list(zip(ours["times"], theirs["times"], strict=False))
    ratio = _median(distance[both]) / _median(their.distance[both])
    plain = _median(distance[success]) / _median(their.distance[their.success])
    in_bare = float(np.median([(o[0] / o[1]) / (t[0] / t[1]) for o, t in pairs]))
    points = 100.0 * float(success.mean() - their.success.mean())
    something = bool(success.any() or their.success.any())  # else there is nothing to judge
    return {
        "points": points, "both": int(both.sum()), "ratio_both": ratio, "ratio": plain,
        "our_in_bare_over_theirs": in_bare,
        "our_wall_over_theirs": float(np.median([o[0] / t[0] for o, t in pairs])),
        "no_weaker": points >= -POINTS - 1e-9 if something else None,
        "no_farther": ratio <= CLOSER if both.any() else None,
        "no_slower": in_bare <= 1.0 if something else None,
    }  # fmt: skip


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def best_peers(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]] | None:
    """Return the rows of the best libraries: most successful, closest, fastest.

    The closest is one of those within 0.5 points of the most successful; the fastest, in its own bare
    gradients, one of those that also come within 2 % of the closest.
    """
    peers = [row for row in rows if row["library"] not in (OURS, ORIGINAL) and "points" in row]
    if not peers:
        return None
    strongest = min(peers, key=lambda row: row["points"])  # our lead over it
    near = [row for row in peers if row["points"] <= strongest["points"] + POINTS]
    closest = max(near, key=_our_ratio)
    near = [row for row in near if _our_ratio(row) * CLOSER >= _our_ratio(closest)]
    return {"success": strongest, "distance": closest, "time": min(near, key=lambda row: row["in_bare"])}


def _our_ratio(row: dict[str, Any]) -> float:
    return row["ratio_both"] if row["both"] else 0.0


def report(payload: dict[str, Any]) -> str:
    """Return the Markdown report."""
    by_attack = {name: found["rows"] for name, found in payload["attacks"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in payload["peers"]["versions"].items())
    best = [best_peers(rows) for rows in by_attack.values()]
    originals = [row for rows in by_attack.values() for row in rows if row["library"] == ORIGINAL]
    failed = [
        f"- {row['attack']} {row['library']}: {row.get('error', 'not in the library')}"
        for rows in by_attack.values() for row in rows
        if "success" not in row and not (":" in row["library"] and "lacks" in row)
    ]  # fmt: skip
    missing = [f"- {name}: {why}" for name, why in payload["peers"]["missing"].items()]
    used = [f"- {row['attack']} {row['library']}: `{row['settings']}`"
            for rows in by_attack.values() for row in rows if "settings" in row]  # fmt: skip
    lines = [
        f"# Searches against peers on {payload['subject']}", "", payload["note"], "",
        f"{versions}; largest difference of logits {payload['logit_difference']:.1e}.  Ratios are ours over "
        "theirs, on the images that the library attacked; `ratio both` divides the medians over the images "
        "on which both succeed, `ratio` the plain medians.  In bare: time in the library's own bare "
        "gradients.  UAP: time per training image.  Compile time is not in our times.", "",
        "## Everyone", "", _everyone(by_attack), "",
        "## Against the best peer", "",
        f"Success >= the strongest's - {POINTS} points; `ratio both` <= {CLOSER} against the closest of "
        f"those within {POINTS} points of the strongest; time in bare <= the fastest's of those also within "
        "2 % of the closest.", "", _best([rows for rows in best if rows]), "",
        "## Against DEEPSEC's algorithm as published", "",
        _originals([row for row in originals if "points" in row]), "",
        "## Runs", "", _runs(payload["attacks"]), "",
        "## Settings", "", *used, "", "## Not compared", "", *(missing + failed or ["- nothing"]),
    ]  # fmt: skip
    return "\n".join(lines)


def _everyone(by_attack: dict[str, list[dict[str, Any]]]) -> str:
    cells = []
    for rows in by_attack.values():
        for row in (row for row in rows if "success" in row):
            faults = [f"{count} {name}" for name, count in row["faults"].items()]
            if "noisy_percent" in row:
                faults.append(f"{row['noisy_percent']:.3g} % of fresh noisy copies")
            peer = row["library"] not in (OURS, ORIGINAL)
            bars = [row.get(key) if peer else None for key in ("no_weaker", "no_farther", "no_slower")]
            cells.append([
                row["attack"], row["library"], row["images"], row["batch"], row["success"],
                f"{row['distance']:.4g} {NORMS[row['norm']]}", row.get("ratio_both", "-"),
                row.get("ratio", "-"), row["ms"], row["bare_ms"], row["in_bare"],
                row.get("our_in_bare_over_theirs", "-"), row.get("our_wall_over_theirs", "-"),
                *map(verdict, bars),
                row.get("gradients", "-"), row.get("compile_seconds", "-"), "; ".join(faults) or "-",
            ])  # fmt: skip
    head = ["attack", "library", "images", "batch", "success %", "median distance", "ratio both", "ratio",
            "ms/AE", "bare ms", "in bare", "ours/theirs bare", "ours/theirs wall", "success", "distance",
            "time", "gradients/AE", "compile s", "rows"]  # fmt: skip
    return table(head, cells)


def _best(best: list[dict[str, dict[str, Any]]]) -> str:
    cells = []
    for rows in best:
        strongest, closest, fastest = rows["success"], rows["distance"], rows["time"]
        cells.append([
            strongest["attack"], strongest["library"], strongest["points"], closest["library"],
            closest["ratio_both"], fastest["library"], fastest["our_in_bare_over_theirs"],
            fastest["our_wall_over_theirs"], verdict(strongest["no_weaker"]), verdict(closest["no_farther"]),
            verdict(fastest["no_slower"]),
        ])  # fmt: skip
    head = ["attack", "strongest", "our points more", "closest", "ratio both", "fastest", "ours/theirs bare",
            "ours/theirs wall", "success", "distance", "time"]  # fmt: skip
    return table(head, cells)


def _originals(rows: list[dict[str, Any]]) -> str:
    cells = [
        [row["attack"], row["images"], row["success"], row["points"], row["ratio_both"],
         1 / row["our_wall_over_theirs"], 1 / row["our_in_bare_over_theirs"]] for row in rows
    ]  # fmt: skip
    head = ["attack", "images", "its success %", "our points more", "ratio both", "we are faster, wall",
            "we are faster, in bare"]  # fmt: skip
    return table(head, cells)


def _runs(found: dict[str, dict[str, Any]]) -> str:
    cells = []
    for name, each in found.items():
        run = each["run"]
        load = "/".join(f"{value:.1f}" for value in run["load"])
        cells.append([name, run["when"], run["n"], run["rounds"], run["cores"], run["threads"], run["format"],
                      load])  # fmt: skip
    head = ["attack", "when", "images", "rounds", "cores", "torch threads", "torch memory", "load"]
    commands = dict.fromkeys(each["run"]["command"] for each in found.values())
    return "\n".join([table(head, cells), "", *(f"    {command}" for command in commands)])
