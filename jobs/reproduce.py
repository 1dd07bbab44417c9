"""``python -m jobs.reproduce ARGUMENTS``: ``derm-ray reproduce`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "reproduce", *sys.argv[1:], "--json"]
    main()
