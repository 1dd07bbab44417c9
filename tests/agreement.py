"""Whether JPEGs decoded at the smallest sufficient scale get the answers of full ones.

``python -m tests.agreement BUNDLE MANIFEST`` prints how far the two lie apart over all pairs that have both images.
"""

import sys
from dataclasses import replace

import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import collapse, read_manifest
from derm_ray.domain import Modality
from derm_ray.evaluation.parity import measure_parity
from derm_ray.inference.predictor import Predictor
from derm_ray.runtime import machine_cpus

if __name__ == "__main__":
    torch.set_num_threads(machine_cpus())
    bundle = load_bundle(sys.argv[1])
    full, scaled = (
        Predictor(replace(bundle, preprocessing=replace(bundle.preprocessing, scaled=scaled)), "torch")
        for scaled in (False, True)
    )
    manifest = collapse(read_manifest(sys.argv[2]).absolute(), bundle.label_set)
    pairs = [pair for pair in manifest.pairs() if all(pair.uri(modality) for modality in Modality)]
    found = measure_parity(full, scaled, pairs, manifest.uri)
    print("\n".join([f"{found.pairs} pairs, scaled beside full decoding", *found.lines()]))
