"""What eps_attacks.py shows: one row per attack and library, and the Markdown report."""

from typing import Any

import numpy as np

from benchmarks.results import table, verdict

OURS = "deepsec_jax"


def summary(success: dict[str, dict[str, Any]], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per attack and library: success, and medians over rounds of ratios within a round."""
    times: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for record in records:
        if "error" not in record:
            pair = (record["seconds_per_image"], record["bare_per_image"])
            times.setdefault((record["attack"], record["library"]), {})[record["round"]] = pair
    rows = []
    for name, libraries in success.items():
        ours = times.get((name, OURS), {})
        for library, found in libraries.items():
            theirs = times.get((name, library), {})
            row: dict[str, Any] = {"attack": name, "library": library, **found}
            both = sorted(set(ours) & set(theirs))
            if both:
                in_bare = {index: theirs[index][0] / theirs[index][1] for index in both}
                ours_in_bare = {index: ours[index][0] / ours[index][1] for index in both}
                row["ms"] = 1e3 * float(np.median([theirs[i][0] for i in both]))
                row["bare_ms"] = 1e3 * float(np.median([theirs[i][1] for i in both]))
                row["in_bare"] = float(np.median(list(in_bare.values())))
                row["our_in_bare_over_theirs"] = float(
                    np.median([ours_in_bare[i] / in_bare[i] for i in both])
                )
                row["our_wall_over_theirs"] = float(np.median([ours[i][0] / theirs[i][0] for i in both]))
            rows.append(row)
    return rows


def report(payload: dict[str, Any]) -> str:
    """Return the Markdown report: the table, and what a library lacks or where it failed."""
    by_attack = {row["attack"]: row for row in payload["rows"] if row["library"] == OURS}
    cells, lacks = [], []
    for row in payload["rows"]:
        if "ms" not in row:
            lacks.append(f"- {row['library']} {row['attack']}: {row.get('error', 'not in the library')}")
            continue
        peer = row["library"] != OURS
        stronger = no_lower(by_attack[row["attack"]], row) if peer else None
        faster = row["our_in_bare_over_theirs"] <= 1.0 if peer else None
        cells.append([
            row["attack"], row["library"], payload["chosen"]["batch"][row["library"]], success_of(row),
            row["linf"], row["ms"], row["bare_ms"], row["in_bare"], row["our_in_bare_over_theirs"],
            row["our_wall_over_theirs"], verdict(stronger), verdict(faster),
        ])  # fmt: skip
    head = ["attack", "library", "batch", "success %", "linf", "ms/AE", "bare ms", "in bare",
            "ours/theirs bare", "ours/theirs wall", "success no lower", "time no higher"]  # fmt: skip
    missing = [f"- {name}: {why}" for name, why in payload["peers"]["missing"].items()]
    lines = [
        f"# Peers on {payload['subject']}", "", payload["note"], "",
        f"{payload['images']} images for success, {payload['timed']} timed in each of "
        f"{payload['rounds']} rounds; "
        f"largest difference of logits {payload['logit_difference']:.1e}; "
        f"torch {payload['peers']['versions']['torch']}, {payload['peers']['threads']} threads, "
        f"{payload['chosen']['format']} memory.", "",
        table(head, cells), "", "Not compared:", "", *(missing + lacks or ["- nothing"]),
    ]  # fmt: skip
    return "\n".join(lines)


def no_lower(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether our success is no lower; means over draws within 1.96 standard errors count as equal."""
    errors = [row.get("standard_error", 0.0) for row in (ours, theirs)]
    return bool(ours["success"] + 1.96 * float(np.hypot(*errors)) >= theirs["success"])


def success_of(row: dict[str, Any]) -> str:
    """Return the success in percent, with the standard error where it is a mean over draws."""
    error = row.get("standard_error", 0.0)
    return f"{row['success']:.4g}" + (f" +- {error:.2g} ({row['draws']} draws)" if error else "")
