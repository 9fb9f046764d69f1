"""The remarks as tests: verdicts on cells where the answer is known, and nothing from nothing."""

import math

import numpy as np
import pytest
from fake_cells import fake_cell
from fake_detectors import fake_clean, fake_detection, fake_sweep

from deepsec_jax.metrics import DetectionRecord
from deepsec_jax.runs.cells import KINDS, Cell
from deepsec_jax.studies.remarks import attacks, cases, claims, defenses, detectors, review
from deepsec_jax.studies.remarks.claims import (
    CONFIRMED,
    NOT_MEASURED,
    REFUTED,
    UNDECIDED,
    Claim,
    means,
    resampled,
    spearman,
)
from deepsec_jax.studies.remarks.evidence import Evidence, evidence_of
from deepsec_jax.studies.remarks.tables import GROUPS, REMARKS, verdicts
from deepsec_jax.studies.report import render

N = 200
GENERATOR = np.random.default_rng(3)


def config(kind, **more):
    return {"kind": kind, "version": KINDS[kind].version, "data": "mnist", "model": {"name": "raw"},
            "images": "test-0", "n": N, "seed": 0, "candidates": "c", **more}  # fmt: skip


def attack(name, success, confidence=0.8, **columns):
    """A cell of an attack: success with this probability, columns with these means."""
    hit = (np.arange(N) < round(N * success)).astype(np.float32)
    about = {"name": name, "preset": "paper", "class": name, "hyperparameters": {}}
    made = config("attack", attack=about)
    noise = GENERATOR.normal(scale=0.01, size=N)
    arrays = {
        "success": hit, "labels": np.zeros(N, np.int32), "targets": np.full(N, -1, np.int32),
        "confidence": np.broadcast_to(np.asarray(confidence, np.float32), (N,)),
    }  # fmt: skip
    return Cell(f"{name}-cell", made, {}, arrays, {key: value + noise for key, value in columns.items()})


def transfer(cell, share):
    """Its images on another model: this share of the hits transfers, spread over the images."""
    hits = cell.arrays["success"]
    reached = hits * (np.arange(N) % 10 < 10 * share)
    made = config("transfer", attack=cell.config["attack"], target={"name": "other"}, original="raw",
                  source=cell.name, weights="w", draws=1)  # fmt: skip
    return Cell(f"{cell.name}-other", made, {}, {"success": hits, "reached": reached.astype(np.float32)})


def measured(rgb_of_uas=0.9):
    """Cells in which UAs transfer more and withstand blur better than TAs, and PSD varies most."""
    found = []
    for place, name in enumerate(("fgsm", "pgd", "deepfool", "tmifgsm", "jsma", "cw2")):
        untargeted, linf = place < 3, name in ("fgsm", "pgd", "tmifgsm")
        rgb = (rgb_of_uas if untargeted else 0.3) + 0.01 * place
        found.append(attack(
            name, 0.9, actc=0.1 + 0.05 * place, acac=0.9 - 0.05 * place, rgb=rgb, ric=rgb,
            l0=0.5 + 0.02 * place, l2=2 + 0.1 * place, linf=0.3 + 0.01 * place, psd=10 + 30.0 * place,
            ass=0.9 + 0.001 * place,
        ))  # fmt: skip
        found.append(transfer(found[-1], (0.5 if untargeted else 0.2) + (0.2 if linf else 0.0)))
    return found


def by_key(cells):
    (evidence,) = evidence_of(cells)
    return {verdict.claim.key: verdict for verdict in verdicts(evidence)}


def test_nothing_is_claimed_of_nothing():
    assert evidence_of([]) == []
    nothing = Evidence("mnist", "raw", "paper", 0, {})
    found = verdicts(nothing)
    assert {verdict.text for verdict in found} == {NOT_MEASURED} and all(verdict.over for verdict in found)
    keys = [verdict.claim.key for verdict in found]
    assert {key[0] for key in keys} == set(GROUPS) and len(set(keys)) == len(keys)
    assert [key for key in keys if key[0] == "R"] == ["R1", "R2", "R3"]


