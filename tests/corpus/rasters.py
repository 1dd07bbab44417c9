"""Images of every format but DICOM."""

import random
from collections.abc import Iterator

import numpy as np

from tests.corpus import Specimen
from tests.corpus.bmps import bmps
from tests.corpus.jpeg2000s import jpeg_2000s
from tests.corpus.jpegs import jpegs
from tests.corpus.pngs import pngs
from tests.corpus.rare_tiffs import rare_tiffs
from tests.corpus.tiffs import tiffs
from tests.corpus.webps import gifs, webps


def raster_specimens(seed: int) -> Iterator[Specimen]:
    """Yield all images, in an order and with pixels that the seed decides."""
    plans = [*tiffs(), *rare_tiffs(), *jpeg_2000s(), *pngs(), *jpegs(), *bmps(), *gifs(), *webps()]
    random.Random(seed).shuffle(plans)
    for number, plan in enumerate(plans):
        yield plan(np.random.default_rng([seed, number]))
