"""What counts as a finding, and why; measured on MILK10k's images (``docs/benchmarks/audit.md``)."""

HASH_DISTANCE = 40
"""Bits of 256 in which the hashes of possible duplicates differ at most. It finds copies that are cropped by 3%, on
whichever sides; four bits more double the pairs that have to be compared for nothing."""
SIMILARITY = 0.95
"""Correlation of details, once aligned, from which two images are near duplicates. Copies that are cropped by 5%,
re-encoded and brightened reach 0.96 and more, photos of different lesions at most 0.92."""
NEIGHBORS = 10
"""Possible duplicates compared per image, the nearest first. Larger groups are still found whole, by their chains."""
MIN_SHORTER_SIDE = 160
"""Pixels; images below it are enlarged even for the ``light`` preset."""
MIN_BRIGHTNESS = 60.0
"""Mean luma, 0..255; one in 2,000 of MILK10k's images is darker."""
MIN_SHARPNESS = 5.0
"""Variance of the Laplacian at 224 px; one in 2,000 of MILK10k's images is less sharp."""
MIN_SKIN = 0.02
"""Share of pixels of the color of skin; one in 2,000 of MILK10k's images has less."""
