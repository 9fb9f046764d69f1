"""What a defended model costs per image, what its transforms cost beside other people's, RC's memory.

1. Images a second of each defended model, and its time over the undefended model's on the same batches, in
   turns.  A detector's folder is its guarded model.
2. Images a second of each transform on the device, in one batch, beside the same transform of Pillow,
   scikit-image or scipy, image by image as they work.
3. What RC takes at ``--points`` points and a batch of 100: peak RssAnon in the call, less that before it
   (Linux only).
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import restoration, transform

from benchmarks.promises.memory import peak_anonymous, status
from benchmarks.results import quartiles, table, write_json
from benchmarks.subjects import load_subject, subject_title
from deepsec_jax import defenses, transforms
from deepsec_jax.defenses.rc import RegionVotes
from deepsec_jax.progress import progress
from deepsec_jax.randomness import example_keys, first_keys, reseed

Call = Callable[[], Any]


def main() -> None:
    """Measure the three; print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="folder of the undefended model")
    parser.add_argument("--defenses", nargs="*", default=[], help="folders that deepsec defend has written")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, options.batch, data_dir=options.data_dir)
    x = jnp.asarray(subject.images)
    megabytes = votes_memory(subject.model, x, options.points)  # first: what others have freed would hide it
    models = defended_rows(subject.model, options.defenses, x, options.rounds)
    pictures = transform_rows(np.array(x), options.rounds)  # scikit-image wants it writable
    write_json(options.out, f"defended-rate-{subject_title(options.subject)}", {
        "subject": options.subject, "note": subject.note, "batch": options.batch, "defended": models,
        "transforms": pictures, "rc": {"points": options.points, "mb": megabytes},
    })  # fmt: skip
    print(table(["model", "ms/image", "over the undefended"], models))
    print(table(["transform", "ms/image", "theirs", "ms/image", "theirs / ours"], pictures))
    print(f"RC, {options.points} points, batch {len(x)}: {megabytes:.0f} MB above what was taken before")


def defended_rows(raw: Any, folders: list[str], x: jax.Array, rounds: int) -> list[list[Any]]:
    """Return name, milliseconds per image and ratio to the undefended model of each folder."""
    forward = jax.jit(lambda model, x: model(x))
    models = {"undefended": raw}
    for folder in folders:
        defended = defenses.load_defended(folder)
        models[f"{defended.card['name']} ({defended.card['preset']})"] = defended.classifier
    seeded = {name: reseed(model, example_keys(jax.random.key(0), len(x))) for name, model in models.items()}
    calls = {name: _ready(lambda model=model: forward(model, x)) for name, model in seeded.items()}
    spent = in_turns(calls, rounds, "defended models")
    one = spent["undefended"]
    return [[name, 1000 * taken / len(x), taken / one] for name, taken in spent.items()]


def transform_rows(x: np.ndarray, rounds: int) -> list[list[Any]]:
    """Return our and their milliseconds per image of each transform, and their ratio."""
    side, channels = x.shape[1], x.shape[3]
    crop, larger = side - 2, side + 3
    keys = example_keys(jax.random.key(0), len(x))
    kept = transforms.kept_pixels(keys, x.shape[1:3], 0.5)
    device = jnp.asarray(x)
    first = [image[..., 0] for image in x] if channels == 1 else list(x)
    axis = None if channels == 1 else 2
    pillow = [Image.fromarray(np.uint8(image * 255)) for image in first]
    footprint = (2, 2) if channels == 1 else (2, 2, 1)
    ours: dict[str, Callable[[jax.Array], jax.Array]] = {
        "total variation": lambda x: transforms.tv_minimised(x, kept, 0.03, p=2, sweeps=100),
        "JPEG, quality 85": lambda x: transforms.jpeg(x, 85, subsampling="4:2:0"),
        "bit depth, 4": lambda x: transforms.to_levels(x, 4),
        "crop and enlarge": lambda x: transforms.crop_resize(x, keys, crop),
        "resize and pad": lambda x: transforms.resize_pad(x, keys, side, larger),
        "median, 2x2": transforms.median_2x2,
        "non-local means": transforms.non_local_means,
    }
    theirs: dict[str, tuple[str, Callable[[int], Any]]] = {
        "total variation": (
            "scikit-image, split Bregman, same sweeps, all pixels",
            lambda i: restoration.denoise_tv_bregman(
                first[i], 66.7, max_num_iter=100, eps=1e-12, channel_axis=axis
            ),
        ),
        "JPEG, quality 85": ("Pillow", lambda i: _through_jpeg(pillow[i])),
        "bit depth, 4": ("NumPy", lambda i: np.round(first[i] * 15) / 15),
        "crop and enlarge": (
            "scikit-image", lambda i: transform.resize(first[i][:crop, :crop], (side, side), order=1)
        ),
        "resize and pad": (
            "scikit-image",
            lambda i: np.pad(
                transform.resize(first[i], (side + 1, side + 1), order=1),
                ((1, 1), (1, 1), (0, 0))[: first[i].ndim],
            ),
        ),
        "median, 2x2": ("scipy", lambda i: ndimage.median_filter(first[i], size=footprint[: first[i].ndim])),
        "non-local means": (
            "scikit-image",
            lambda i: restoration.denoise_nl_means(
                first[i], patch_size=3, patch_distance=6, h=2 / 255, fast_mode=False, channel_axis=axis
            ),
        ),
    }  # fmt: skip
    compiled = {name: jax.jit(call) for name, call in ours.items()}
    mine = {name: _ready(lambda call=call: call(device)) for name, call in compiled.items()}
    his = {name: _each(call, len(x)) for name, (_, call) in theirs.items()}
    fast, slow = in_turns(mine, rounds, "transforms, ours"), in_turns(his, 1, "transforms, theirs")
    return [
        [name, 1000 * fast[name] / len(x), library, 1000 * slow[name] / len(x), slow[name] / fast[name]]
        for name, (library, _) in theirs.items()
    ]


def votes_memory(model: Any, x: jax.Array, points: int) -> float:
    """Return by how many MB a call of RC raises the memory that the program owns."""
    votes = RegionVotes(model, 0.3, first_keys(), points)
    forward = jax.jit(lambda votes, x: votes(x))
    lowered = forward.lower(votes, x).compile()
    before = status("RssAnon")
    with peak_anonymous() as peak:
        jax.block_until_ready(lowered(votes, x))
    return (max(peak) - before) / 1024


def in_turns(calls: Mapping[str, Call], rounds: int, title: str) -> dict[str, float]:
    """Return the median seconds of each call over so many turns, after one that compiles."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with progress(title, len(calls) * (rounds + 1)) as advance:
        for turn in range(rounds + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                if turn:
                    taken[name].append(time.perf_counter() - started)
                advance()
    return {name: quartiles(seconds)["median"] for name, seconds in taken.items()}


def _ready(call: Call) -> Call:
    return lambda: jax.block_until_ready(call())


def _each(call: Callable[[int], Any], count: int) -> Call:
    return lambda: [call(index) for index in range(count)]


def _through_jpeg(picture: Image.Image) -> np.ndarray:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85, subsampling=2)
    return np.asarray(Image.open(buffer), np.float32) / 255


if __name__ == "__main__":
    main()