def test_verdicts_are_right_where_the_answer_is_known():
    found = by_key(measured())
    for key in ("1a", "2a", "2b", "3a", "3b", "3c", "3d", "3e", "7a", "7b"):
        assert found[key].text == CONFIRMED, key
    assert found["1b"].value < 0 and found["4"].text == NOT_MEASURED
    assert found["7a"].value == pytest.approx(0.367, abs=0.01)
    against = by_key(measured(rgb_of_uas=0.1))
    assert against["3c"].text == REFUTED and against["3a"].text == REFUTED


def test_confidence_of_images_that_transfer():
    sure = np.where(np.arange(N) % 10 < 5, 0.9, 0.6)
    cell = attack("fgsm", 1.0, confidence=sure, acac=0.5)
    assert by_key([cell, transfer(cell, 0.5)])["7c"].text == CONFIRMED
    cell = attack("fgsm", 1.0, confidence=1.5 - sure, acac=0.5)
    assert by_key([cell, transfer(cell, 0.5)])["7c"].text == REFUTED


def test_replayed_and_own_attacks_on_defenses():
    right = np.ones(N)
    some = (np.arange(N) % 10 < 4).astype(float)
    names = ("fgsm", "pgd")
    cells = {name: attack(name, 1.0) for name in names}
    hits = np.ones(N, bool)
    replayed = {("pat", "fgsm"): (some, hits), ("pat", "pgd"): (right, hits),
                ("rt", "fgsm"): (1 - right, hits), ("rt", "pgd"): (1 - right, hits)}  # fmt: skip
    own = {("pat", "fgsm"): some, ("pat", "pgd"): 0 * right}
    evidence = Evidence("mnist", "raw", "paper", N, cells, replayed=replayed, own=own)
    found = {
        verdict.claim.key: verdict for verdict in (*defenses.verdicts(evidence), *review.verdicts(evidence))
    }
    assert found["5a"].text == CONFIRMED and found["5b"].text == CONFIRMED
    assert found["5b"].value == pytest.approx(0.7) and "pat against rt" in found["5b"].over
    assert found["R1"].value == pytest.approx(0.2) and found["R1"].text == CONFIRMED
    assert found["R2"].value == pytest.approx(0.5) and found["R3"].value == pytest.approx(0.4)
    universal = Evidence(
        "mnist", "raw", "paper", N, cells, replayed={("pat", name): (right, hits) for name in names}
    )
    assert {v.claim.key: v.text for v in defenses.verdicts(universal)}["5a"] == REFUTED


RADII = (0.1, 0.2, 0.3)


def scored(shifts, radii=(2.5, 2.5, 2.5)):
    """Cells as a run has them: attacks, and what each detector scores; shifts are from the clean scores."""
    found = [fake_cell(name, n=N) for name in ("fgsm", "pgd")]
    for detector, shift in shifts.items():
        found.append(fake_clean(detector))
        found += [fake_detection(name, detector, n=N, shift=shift) for name in ("fgsm", "pgd")]
        found += [fake_sweep(eps, detector, n=N, shift=by) for eps, by in zip(RADII, radii, strict=True)]
    return found


def test_remark_6_is_decided_by_the_cells_that_a_run_writes():
    found = by_key(scored({"fs": 2.5, "lid": 0.3}, radii=(0.5, 1.5, 2.5)))
    assert found["6a"].text == REFUTED and found["6b"].text == REFUTED
    assert found["6c"].text == REFUTED and found["6c"].value == 1.0
    assert "FS, LID; 2 attacks" in found["6a"].over and "3 radii" in found["6c"].over
    found = by_key(scored({"fs": 2.5, "lid": 2.5}, radii=(2.5, 1.5, 0.5)))
    assert found["6a"].text == CONFIRMED and found["6c"].text == CONFIRMED and found["6c"].value == -1.0


