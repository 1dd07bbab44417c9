"""``python -m jobs.benchmark ARGUMENTS``: ``derm-ray bench`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "bench", *sys.argv[1:], "--json"]
    main()
