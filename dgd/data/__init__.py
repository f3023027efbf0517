"""Real data sets as uint8 tensors with a checksummed manifest, and batches augmented on the device.

`prepare` writes a data set once (images.safetensors, manifest.json), `load` reads it back, and `Dataset.loader` gives the
batches. `names` gives the data sets with a name of their own; a folder of images is named `imagefolder:<path>`.
"""

from dgd.data.loader import Dataset, Examples, Loader, augment, load, manifest
from dgd.data.preparation import is_prepared, prepare, stratified
from dgd.data.sources import SOURCES, Augmented, Part, Raw, Source, is_known, names

__all__ = [
    "SOURCES",
    "Augmented",
    "Dataset",
    "Examples",
    "Loader",
    "Part",
    "Raw",
    "Source",
    "augment",
    "is_known",
    "is_prepared",
    "load",
    "manifest",
    "names",
    "prepare",
    "stratified",
]