def test_a_detector_with_one_auc_at_all_radii_decides_nothing_on_them():
    """MagNet has an AUC of 1 at every radius; the claim was once not decided because of that."""
    perfect = [cell for cell in scored({"magnet": 90.0}, radii=(90.0, 90.0, 90.0))]
    falling = scored({"lid": 2.5}, radii=(2.5, 1.5, 0.5))
    found = by_key(
        [*perfect, *(cell for cell in falling if "detector" in cell.config or "eps" in cell.config)]
    )
    assert found["6c"].value == -1.0 and found["6c"].over == "LID; 3 radii"
    assert by_key(perfect)["6c"].text == NOT_MEASURED
    assert "MagNet is the same at every radius" in by_key(perfect)["6c"].over


def test_remark_6_needs_two_detectors_clean_scores_and_successes():
    assert by_key(scored({"fs": 2.5}))["6a"].text == NOT_MEASURED
    without = [cell for cell in scored({"fs": 2.5, "lid": 2.5}) if cell.config.get("kind") != "clean"]
    found = by_key(without)
    assert {found[key].text for key in ("6a", "6b", "6c")} == {NOT_MEASURED}
    other_sample = [fake_cell("fgsm", n=N), *scored({"fs": 2.5, "lid": 2.5})[2:]]
    for cell in other_sample[1:]:
        if "seed" in cell.config:
            cell.config["seed"] = 1
    assert {by_key(other_sample)[key].text for key in ("6a", "6c")} == {NOT_MEASURED}


def test_an_auc_of_resampled_images_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    scores = GENERATOR.normal(1, 1, (2, 30)).round(1).astype(np.float32)
    clean = GENERATOR.normal(0, 1, 50).round(1).astype(np.float32)
    success = (np.arange(30) % 3 > 0).astype(np.float32)
    records = [DetectionRecord(each, success, clean, np.ones(50), 0.0) for each in scores]
    found = detectors.resampled_areas(records)
    assert found.shape == (claims.RESAMPLES + 1, 2)
    attacked, drawn = resampled(30), resampled(50, seed=1)
    for draw in (0, 1, 7):
        weights = np.concatenate([attacked[draw][success > 0], drawn[draw]])
        labels = np.concatenate([np.ones(int(success.sum())), np.zeros(50)])
        for place, each in enumerate(scores):
            both = np.concatenate([each[success > 0], clean])
            wanted = roc_auc_score(labels, both, sample_weight=weights)
            assert found[draw, place] == pytest.approx(wanted, abs=1e-9)


def test_the_interval_is_that_of_the_resampled_mean():
    values = GENERATOR.uniform(size=N)
    verdict = claims.tested(Claim("0", "", ""), means(resampled(N), values), N, "")
    error = values.std() / math.sqrt(N)
    assert verdict.value == pytest.approx(values.mean())
    assert (verdict.high - verdict.low) == pytest.approx(2 * 1.96 * error, rel=0.1)
    close = Claim("0", "", "", bound=verdict.value + error)
    assert claims.tested(close, means(resampled(N), values), N, "").text == UNDECIDED
    assert (
        claims.tested(Claim("0", "", "", bound=0.0, above=False), means(resampled(N), values), N, "").text
        == REFUTED
    )


def test_rank_correlation_is_scipys():
    from scipy import stats

    one, other = GENERATOR.normal(size=(5, 9)).round(1), GENERATOR.normal(size=(5, 9))
    wanted = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(spearman(one, other), wanted)
    assert math.isnan(spearman(np.ones((1, 4)), other[:1, :4])[0])


def test_the_page_has_every_claim_with_its_verdict():
    files = render(REMARKS, measured())
    page = files["remarks.html"]
    assert "The remarks on raw, mnist" in page and "not measured" in page and "confirmed" in page
    assert "Verdict" in page and "Inconsistencies" not in page
    assert files["remarks.csv"].count("7a") == 1 and '"verdict": "confirmed"' in files["remarks.json"]
    for module in (attacks, cases, defenses, detectors, review):
        for claim in (value for value in vars(module).values() if isinstance(value, claims.Claim)):
            assert claim.says in page.replace("&#39;", "'").replace("&amp;", "&")
