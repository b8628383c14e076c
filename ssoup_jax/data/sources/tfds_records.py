"""The records of a prepared data set of TensorFlow Datasets: one by one as they are stored, or all of them decoded."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ssoup_jax.data.pictures import AS_PILLOW, Rules
from ssoup_jax.errors import RunError, SettingsError, one_line

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

# Records are read and decoded this many at a time: one by one takes more than twice as long.
BLOCK = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The encoded images in a split's records; meets `dataset.Files`.

    Attributes:
        folder: where the prepared data set is.
        split: its split.
        image: the image's name in a record.
        fingerprint: hash of the data set's name and version and of the split's sizes.
        rules: how they are decoded: as Pillow does, and TFDS itself.
    """

    folder: str
    split: str
    image: str
    fingerprint: str
    rules: Rules = AS_PILLOW
    # By process: one that was forked must not read from what its parent opened.
    _sources: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def read(self, index: int) -> bytes:
        """Returns an image as it is stored.

        Raises:
            RunError: the record cannot be read.
        """
        try:
            source = self._sources.get(os.getpid())
            if source is None:  # for two threads at once, too: the later one's then serves all
                source = self._sources[os.getpid()] = self._open()
            return bytes(source[int(index)][self.image])
        except Exception as error:  # what the libraries raise has no common class
            why = f"{type(error).__name__}: {one_line(error)}"
            raise RunError(f"{self.describe(index)}: cannot be read ({why})") from error

    def describe(self, index: int) -> str:
        """Returns the record's number, split and data set."""
        return f"record {index} of split {self.split} in {self.folder}"

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        return source_of(tfds.builder_from_directory(self.folder), self.split, self.image)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_sources": {}}


def source_of(builder: "DatasetBuilder", split: str, *encoded: str) -> Any:
    """Opens a split's records; the features named `encoded` are not decoded.

    Raises:
        SettingsError: the data set was prepared in another format than array_record.
    """
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in encoded} or None)
    except NotImplementedError as error:
        has = builder.info.file_format.value
        hint = "allowed: array_record; remove it or set data_dir to another folder to have it prepared as that"
        raise SettingsError(f"{builder.data_path} was prepared as {has}; {hint}") from error


def in_order(source: Any, builder: "DatasetBuilder", split: str) -> Iterator[dict[str, Any]]:
    """Yields a split's records in order.

    Args:
        source: see `source_of`.
        builder: of the data set.
        split: its split.

    Raises:
        SettingsError: a record is damaged; says which.
    """
    for start in range(0, len(source), BLOCK):
        block = range(start, min(start + BLOCK, len(source)))
        try:
            yield from source.__getitems__(list(block))
        except Exception:
            for index in block:
                where = f"record {index} of split {split}"
                with blame(f"{builder.data_path} is damaged; remove it to have it prepared again: {where}"):
                    source[index]
            raise


@contextlib.contextmanager
def blame(what: str) -> Iterator[None]:
    """Puts whatever the libraries raise into one line that begins with `what`; they have no common class of errors."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{what}: {error}") from error.__cause__
    except Exception as error:
        raise SettingsError(f"{what}: {type(error).__name__}: {one_line(error)}") from error
