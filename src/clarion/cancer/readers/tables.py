"""Tables from files that others wrote: text or parquet, packed or not, read with limits and without pickle."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from clarion.cancer.readers.log import ReadLog
from clarion.data.paths import named_error
from clarion.errors import DataError

MAX_BYTES = 8 * 2**30  # of an unpacked table: 20,000 genes x 11,000 patients as text are 2 GB
_NOTHING = "(nothing)"  # the column behind a separator that ends every row
_BUFFER = 2**22  # so that all comment lines before a header are seen at once
TEXT = (".csv", ".tsv", ".txt", ".cct", ".tsi", ".cbt", ".maf")
SUFFIXES = (".parquet", *TEXT, *(f"{s}{p}" for s in TEXT for p in (".gz", ".zip")))
# What files write for "unknown", beside pandas' own ("", NA, NaN, null ...)
MISSING = (
    "[Not Available]", "[Not Applicable]", "[Not Evaluated]", "[Unknown]", "[Discrepancy]", "[Completed]",
    "Not Reported", "not reported", "Not Available", "'--", "--", "-", "unknown", "Unknown", "NP",
)  # fmt: skip


def file_error(path: Path | str, text: str) -> DataError:
    """The sentence "FILE text", with the user's file named on the screen only."""
    return named_error("{file} {text}", {"file": path if isinstance(path, str) else path.name}, text=text)


class _Limited(io.RawIOBase):
    """A stream that refuses to grow without end (a packed file may unpack to anything)."""

    def __init__(self, stream: Any, name: str):
        self.stream, self.name_, self.left = stream, name, MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise file_error(self.name_, f"unpacks to more than {MAX_BYTES // 2**30} GB; cut it to the genes you need.")
        buffer[: len(data)] = data
        return len(data)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name without any of its suffixes that say how it is packed: "tcga_blca" of tcga_blca.csv.zip."""
    name = path.name
    for end in (".gz", ".zip"):
        name = name.removesuffix(end)
    return Path(name).stem


def _open(path: Path) -> io.BufferedReader:
    name = path.name.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(_Limited(gzip.open(path), path.name), _BUFFER)
    if name.endswith(".zip"):
        archive = zipfile.ZipFile(path)
        members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")]
        if len(members) != 1:
            raise file_error(path, f"holds {len(members)} files; give a zip with one table, or unpack it.")
        return io.BufferedReader(_Limited(archive.open(members[0]), path.name), _BUFFER)
    return io.BufferedReader(_Limited(open(path, "rb"), path.name), _BUFFER)


def _separator(path: Path, head: str) -> str:
    inner = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    if inner.endswith(".csv"):  # a German or Korean spreadsheet writes semicolons into its .csv
        return max((",", ";", "\t"), key=head.count)
    return "\t" if "\t" in head or "," not in head else ","


def read_header(path: Path) -> list[str]:
    """Column names alone; [] for a file that is no table."""
    try:
        if path.suffix.lower() == ".parquet":
            return [str(n) for n in pyarrow.parquet.read_schema(path).names]
        with _open(path) as stream:
            line = "#"
            while line.startswith("#"):
                line = stream.readline(2**24).decode("utf-8-sig")
                if not line:
                    return []
        return [c.strip().strip('"') for c in line.rstrip("\r\n").split(_separator(path, line))]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, pyarrow.ArrowException):
        return []


def _header_of_rows(path: Path, header: list[str], lines: Sequence[str], separator: str) -> list[str]:
    """The names of all columns where rows are one cell longer than the header, else the header.

    R's write.table puts the names of its rows in front and gives them no header; other tools end rows, but not the
    header, with a separator. Read without care, either moves every value by one column."""
    rows = list(csv.reader((line.rstrip("\r") for line in lines if line.strip()), delimiter=separator))
    longer = [len(row) - len(rows[0]) for row in rows[1:3]]
    if not longer or longer[0] <= 0:
        return header
    if longer == [1, 1] and all(row[-1] == "" for row in rows[1:3]):
        return [*header, _NOTHING]
    if longer == [1, 1]:
        return ["index", *header]
    raise file_error(path, "is not a table: its second line is longer than its first; mend that line.")


def read_table(
    path: Path, text_columns: Sequence[str | int] = (), columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table with its columns as the file names them, lines that begin with "#" left out.

    text_columns: names or positions kept as text ("001" is not 1). DataError where it cannot be read."""
    if not path.is_file():
        raise file_error(path, "is not there.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path, columns=None if columns is None else list(columns))
            return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        header = read_header(path)
        if len(header) < 2:
            raise file_error(path, "is not a table: its first line has one column; save it as UTF-8 csv or tsv.")
        with _open(path) as stream:
            head = stream.peek(_BUFFER).decode("utf-8-sig", errors="replace")
            lines = head.split("\n", 10_000)
            skip = next((k for k, line in enumerate(lines) if not line.startswith("#")), 0)
            separator = _separator(path, lines[skip])
            names = _header_of_rows(path, header, lines[skip : skip + 4], separator)
            texts = {names[c] if isinstance(c, int) else c: str for c in text_columns}
            table = pd.read_csv(
                stream,
                sep=separator,
                skiprows=skip,
                header=0,
                names=names if len(names) > len(header) else None,
                index_col=False if len(names) == len(header) else None,
                encoding="utf-8-sig",
                dtype=texts,
                na_values=list(MISSING),
                usecols=columns,
                low_memory=False,
            )
            return table.drop(columns=_NOTHING, errors="ignore")
    except UnicodeDecodeError:
        raise file_error(path, "is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8).") from None
    except pd.errors.ParserError as error:
        raise file_error(path, f"is not a table: {str(error).strip()}; open it and mend that line.") from None
    except (OSError, EOFError, ValueError, csv.Error, zlib.error, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise file_error(path, f"cannot be read ({type(error).__name__}); fetch or export it again.") from None


def to_numbers(table: pd.DataFrame, source: str, log: ReadLog) -> pd.DataFrame:
    """float32 of the same shape; missing stays NaN. Cells that are no finite number are a problem `non_numeric`
    (with it allowed they become missing). source: the modality, for the message."""
    texts = [k for k, dtype in enumerate(table.dtypes) if not pd.api.types.is_numeric_dtype(dtype)]
    values = np.empty(table.shape, np.float32)
    numeric = np.setdiff1d(np.arange(table.shape[1]), texts)
    if len(numeric):
        values[:, numeric] = table.iloc[:, numeric].to_numpy(np.float32, na_value=np.nan)
    bad: list[tuple[int, int]] = []
    for k in texts:
        column = table.iloc[:, k]
        read = pd.to_numeric(column, errors="coerce")
        blank = column.isna() | column.astype(str).str.strip().isin(["", *MISSING])
        unread = (read.isna() & ~blank).to_numpy()
        bad += [(int(row), k) for row in np.flatnonzero(unread)]
        values[:, k] = read.to_numpy(np.float32, na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        bad += [(int(r), int(c)) for r, c in np.argwhere(infinite)]
        values[infinite] = np.nan
    if bad:
        items = []
        for row, k in bad[:20]:
            place = f"row {row + 1}, column {table.columns[k]}: {str(table.iloc[row, k])[:20]!r}"
            items.append((f"row {row + 1}, column {k + 1} of them", place))
        log.problem(
            "non_numeric",
            f"{source} holds cells that are no numbers; write a number (decimal point, not comma) or leave them empty",
            items,
            "cells that are no numbers count as missing",
            total=len(bad),
        )
    return pd.DataFrame(values, index=table.index, columns=table.columns)
