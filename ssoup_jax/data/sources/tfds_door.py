"""The one place that reaches into TFDS, and replaces what it uses TensorFlow for, its archives, and what it prints.

TFDS has no hooks for any of this. What is replaced here are private names of it, checked by the tests of `prepare`.
"""

import contextlib
import functools
import glob
import importlib
import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from unittest import mock

import numpy as np
from absl import logging as absl_logging

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder, DatasetInfo
    from tensorflow_datasets.core.download import DownloadManager
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.download.resource import Resource
    from tensorflow_datasets.core.features.image_feature import _ImageEncoder

SECONDS_BETWEEN_LINES = 10.0


class Keeper(Protocol):
    """Decides about the archives of a data set."""

    def check(self, path: Any, expected: "UrlInfo | None", found: "UrlInfo") -> None:
        """Is shown every archive; raises an error where it is not to be used."""

    def refuse(self, name: str, url: str) -> bool:
        """Says whether an archive that is not there is not to be downloaded."""

    def failed(self, name: str, url: str, error: Exception) -> None:
        """Is told of a download that failed."""

    def refuse_kaggle(self) -> bool:
        """Says whether data that only Kaggle has are not to be downloaded."""

    def finish(self, folder: Path) -> None:
        """Is shown the folder of a data set that is complete but for its name."""

    def line(self, text: str) -> None:
        """Is told what takes long."""


@contextlib.contextmanager
def opened(builder: "DatasetBuilder", keeper: Keeper) -> Iterator[None]:
    """Has a builder prepare its data set without TensorFlow, quietly, and with the archives that the keeper lets pass.

    Args:
        builder: what TFDS makes of the data set's name.
        keeper: decides about archives, and is told what takes long.
    """
    with _without_tensorflow(builder), _kept(keeper), _quiet(keeper.line):
        yield


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps what TFDS only warns of, such as libraries that it would rather have, out of the log."""
    place = os.sep + "tensorflow_datasets" + os.sep

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or place not in record.pathname

    logger = absl_logging.get_absl_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def _kept(keeper: Keeper) -> Iterator[None]:
    """Shows the keeper every archive, those too that TFDS would have taken as they are."""
    from tensorflow_datasets.core import DatasetInfo
    from tensorflow_datasets.core.download import DownloadManager, checksums, download_manager

    fetch = DownloadManager._download

    def checked(manager: "DownloadManager", url: str, url_info: Any, path: Any) -> None:
        expected = manager._url_infos.get(url)
        # An archive that it downloaded earlier TFDS takes to be as it was then.
        found = checksums.compute_url_info(path) if url_info is expected else url_info
        keeper.check(path, expected, found)
        manager._recorded_url_infos[url] = found

    def fetched(manager: "DownloadManager", resource: "Resource") -> Any:
        from promise import Promise

        info = manager._url_infos.get(resource.url)
        name = info.filename if info and info.filename else os.path.basename(resource.url)

        def failed(error: Exception) -> None:
            keeper.failed(name, resource.url, error)
            raise error

        if keeper.refuse(name, resource.url):
            return Promise.reject(FileNotFoundError(name))
        keeper.line(f"downloading {resource.url}")
        return fetch(manager, resource).then(None, failed)

    kaggle = download_manager.kaggle.download_kaggle_data

    def fetched_from_kaggle(*args: Any, **kwargs: Any) -> Any:
        if keeper.refuse_kaggle():
            raise FileNotFoundError
        return kaggle(*args, **kwargs)

    write = DatasetInfo.write_to_directory

    def written(info: "DatasetInfo", folder: Any, *args: Any, **kwargs: Any) -> None:
        write(info, folder, *args, **kwargs)
        keeper.finish(Path(folder))

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(DatasetInfo, "write_to_directory", written))
        patch = functools.partial(mock.patch.object, DownloadManager)
        stack.enter_context(patch("_register_or_validate_checksums", checked))
        stack.enter_context(patch("_download", fetched))
        stack.enter_context(patch("_log_skip_download", lambda *args, **kwargs: None))  # counts bytes as MiB
        stack.enter_context(mock.patch.object(download_manager.kaggle, "download_kaggle_data", fetched_from_kaggle))
        yield


@contextlib.contextmanager
def _quiet(line: Callable[[str], None]) -> Iterator[None]:
    """Keeps TFDS from printing, and has its progress told in lines."""
    from tensorflow_datasets.core import DatasetBuilder, utils

    with contextlib.ExitStack() as stack:
        for name in ("_log_download_bytes", "_log_download_done"):
            stack.enter_context(mock.patch.object(DatasetBuilder, name, lambda self: None))
        for module in (utils, utils.tqdm_utils):
            for name in ("tqdm", "async_tqdm"):
                stack.enter_context(mock.patch.object(module, name, functools.partial(_Progress, line)))
        yield


class _Progress:
    """Stands in for a progress bar, over something or counted by hand: a line every few seconds.

    TFDS has more bars than are worth a line: only what is downloaded and what is written are told.
    """

    _WORDS: ClassVar = {"MiB": "downloaded", "examples": "prepared"}

    def __init__(
        self,
        line: Callable[[str], None],
        iterable: Iterable[Any] = (),
        *,
        desc: str = "",
        total: int | None = None,
        unit: str = "",
        **_: Any,
    ) -> None:
        self._line, self._iterable = line, iterable
        self._unit = unit.strip()
        split = re.search(r"Generating (\w+) examples", desc)
        self._of = f" of split {split[1]}" if split else ""
        self._is_told = self._unit == "MiB" or split is not None
        self._total, self._count = total or 0, 0
        self._told, self._lock = time.monotonic(), threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None  # what else bars can be told

    def update_total(self, n: int = 1) -> None:
        """Expects more."""
        with self._lock:
            self._total += n

    def update(self, n: int = 1) -> None:
        """Counts."""
        with self._lock:
            self._count += n
            due = self._is_told and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES
            if due:
                self._told = time.monotonic()
        if due:
            total = f" of {self._total}" if self._total else ""
            self._line(f"{self._WORDS[self._unit]} {self._count}{total} {self._unit}{self._of}")


class _StandIn:
    """A part of TensorFlow: what data sets of images use of it to be prepared; all else is the true one's."""

    def __init__(self, *path: str, **has: Any) -> None:
        vars(self).update(has, _path=path)

    def __getattr__(self, name: str) -> Any:
        try:
            true = importlib.import_module("tensorflow")
        except ImportError as error:
            # Not an AttributeError, which `hasattr` would hide; some TFDS code tries this and that.
            raise ImportError(f"tensorflow.{'.'.join((*self._path, name))} is needed", name="tensorflow") from error
        return functools.reduce(getattr, (*self._path, name), true)


