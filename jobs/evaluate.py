"""``python -m jobs.evaluate ARGUMENTS``: ``derm-ray evaluate`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "evaluate", *sys.argv[1:], "--json"]
    main()
