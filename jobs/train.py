"""``python -m jobs.train ARGUMENTS``: ``derm-ray train`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "train", *sys.argv[1:], "--json"]
    main()