_FILES = {"exists": os.path.exists, "glob": glob.glob, "isdir": os.path.isdir, "listdir": os.listdir, "walk": os.walk}
_TENSORFLOW = _StandIn(
    io=_StandIn("io", gfile=_StandIn("io", "gfile", GFile=open, **_FILES)),
    compat=_StandIn("compat", as_text=os.fsdecode),
)


@contextlib.contextmanager
def _without_tensorflow(builder: "DatasetBuilder") -> Iterator[None]:
    """Replaces TensorFlow where TFDS uses it to unpack archives, to read them and to encode images."""
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature

    with contextlib.ExitStack() as stack:
        for module in {extractor, *_modules_of_data_sets(builder)}:
            if "tf" in vars(module):
                stack.enter_context(mock.patch.object(module, "tf", _TENSORFLOW))
        stack.enter_context(mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encode))
        for name in ("jpeg_cmyk_to_rgb", "png_to_jpeg"):
            stack.enter_context(mock.patch.object(utils, name, _as_rgb_jpeg))
        yield


def _modules_of_data_sets(builder: "DatasetBuilder") -> Iterator[ModuleType]:
    """Yields the builder's modules, and those of TFDS that data sets share."""
    own = {cls.__module__ for cls in type(builder).__mro__}
    for name, module in list(sys.modules.items()):
        if (name in own or name.startswith("tensorflow_datasets.")) and not name.startswith("tensorflow_datasets.core"):
            yield module


def _encode(encoder: "_ImageEncoder", image: np.ndarray) -> bytes:
    """Encodes an image `[H, W, C]` in the format of its feature, by the encoder's own Pillow path."""
    from PIL import Image
    from tensorflow_datasets.core.features import image_feature

    image_feature._validate_np_array(image, shape=encoder.shape, dtype=encoder.np_dtype)
    return encoder._encode_pil_image(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image))


def _as_rgb_jpeg(image: bytes, quality: int = 100) -> bytes:
    """Encodes one of ImageNet's few images that are no RGB JPEG files as one."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").save(out, "jpeg", quality=quality)
    return out.getvalue()
