"""Prepares a TFDS data set as array_record files, without TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from ssoup_jax.errors import SettingsError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.download import DownloadManager
    from tensorflow_datasets.core.download.resource import Resource

# Seconds in which a server must answer. TFDS itself retries for minutes before it says that there is no network.
CONNECT_TIMEOUT = 5.0

# What data sets of images use TensorFlow for when they are prepared: opening files and decoding names.
_STAND_IN = SimpleNamespace(
    io=SimpleNamespace(gfile=SimpleNamespace(GFile=open, exists=os.path.exists)),
    compat=SimpleNamespace(as_text=os.fsdecode),
)


def prepare(builder: "DatasetBuilder") -> None:
    """Writes the data set's array_record files from its archives, which are downloaded unless they are there.

    Archives are looked for in `downloads/NAME` of the data directory, under their published names or as TFDS stores
    them. The folder is the data set's own, because several data sets call their archives the same.

    Args:
        builder: what TFDS makes of the data set's name; its `info` is complete afterwards.

    Raises:
        SettingsError: an archive is not there and cannot be downloaded.
    """
    from tensorflow_datasets import download

    downloads = Path(builder.data_dir_root) / "downloads" / builder.name
    with _without_tensorflow(builder), _quick_to_give_up(downloads):
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=download.DownloadConfig(manual_dir=downloads, try_download_gcs=False),
            file_format="array_record",
        )
    if not builder.is_prepared():
        raise SettingsError(f"{builder.data_path} holds no complete data set; remove it to have it prepared again")


@contextlib.contextmanager
def _without_tensorflow(builder: "DatasetBuilder") -> Iterator[None]:
    """Replaces TensorFlow where TFDS uses it to unpack archives, to read them and to encode images."""
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature

    own = (sys.modules[cls.__module__] for cls in type(builder).__mro__)
    modules = {extractor, *(module for module in own if not module.__name__.startswith("tensorflow_datasets.core"))}
    with contextlib.ExitStack() as stack:
        for module in modules:
            if "tf" in vars(module):
                stack.enter_context(mock.patch.object(module, "tf", _STAND_IN))
        stack.enter_context(mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encode))
        yield


def _encode(encoder: Any, image: np.ndarray) -> bytes:
    """Encodes an image `[H, W, C]` in the format of its feature, by the encoder's own Pillow path."""
    from PIL import Image

    return encoder._encode_pil_image(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image))


@contextlib.contextmanager
def _quick_to_give_up(downloads: Path) -> Iterator[None]:
    """Makes TFDS ask a server once, briefly, before it downloads an archive that it has not found on disk."""
    import requests
    from tensorflow_datasets.core.download import DownloadManager

    download = DownloadManager._download

    def checked(manager: "DownloadManager", resource: "Resource") -> Any:
        try:
            requests.head(resource.url, timeout=CONNECT_TIMEOUT)
        except requests.RequestException as error:
            info = manager._url_infos.get(resource.url)
            file = info.filename if info and info.filename else os.path.basename(resource.url)
            raise SettingsError(
                f"not prepared, and {file} is neither in {downloads} nor to be had from {resource.url} "
                f"({type(error).__name__}); put it into that folder, or set data_dir to where the prepared data set is"
            ) from error
        return download(manager, resource)

    with mock.patch.object(DownloadManager, "_download", checked):
        yield
