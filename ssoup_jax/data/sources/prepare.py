"""Prepares a TFDS data set as array_record files, without TensorFlow and, if so asked, without a network."""

import contextlib
import fcntl
import functools
import glob
import importlib
import io
import os
import sys
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from ssoup_jax.errors import SettingsError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.download import DownloadManager
    from tensorflow_datasets.core.download.resource import Resource
    from tensorflow_datasets.core.features.image_feature import _ImageEncoder

# Seconds in which a server must answer. TFDS itself retries for minutes before it says that there is no network.
CONNECT_TIMEOUT = 5.0

BY_HAND = {"imagenet2012": {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}}
"""Archives that only their publisher's users may download, and their bytes: TFDS knows nothing to check them by."""

_DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def prepare(builder: "DatasetBuilder", download: bool = True) -> None:
    """Writes the data set's array_record files from its archives, which are downloaded unless they are there.

    Archives are looked for in `downloads/NAME` of the data directory, under their published names or as TFDS stores
    them. The folder is the data set's own, because several data sets call their archives the same.

    The files are written to a folder beside and renamed when they are complete. A second process waits for the first.

    Args:
        builder: what TFDS makes of the data set's name; it must be made anew to read what was prepared.
        download: whether archives that are not there may be fetched.

    Raises:
        SettingsError: an archive is not there and cannot be had, is damaged, or needs TensorFlow.
    """
    from tensorflow_datasets import download as tfds_download
    from tensorflow_datasets.core.download.extractor import ExtractError

    archives = _Archives(builder, download)
    with archives.alone():
        if builder.data_path.exists():
            if not builder.is_prepared():
                raise SettingsError(f"{builder.data_path} holds no complete data set; remove it to have it prepared")
            return
        archives.check_those_by_hand()
        try:
            with _without_tensorflow(builder), archives.watched():
                builder.download_and_prepare(
                    download_dir=archives.folder,
                    download_config=tfds_download.DownloadConfig(manual_dir=archives.folder, try_download_gcs=False),
                    file_format="array_record",
                )
        except SettingsError:
            raise
        except Exception as error:
            if archives.missing:
                raise archives.not_there() from error
            if _needs_tensorflow(error):
                raise SettingsError(
                    f"TFDS needs TensorFlow to prepare this data set, though not to read it: pip install tensorflow, "
                    f"then once: tfds build {builder.info.name}{_config(builder)} --data_dir={builder.data_dir_root} "
                    f"--manual_dir={archives.folder} --file_format=array_record; then TensorFlow may be removed again"
                ) from error
            if isinstance(error, (ExtractError, *_DAMAGED)):
                what = f"{type(error).__name__}: {textwrap.shorten(str(error), 300, placeholder=' ...')}"
                raise SettingsError(f"an archive in {archives.folder} is damaged; replace it ({what})") from error
            raise


class _Archives:
    """The archives of a data set: where they are, which are missing and why."""

    def __init__(self, builder: "DatasetBuilder", download: bool) -> None:
        self.builder = builder
        self.download = download
        self.folder = Path(builder.data_dir_root) / "downloads" / builder.name
        self.missing: dict[str, str] = {}
        """Why a file could not be had, by its name."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process prepares this data set."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            where = f"{self.folder} cannot be written ({error.strerror})"
            raise SettingsError(f"not prepared in {self.builder.data_path}, and {where}; {self._ways}") from error
        with lock:
            # Not every file system has locks. Without them two processes do the same work, and one fails at its end.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def check_those_by_hand(self) -> None:
        """Checks the archives that TFDS itself neither downloads nor checks."""
        how = self.builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        if how and self.builder.name not in BY_HAND and all(name[0] == "." for name in os.listdir(self.folder)):
            self.missing["what has to be put there by hand"] = textwrap.shorten(how, 300, placeholder=" ...")
        for name, size in BY_HAND.get(self.builder.name, {}).items():
            path = self.folder / name
            if not path.is_file():
                self.missing[name] = "only registered users of its publisher can download it"
            elif (found := path.stat().st_size) != size:
                raise _damaged(path, f"{size} bytes", f"{found}")
        if self.missing:
            raise self.not_there()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Makes TFDS notice missing archives at once, and damaged ones that it would have taken as they are."""
        from tensorflow_datasets.core.download import DownloadManager, checksums, download_manager

        fetch = DownloadManager._download

        def checked(manager: "DownloadManager", url: str, url_info: Any, path: Any) -> None:
            expected = manager._url_infos.get(url)
            # An archive that it downloaded earlier TFDS takes to be as it was then.
            found = checksums.compute_url_info(path) if url_info is expected else url_info
            if expected not in (None, found):
                raise _damaged(
                    path,
                    f"{int(expected.size)} bytes with SHA-256 {expected.checksum}",
                    f"{int(found.size)} with {found.checksum}",
                )
            manager._recorded_url_infos[url] = found

        def fetched(manager: "DownloadManager", resource: "Resource") -> Any:
            from promise import Promise

            info = manager._url_infos.get(resource.url)
            name = info.filename if info and info.filename else os.path.basename(resource.url)

            def failed(error: Exception) -> None:
                if not isinstance(error, SettingsError):
                    self.missing[name] = f"{resource.url}: {textwrap.shorten(str(error), 200, placeholder=' ...')}"
                raise error

            # Once one is missing nothing is downloaded any more; what else is missing is still found out.
            why = next(iter(self.missing.values()), None) or self._unreachable(resource.url)
            if why is None:
                return fetch(manager, resource).then(None, failed)
            self.missing[name] = why
            return Promise.reject(FileNotFoundError(name))

        def unfetched(*_: Any) -> None:
            self.missing["its data from Kaggle"] = "downloading is switched off"
            raise FileNotFoundError

        with contextlib.ExitStack() as stack:
            patch = functools.partial(mock.patch.object, DownloadManager)
            stack.enter_context(patch("_register_or_validate_checksums", checked))
            stack.enter_context(patch("_download", fetched))
            if not self.download:
                stack.enter_context(mock.patch.object(download_manager.kaggle, "download_kaggle_data", unfetched))
            yield

    def not_there(self) -> SettingsError:
        """Builds the error for archives that are missing."""
        names, why = ", ".join(self.missing), next(iter(self.missing.values()))
        where = f"{names} not in {self.folder} ({why})"
        return SettingsError(f"not prepared in {self.builder.data_path}, and {where}; {self._ways}")

    @property
    def _ways(self) -> str:
        allow = "" if self.builder.MANUAL_DOWNLOAD_INSTRUCTIONS else "allow the download on a machine with a network, "
        by_hand = f"put what is missing into {self.folder} by hand"
        return f"{allow}{by_hand}, or set data_dir to a folder in which the data set is prepared"

    def _unreachable(self, url: str) -> str | None:
        """Asks a server once, briefly; returns why nothing can be downloaded from it, or None."""
        import requests

        if not self.download:
            return f"downloading {url} is switched off"
        try:
            requests.head(url, timeout=CONNECT_TIMEOUT)
        except requests.RequestException as error:
            return f"no answer from {url}: {type(error).__name__}"
        return None


def _damaged(path: Any, expected: str, found: str) -> SettingsError:
    return SettingsError(f"{path} is damaged or another file: expected {expected}, found {found}; replace or remove it")


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


def _needs_tensorflow(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "tensorflow":
            return True
        error = error.__cause__ or error.__context__
    return False


def _config(builder: "DatasetBuilder") -> str:
    return f"/{builder.builder_config.name}" if builder.builder_config else ""
