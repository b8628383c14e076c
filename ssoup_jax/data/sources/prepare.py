"""Prepares a TFDS data set as array_record files, without TensorFlow and, if so asked, without a network."""

import contextlib
import fcntl
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssoup_jax.data.sources import tfds_door
from ssoup_jax.errors import SettingsError, one_line

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.download.checksums import UrlInfo

# Seconds in which a server must answer. TFDS itself retries for minutes before it says that there is no network.
CONNECT_TIMEOUT = 5.0

BY_HAND = {"imagenet2012": {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}}
"""Archives that only their publisher's users may download, and their bytes: TFDS knows nothing to check them by."""

UNVERIFIED = "ssoup_jax-unverified.json"
"""Lies in a data set that was prepared from archives that are not the published ones: their names and SHA-256."""

_DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def prepare(
    builder: "DatasetBuilder",
    download: bool = True,
    verify: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Writes the data set's array_record files from its archives, which are downloaded unless they are there.

    Archives are looked for in `downloads/NAME` of the data directory, under their published names or as TFDS stores
    them. The folder is the data set's own, because several data sets call their archives the same.

    The files are written to a folder beside and renamed when they are complete. A second process waits for the first.

    Args:
        builder: what TFDS makes of the data set's name; it must be made anew to read what was prepared.
        download: whether archives that are not there may be fetched.
        verify: whether archives must be those that were published; if not, others are taken and `UNVERIFIED` is left.
        on_line: told what takes long; None: nobody is.

    Raises:
        SettingsError: an archive is not there and cannot be had, is damaged, or needs TensorFlow.
    """
    from tensorflow_datasets import download as tfds_download
    from tensorflow_datasets.core.download.extractor import ExtractError

    archives = _Archives(builder, download, verify, on_line or (lambda text: None))
    with archives.alone():
        if builder.data_path.exists():
            if not builder.is_prepared():
                raise SettingsError(f"{builder.data_path} holds no complete data set; remove it to have it prepared")
            return
        archives.check_those_by_hand()
        archives.line(f"preparing it once, in {builder.data_path}, from archives in {archives.folder}")
        try:
            with tfds_door.opened(builder, archives):
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
                what = f"{type(error).__name__}: {one_line(error, 300)}"
                raise SettingsError(f"an archive in {archives.folder} is damaged; replace it ({what})") from error
            raise


class _Archives:
    """The archives of a data set: where they are, which are missing and why."""

    def __init__(self, builder: "DatasetBuilder", download: bool, verify: bool, on_line: Callable[[str], None]) -> None:
        self.builder = builder
        self.download = download
        self.verify = verify
        self.line = on_line
        self.folder = Path(builder.data_dir_root) / "downloads" / builder.name
        self.missing: dict[str, str] = {}
        """Why a file could not be had, by its name."""
        self._others: dict[str, str] = {}

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
            self.missing["what has to be put there by hand"] = one_line(how, 300)
        for name, size in BY_HAND.get(self.builder.name, {}).items():
            path = self.folder / name
            if not path.is_file():
                self.missing[name] = "only registered users of its publisher can download it"
            elif (found := path.stat().st_size) != size and self.verify:
                raise _damaged(path, f"{size} bytes", f"{found}")
            elif found != size:
                self._take(path, f"{found} bytes")
        if self.missing:
            raise self.not_there()

    def check(self, path: Any, expected: "UrlInfo | None", found: "UrlInfo") -> None:
        """Refuses an archive that is not the published one, or notes that it is taken all the same."""
        if expected in (None, found):
            return
        if self.verify:
            raise _damaged(
                path,
                f"{int(expected.size)} bytes with SHA-256 {expected.checksum}",
                f"{int(found.size)} with {found.checksum}",
            )
        self._take(path, found.checksum)

    def finish(self, folder: Path) -> None:
        """Leaves the names of other archives than those that were published beside what was made of them."""
        if self._others:
            (folder / UNVERIFIED).write_text(json.dumps(self._others, sort_keys=True))

    def refuse(self, name: str, url: str) -> bool:
        """Once one is missing nothing is downloaded any more; what else is missing is still found out."""
        why = next(iter(self.missing.values()), None) or self._unreachable(url)
        if why is not None:
            self.missing[name] = why
        return why is not None

    def failed(self, name: str, url: str, error: Exception) -> None:
        """Notes why a download failed."""
        if not isinstance(error, SettingsError):
            self.missing[name] = f"{url}: {one_line(error, 200)}"

    def refuse_kaggle(self) -> bool:
        """Notes that data which only Kaggle has are missing where downloading is switched off."""
        if not self.download:
            self.missing["its data from Kaggle"] = "downloading is switched off"
        return not self.download

    def _take(self, path: Any, found: str) -> None:
        self._others[os.path.basename(path)] = found
        self.line(f"{path} is not the archive that was published; it is taken, as data.verify=False says")

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
    ways = "replace or remove it, or --config.data.verify=False takes it"
    return SettingsError(f"{path} is damaged or another file: expected {expected}, found {found}; {ways}")


def _needs_tensorflow(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "tensorflow":
            return True
        error = error.__cause__ or error.__context__
    return False


def _config(builder: "DatasetBuilder") -> str:
    return f"/{builder.builder_config.name}" if builder.builder_config else ""
