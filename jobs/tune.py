"""``python -m jobs.tune ARGUMENTS``: ``derm-ray tune`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "tune", *sys.argv[1:], "--json"]
    main()
