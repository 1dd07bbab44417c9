"""``python -m jobs.score ARGUMENTS``: ``derm-ray score`` as a Ray Job, with its result as one JSON line."""

import sys

from derm_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["derm-ray", "score", *sys.argv[1:], "--json"]
    main()
