"""Importers, by name: each reads one data set in its original layout and returns a manifest."""

from typing import TYPE_CHECKING

from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.data.importers.importer import Importer

IMPORTERS: "Registry[Importer]" = Registry(
    "importer",
    {
        "milk10k": "derm_ray.data.importers.milk10k:MILK10K_FOLDER",
        "derm7pt": "derm_ray.data.importers.derm7pt:DERM7PT_FOLDER",
        "ham10000": "derm_ray.data.importers.ham10000:HAM10000",
        "pad_ufes_20": "derm_ray.data.importers.pad_ufes_20:PAD_UFES_20",
        "isic_archive": "derm_ray.data.importers.isic_archive:ISIC_ARCHIVE",
        "isic2019": "derm_ray.data.importers.isic2019:ISIC2019",
        "folder": "derm_ray.data.importers.folder:FOLDER",
    },
)
