"""RobustBench's ``model_info`` of one model: clean and robust accuracy, as its leaderboard stores them."""

from typing import Any

THREATS = ("Linf", "L2")


def robustbench(
    *,
    name: str,
    dataset: str,
    norm: str,
    eps: float,
    clean: float,
    robust: float,
    architecture: str,
    authors: str = "",
    link: str = "",
    venue: str = "",
    reported: float | None = None,
    external: float | None = None,
    additional_data: bool = False,
    forward_passes: int = 1,
    unreliable: bool = False,
    footnote: str | None = None,
) -> dict[str, Any]:
    """Return the entry of a model; its file is ``model_info/<dataset>/<Linf or L2>/<id>.json``.

        found = evaluation.autoattack(model, images, labels, eps=8 / 255, key=key)
        entry = exchange.robustbench(
            name="PAT", dataset="cifar10", norm="Linf", eps=8 / 255, clean=0.87, robust=found.robust,
            architecture="ResNet-20",
        )

    RobustBench takes AutoAttack's ``standard`` version on 10,000 images of CIFAR-10, at L-inf 8/255 or L2
    0.5, and marks randomised models and those without gradients as unreliable.

    Args:
        name: title of the defense.
        dataset: "cifar10", "cifar100" or "imagenet" on the leaderboard; others for your own tables.
        norm: "Linf" or "L2".
        eps: radius, in units of the [0, 1] pixel range.
        clean: clean accuracy, 0 to 1.
        robust: robust accuracy under AutoAttack, 0 to 1.
        architecture: of the network.
        authors: of the defense.
        link: to the paper.
        venue: of the paper.
        reported: robust accuracy that the paper reports, 0 to 1.
        external: lower robust accuracy under another evaluation, 0 to 1.
        additional_data: whether the model was trained on other data as well.
        forward_passes: forward passes of a prediction.
        unreliable: whether AutoAttack's figure may be too high.
        footnote: shown beside the entry.

    Raises:
        ValueError: no such norm, a share outside [0, 1], or robust accuracy above clean accuracy.
    """
    if norm not in THREATS:
        raise ValueError(f"norm must be one of {', '.join(THREATS)}, got {norm!r}")
    shares = {"clean": clean, "robust": robust, "reported": reported, "external": external}
    for share, value in shares.items():
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{share} must be a share from 0 to 1, got {value}")
    if robust > clean:
        raise ValueError(f"robust accuracy {robust} is above clean accuracy {clean}: one of them is wrong")
    entry: dict[str, Any] = {
        "link": link, "name": name, "authors": authors, "additional_data": additional_data,
        "number_forward_passes": forward_passes, "dataset": dataset, "venue": venue,
        "architecture": architecture, "eps": _radius(eps), "clean_acc": _percent(clean),
        "reported": _percent(robust if reported is None else reported), "autoattack_acc": _percent(robust),
        "unreliable": unreliable,
    }  # fmt: skip
    if external is not None:
        entry["external"] = _percent(external)
    if footnote is not None:
        entry["footnote"] = footnote
    return entry


def _percent(share: float) -> str:
    return f"{100.0 * share:.2f}"


def _radius(eps: float) -> str:
    """Return ``8/255`` for a whole number of grey levels, and a decimal otherwise."""
    levels = eps * 255.0
    whole = round(levels)
    return f"{whole}/255" if whole and abs(levels - whole) < 1e-4 else f"{eps:g}"
