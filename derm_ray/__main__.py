"""``python -m derm_ray``: the ``derm-ray`` command, also where only the package and not its script is installed."""

from derm_ray.cli import main

if __name__ == "__main__":
    main()
