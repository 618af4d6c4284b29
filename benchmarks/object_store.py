"""What of a build passes through Ray's object store, and what of that is spilled to disk.

Builds a corpus of a file in ARCHS4's layout with an object store that is smaller than the profiles. Prints one line of
JSON: bytes of the profiles, of the store, bytes put into it and bytes spilled during the build, and seconds::

    python benchmarks/object_store.py --samples 5000 --store-megabytes 100
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import ray
from archs4 import build_settings, make_file

from dataprep.corpus import open_corpus
from dataprep.pipeline.build import build
from dataprep.runtime.ray_internals import object_store_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--store-megabytes", type=int, default=100)
    arguments = parser.parse_args()
    store_bytes = arguments.store_megabytes * 1_000_000
    ray.init(address="local", object_store_memory=store_bytes, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="object-store-bench-") as place:
        file = Path(place) / "archs4.h5"
        make_file(file, arguments.samples, (2_000, 64))
        settings = build_settings(Path(place), str(file))
        before, began = object_store_bytes(), time.perf_counter()
        build(settings)
        seconds, after = time.perf_counter() - began, object_store_bytes()
        corpus = open_corpus(settings.corpus)
    put, spilled = (now - then for now, then in zip(after, before, strict=True))
    kept = corpus.manifest.samples.kept
    print(
        json.dumps(
            {
                "profiles": kept,
                "profile_bytes": 2 * corpus.genes * kept,
                "store_bytes": store_bytes,
                "put_bytes": put,
                "spilled_bytes": spilled,
                "seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
