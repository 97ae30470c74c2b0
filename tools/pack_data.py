"""Pack the data that travels inside the package from the originals; needs Pillow.

    python tools/pack_data.py FOLDER [--out FOLDER]

FOLDER holds mnist/*.gz, omniglot/images_*.zip and mini-imagenet/*.csv. Writes mnist_subset.npz, omniglot.npz and
mini_imagenet.npz, the same bytes in every run (with the same zlib), into tinymeta/data or --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinymeta.data.errors import Source
from tinymeta.data.mini_imagenet import EMBEDDED as MINI_IMAGENET_FILE
from tinymeta.data.mini_imagenet import PER_CLASS
from tinymeta.data.mnist import EMBEDDED as MNIST_FILE
from tinymeta.data.mnist import ORIGINALS, SUBSET_SIZES, Images, read_originals
from tinymeta.data.omniglot import DRAWINGS, SIDE
from tinymeta.data.omniglot import EMBEDDED as OMNIGLOT_FILE
from tinymeta.data.readers import read_file, verify_sha256
from tinymeta.data.zips import zip_members

SEED = 0
HALF_GREY = 128
REMEDY = "fetch the original again"
DRAWING_NAME = re.compile(r"images_\w+/[^/]+/character\d\d/\d{4}_\d\d\.png")
# The drawings in each zip by `content_sha256`, so that it does not matter how they were compressed.
OMNIGLOT_ZIPS = {
    "images_background.zip": "99424ad6829b09e069752583a31ae06356012a8df106810b68eefb212edaa2f1",
    "images_evaluation.zip": "f8f8c2d5e78c065a016335fb29e4e20ab90d358ca2273d1f2b12be51495908e9",
}
MINI_IMAGENET_LISTS = {
    "train.csv": "498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f",
    "val.csv": "5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9",
    "test.csv": "2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa",
}
MAX_ZIP = {"max_members": 25_000, "max_member_bytes": 4096}

Content = tuple[dict[str, bytes], dict[str, Any]]  # the members of an .npz file, and what provenance.json says of them


def mnist_content(data: Path) -> Content:
    """Of mnist_subset.npz: equally many random images of each digit, in the original order."""
    rng = np.random.default_rng(SEED)
    members = {}
    for split, size in SUBSET_SIZES.items():
        subset = choose_balanced(read_originals(data / "mnist", ORIGINALS[split], REMEDY), size // 10, rng)
        members |= {f"{split}_x.npy": npy(subset.x), f"{split}_y.npy": npy(subset.y)}
    sources = {original.file: original.sha256 for originals in ORIGINALS.values() for original in originals}
    return members, {"seed": SEED, "sources": sources, "licence": "CC BY-SA 3.0, Yann LeCun and Corinna Cortes"}


def choose_balanced(full: Images, per_class: int, rng: np.random.Generator) -> Images:
    """`per_class` images of each digit."""
    chosen = [rng.permutation(np.flatnonzero(full.y == digit))[:per_class] for digit in range(10)]
    order = np.sort(np.concatenate(chosen))
    return Images(full.x[order], full.y[order])


def omniglot_content(data: Path) -> Content:
    """Of omniglot.npz: every drawing at 28 x 28 and 1 bit, eight pixels to a byte, and the names of the characters."""
    drawings: dict[str, bytes] = {}
    for file, sha256 in OMNIGLOT_ZIPS.items():
        drawings |= read_drawings(Source(str(data / "omniglot" / file), REMEDY), sha256)
    images = np.array([shrink(png) for png in drawings.values()]).reshape(-1, DRAWINGS, SIDE * SIDE)
    characters = ["/".join(name.split("/")[1:3]) for name in list(drawings)[::DRAWINGS]]
    members = {"images.npy": npy(np.packbits(images, axis=-1)), "characters.txt": "\n".join(characters).encode("ascii")}
    sources = {file: f"sorted names and PNG bytes: {sha256}" for file, sha256 in OMNIGLOT_ZIPS.items()}
    return members, {"ink_below_grey": HALF_GREY, "sources": sources, "licence": "MIT, Brenden Lake"}


def mini_imagenet_content(data: Path) -> Content:
    """Of mini_imagenet.npz: the classes of the three splits in order, and the number of each of their images in four bytes."""
    images: dict[str, list[int]] = {}
    for file, sha256 in MINI_IMAGENET_LISTS.items():
        source = Source(str(data / "mini-imagenet" / file), REMEDY)
        raw = read_file(source, max_bytes=2_000_000)
        verify_sha256(raw, source, sha256)
        for line in raw.decode("ascii").split()[1:]:  # n0153282900000005.jpg,n01532829
            name, synset = line.split(",")
            images.setdefault(synset, []).append(int(name.removeprefix(synset).removesuffix(".jpg")))
    numbers = np.array(list(images.values()), "<u4").reshape(-1, PER_CLASS, 1).view(np.uint8)
    members = {"numbers.npy": npy(numbers), "synsets.txt": "\n".join(images).encode("ascii")}
    return members, {"sources": MINI_IMAGENET_LISTS, "licence": "MIT, Twitter, Inc."}


def read_drawings(source: Source, sha256: str) -> dict[str, bytes]:
    """The PNG files of an Omniglot zip by name, sorted: by alphabet, character and drawing."""
    members = zip_members(read_file(source, max_bytes=16_000_000), source, **MAX_ZIP)
    drawings = dict(sorted((name, png) for name, png in members if DRAWING_NAME.fullmatch(name)))
    found = content_sha256(drawings)
    if found != sha256:
        raise source.refuse(f"{len(drawings)} drawings with SHA-256 {found}", f"the published ones with {sha256}")
    return drawings


def content_sha256(members: Mapping[str, bytes]) -> str:
    """SHA-256 over the names and the contents, each followed by its length."""
    digest = hashlib.sha256()
    for part in (part for name, content in members.items() for part in (name.encode(), content)):
        digest.update(part + len(part).to_bytes(8, "little"))
    return digest.hexdigest()


def shrink(png: bytes) -> np.ndarray:
    """Where the ink is, bool (28, 28): resized as grey, since Pillow takes the nearest pixel of 1-bit images."""
    with Image.open(BytesIO(png)) as image:
        grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey) < HALF_GREY


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npz(members: Mapping[str, bytes], provenance: Mapping[str, Any]) -> bytes:
    """A zip of the members and of provenance.json, which records their SHA-256, without clock or platform in it."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    record = {"packed_by": "tools/pack_data.py", **provenance, "members_sha256": digests}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**members, "provenance.json": json.dumps(record, indent=1).encode()}.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.create_system = 3
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the originals")
    parser.add_argument("--out", type=Path, default=MNIST_FILE.parent, help="where to write (default: tinymeta/data)")
    arguments = parser.parse_args()
    contents = {MNIST_FILE: mnist_content, OMNIGLOT_FILE: omniglot_content, MINI_IMAGENET_FILE: mini_imagenet_content}
    for target, content in contents.items():
        packed = npz(*content(arguments.data))
        (arguments.out / target.name).write_bytes(packed)
        print(f"{arguments.out / target.name}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
