"""Bad files: each is a clear error or refused rows with their place, never half a file.

The documents are those of JSONTestSuite and csv-spectrum.
"""

import gzip
import json
import re
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pyops.errors import DataError
from pyops.sources.files.arrive import Arrived, arrive
from pyops.sources.files.find import find
from tests.pyops.conftest import TEST_DATA

DOCUMENTS = TEST_DATA / "json_test_suite" / "test_parsing"
SPECTRUM = TEST_DATA / "csv_spectrum"

Refusals = list[tuple[str, int, str, str]]


class Landing:
    """Lands files one after the other on one staging file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection = duckdb.connect(
            folder / "stage.duckdb", config={"memory_limit": "160MB", "preserve_insertion_order": False}
        )

    def __call__(self, name: str, content: bytes | None, format_: str) -> Arrived:
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        for old in ("arrived", "refused"):
            self.connection.execute(f"DROP TABLE IF EXISTS {old}")
        try:
            found = find(self.folder, name)
            options = {"format_": format_, "day_column": None, "hides": False}
            return arrive(self.connection, found, self.folder, **options)  # type: ignore[arg-type]
        finally:
            path.unlink()

    @property
    def rows(self) -> list[dict[str, Any]]:
        cursor = self.connection.execute("SELECT * FROM arrived ORDER BY _line")
        names = [column[0] for column in cursor.description or []][2:]
        return [dict(zip(names, row[2:], strict=True)) for row in cursor.fetchall()]

    @property
    def lines(self) -> list[int]:
        found = self.connection.execute("SELECT _line FROM arrived ORDER BY _line").fetchall()
        return [line for (line,) in found]

    @property
    def refused(self) -> Refusals:
        return self.connection.execute("SELECT * FROM refused ORDER BY _line").fetchall()


@pytest.fixture
def land(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def documents(kind: str) -> list[Path]:
    return sorted(DOCUMENTS.glob(f"{kind}_*.json"))


def test_every_document_that_is_json_is_accepted(land: Landing) -> None:
    """Behaviour 44: what is no object is refused for that alone, or for its keys."""
    assert len(documents("y")) == 95
    for path in documents("y"):
        land("document.json", path.read_bytes(), "json")
        for _, _, payload, reason in land.refused:
            assert re.search("not an object|appears twice|cannot name a column", reason), path.name
            json.loads(payload)


def test_every_document_that_is_no_json_is_refused_with_its_place(land: Landing) -> None:
    """Behaviour 44."""
    assert len(documents("n")) == 188
    for path in documents("n"):
        arrived = land("document.json", path.read_bytes(), "json")
        assert (arrived.rows, arrived.refused) == (0, 1), path.name
        ((file, line, _, reason),) = land.refused
        assert (file, line) == ("document.json", 1)
        assert re.match(r"(line \d+, column \d+, )?byte \d+: ", reason), path.name


def test_every_line_that_is_no_json_is_refused_with_its_place(land: Landing) -> None:
    """Behaviour 44: the lines around it land."""
    contents = [path.read_bytes().strip() for path in documents("n")]
    bad = [c for c in contents if c and b"\n" not in c and not c.startswith(b"\xef\xbb\xbf")]
    arrived = land("lines.jsonl", b"".join(b'{"a": 1}\n' + line + b"\n" for line in bad), "jsonl")
    assert (arrived.rows, arrived.refused) == (len(bad), len(bad))
    assert land.lines == list(range(1, 2 * len(bad), 2))
    assert [line for _, line, _, _ in land.refused] == list(range(2, 2 * len(bad) + 1, 2))
    for _, line, _, reason in land.refused:
        assert re.match(r"(column \d+, )?byte \d+: ", reason), bad[line // 2 - 1]


def test_document_that_parsers_may_take_or_leave_does_neither_crash_nor_hang(land: Landing) -> None:
    """Behaviour 44."""
    assert len(documents("i")) == 35
    for path in documents("i"):
        try:
            arrived = land("document.json", path.read_bytes(), "json")
            taken = arrived.rows + arrived.refused >= 1
        except DataError as error:
            taken = "UTF-16" in str(error)
        assert taken, path.name


@pytest.mark.parametrize("name", sorted(p.stem for p in (SPECTRUM / "csvs").glob("*.csv")))
def test_csv_of_every_shape_gives_its_expected_values(land: Landing, name: str) -> None:
    """Behaviour 44: but an empty field without quotes is NULL."""
    content = (SPECTRUM / "csvs" / f"{name}.csv").read_bytes()
    if name.endswith("crlf"):  # which a copy may have lost
        content = re.sub(rb"\r?\n", b"\r\n", content)
    expected = json.loads((SPECTRUM / "json" / f"{name}.json").read_text("utf-8"))
    land("spectrum.csv", content, "csv")
    found = [{key: value or "" for key, value in row.items()} for row in land.rows]
    assert (found, land.refused) == (expected, [])


JSONL = b"".join(b'{"id": %d, "text": "%d"}\n' % (n, n * 7919 % 1009) for n in range(9000))


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, "zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_file_that_ends_too_early_is_refused_whole(land: Landing, name: str) -> None:
    """Behaviour 44: wherever it ends."""
    packed = gzip.compress(JSONL) if name.endswith("gz") else zstd(JSONL)
    for size in (5, 11, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        with pytest.raises(DataError, match=rf"{name}, at byte {size}: the file ends too early"):
            land(name, packed[:size], "jsonl")
        assert land.rows == []
    with pytest.raises(DataError, match="byte 0"):
        land(name, b"", "jsonl")
    assert land(name, packed, "jsonl").rows == 9000


@pytest.mark.parametrize("place", ["checksum", "size", "middle", "header", "behind"])
def test_gzip_that_was_damaged_is_refused_whole(land: Landing, place: str) -> None:
    """Behaviour 44."""
    packed = bytearray(gzip.compress(JSONL))
    if place == "behind":
        packed += b"not gzip"
    else:
        at = {"checksum": -8, "size": -4, "middle": len(packed) // 2, "header": 1}[place]
        packed[at] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, at byte \d+: the file is damaged"):
        land("a.jsonl.gz", bytes(packed), "jsonl")
    assert land.rows == []


def test_zstandard_that_was_damaged_is_refused_whole(land: Landing) -> None:
    """Behaviour 44."""
    packed = bytearray(zstd(JSONL))
    packed[0] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.jsonl\.zst, at byte \d+: the file is damaged"):
        land("a.jsonl.zst", bytes(packed), "jsonl")


def test_zstandard_whose_checksum_is_wrong_is_refused_whole(land: Landing) -> None:
    """Behaviour 44: a frame as RFC 8878 has it, of one raw block, with a wrong checksum."""
    content = b'{"a": 1}\n'
    frame = b"\x28\xb5\x2f\xfd" + b"\x24" + bytes([len(content)])
    frame += (len(content) << 3 | 1).to_bytes(3, "little") + content
    with pytest.raises(DataError, match=r"a\.jsonl\.zst, at byte \d+: the file is damaged"):
        land("a.jsonl.zst", frame + b"\0\0\0\0", "jsonl")


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_file_compressed_in_several_parts_lands_whole(land: Landing, pack: Callable[[bytes], bytes]) -> None:
    name = "a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst"
    assert land(name, pack(JSONL) + pack(JSONL), "jsonl").rows == 18000


def test_lines_of_another_encoding_are_refused_one_by_one(land: Landing) -> None:
    """Behaviour 44: the payload shows the bytes."""
    land("a.jsonl", b'{"a": "x"}\n{"a": "\xe9t\xe9"}\n{"a": "\xc3\xa9"}\n', "jsonl")
    assert land.rows == [{"a": "x"}, {"a": "é"}]
    assert land.refused == [("a.jsonl", 2, '{"a": "\\xe9t\\xe9"}', "byte 8: invalid UTF-8")]
    land("a.csv", b"a,b\n1,x\n2,\xe9\n3,\xc3\xa9\n", "csv")
    assert land.rows == [{"a": "1", "b": "x"}, {"a": "3", "b": "é"}]
    assert land.refused == [("a.csv", 3, "2,\\xe9", "byte 3: invalid UTF-8")]


def test_header_of_another_encoding_is_an_error(land: Landing) -> None:
    """Behaviour 44."""
    with pytest.raises(DataError, match=r"a\.csv, line 1: byte 3: invalid UTF-8"):
        land("a.csv", b"a,\xe9\n1,2\n", "csv")


@pytest.mark.parametrize("format_", ["csv", "jsonl", "json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf_16_and_32_are_errors_that_say_so(land: Landing, format_: str, encoding: str) -> None:
    """Behaviour 44."""
    name = f"a.{format_}"
    with pytest.raises(DataError, match=rf"{name} is {encoding.upper()}, not UTF-8"):
        land(name, '{"a": 1}'.encode(encoding), format_)


def test_utf_16_without_a_mark_lands_nothing(land: Landing) -> None:
    """Behaviour 44."""
    with pytest.raises(DataError, match="header"):
        land("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "csv")
    arrived = land("a.jsonl", '{"a": 1}\n{"a": 2}\n'.encode("utf-16-le"), "jsonl")
    assert (arrived.rows, arrived.refused) == (0, 3)


def test_byte_order_mark_belongs_to_no_column(land: Landing) -> None:
    """Behaviour 44."""
    mark = b"\xef\xbb\xbf"
    land("a.csv", mark + b"a,b\n1,2\n", "csv")
    assert land.rows == [{"a": "1", "b": "2"}]
    land("a.jsonl", mark + b'{"a": 1}\n', "jsonl")
    assert land.rows == [{"a": "1"}]
    land("a.json", mark + b'{"a": 1}', "json")
    assert land.rows == [{"a": "1"}]
    land("a.json", mark + b'{"a": 1', "json")
    assert land.refused[0][3].startswith("line 1, column 8, byte 11: ")


def test_ragged_records_are_refused_with_their_lines(land: Landing) -> None:
    """Behaviour 44: the line is that of the file, whatever quotes span."""
    land("a.csv", b'a,b\n1,"x\ny"\n3\n\n4,5,6\n7,8\n,\n"","9"\n', "csv")
    assert land.rows == [{"a": "1", "b": "x\ny"}, {"a": "7", "b": "8"}, {"a": None, "b": None}, {"a": "", "b": "9"}]
    assert land.lines == [2, 7, 8, 9]
    assert land.refused == [
        ("a.csv", 4, "3", "expected 2 fields, found 1"),
        ("a.csv", 6, "4,5,6", "expected 2 fields, found 3"),
    ]


def test_stray_quotes_are_refused_not_guessed_at(land: Landing) -> None:
    """Behaviour 44: DuckDB's reader loses the last record here without a word."""
    land("a.csv", b'a,b\n1,x"y"\n2,"x"y\n3, "x"\n4,x\n5,"open\n6,x\n', "csv")
    assert land.rows == [{"a": "4", "b": "x"}]
    assert [(line, payload) for _, line, payload, _ in land.refused] == [
        (2, '1,x"y"'),
        (3, '2,"x"y'),
        (4, '3, "x"'),
        (6, '5,"open\n6,x'),
    ]
    assert land.refused[-1][3] == "a quote is never closed"


def test_empty_csv_is_an_error_and_a_header_alone_is_no_row(land: Landing) -> None:
    """Behaviour 44."""
    with pytest.raises(DataError, match="header"):
        land("a.csv", b"", "csv")
    for content in (b"a,b", b"a,b\n", b"a,b\r\n\r\n"):
        arrived = land("a.csv", content, "csv")
        assert (arrived.rows, arrived.refused, list(arrived.columns)) == (0, 0, ["a", "b"])


@pytest.mark.parametrize("header", ["a,a", "a,A", "a,", ",a", "a,_file", "a,_LINE", 'a,"b', 'a,b"c', "a\rb,c", " ,b"])
def test_header_that_cannot_name_columns_is_an_error(land: Landing, header: str) -> None:
    """Behaviour 44."""
    with pytest.raises(DataError, match=r"a\.csv"):
        land("a.csv", f"{header}\n1,2\n".encode(), "csv")


def test_empty_files_of_json_lines_and_of_json_are_told_apart(land: Landing) -> None:
    """Behaviour 44: no lines are no rows, but no document is no JSON."""
    arrived = land("a.jsonl", b"", "jsonl")
    assert (arrived.rows, arrived.refused) == (0, 0)
    arrived = land("a.jsonl", b"\n \r\n\t\n", "jsonl")
    assert (arrived.rows, arrived.refused) == (0, 0)
    arrived = land("a.json", b"", "json")
    assert (arrived.rows, arrived.refused) == (0, 1)
    arrived = land("a.json", b"[]", "json")
    assert (arrived.rows, arrived.refused) == (0, 0)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_line_of_100_mb_is_an_error_and_memory_stays_bounded(land: Landing, name: str) -> None:
    """Behaviour 44."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = b'a\n"' if name.endswith("csv") else b'{"a": "'
    with (land.folder / name).open("wb") as file:
        file.write(head)
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    where = "a.csv, line 2" if name.endswith("csv") else name
    with pytest.raises(DataError, match=f"{where}.* more than 64 MB"):
        land(name, None, name.rpartition(".")[2])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_text_of_10_mb_lands(land: Landing) -> None:
    """Behaviour 34."""
    text = "é" * (5 << 20)
    lines = "".join(json.dumps({"id": n, "a": text}, ensure_ascii=False) + "\n" for n in range(2))
    land("a.jsonl", lines.encode(), "jsonl")
    assert [(row["id"], row["a"] == text) for row in land.rows] == [("0", True), ("1", True)]
    land("a.csv", f"id,a\n1,{text}\n".encode(), "csv")
    assert [row["a"] == text for row in land.rows] == [True]


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
def test_100000_open_brackets_are_refused_with_their_line(land: Landing, deep: str) -> None:
    """Behaviour 44."""
    land("a.json", deep.encode(), "json")
    assert land.refused[0][3] == "line 1, column 1, byte 1: nested too deeply"
    land("a.jsonl", f'{{"a": 1}}\n{deep}\n'.encode(), "jsonl")
    assert (land.rows, land.refused[0][1]) == ([{"a": "1"}], 2)


def test_100000_levels_land_as_they_are(land: Landing) -> None:
    """Behaviour 44."""
    deep = "[" * 100_000 + "1.50" + "]" * 100_000
    land("a.jsonl", f'{{"a": {deep}}}\n'.encode(), "jsonl")
    assert land.rows == [{"a": deep}]
    land("a.json", f'[{{"a": {deep}}}]'.encode(), "json")
    assert land.rows == [{"a": deep}]


def test_foreign_or_truncated_parquet_is_an_error(land: Landing, tmp_path: Path) -> None:
    """Behaviour 44."""
    land.connection.execute(
        f"COPY (SELECT range AS n, md5(range::VARCHAR) AS t FROM range(50000))"
        f" TO '{tmp_path / 'good'}' (FORMAT parquet)"
    )
    content = (tmp_path / "good").read_bytes()
    assert land("a.parquet", content, "parquet").rows == 50000
    broken = content[:100] + b"\xff" * 5000 + content[5100:]
    for bad in (b"", b"PAR1", b"a,b\n1,2\n", content[:-100], broken):
        with pytest.raises(DataError, match=r"a\.parquet: (not a Parquet file, or|the file is) damaged"):
            land("a.parquet", bad, "parquet")


def test_blns(land: Landing) -> None:
    """Behaviour 34: the naughty strings land as they are, from every format of text."""
    naughty = json.loads((TEST_DATA / "blns" / "blns.json").read_text("utf-8"))
    assert len(naughty) == 515
    for escapes in (True, False):
        lines = [json.dumps({"id": n, "s": s}, ensure_ascii=escapes) for n, s in enumerate(naughty)]
        land("a.jsonl", "\n".join(lines).encode(), "jsonl")
        assert ([row["s"] for row in land.rows], land.refused) == (naughty, [])
        land("a.json", ("[" + ",\n".join(lines) + "]").encode(), "json")
        assert ([row["s"] for row in land.rows], land.refused) == (naughty, [])
    quoted = "".join('"' + s.replace('"', '""') + '"\n' for s in naughty)
    land("a.csv", ("s\n" + quoted).encode(), "csv")
    assert ([row["s"] for row in land.rows], land.refused) == (naughty, [])


def test_deflate_bomb_ends_as_a_long_line(land: Landing) -> None:
    """Behaviour 44: 100 MB in 100 kB."""
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"[" * (100 << 20)) + packer.flush()
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, line 1: a line of more than 64 MB"):
        land("a.jsonl.gz", packed, "jsonl")
