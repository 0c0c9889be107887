"""A store in a bucket, against a real S3-compatible server."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from s3_server import BUCKET, KEYS, Server

from raydd.errors import ConfigError, PlaceError, RecordError
from raydd.store import Record, Store

ADDRESS = f"s3://{BUCKET}/raydd"


@pytest.fixture
def bucket(s3: Server, tmp_path: Path) -> Store:
    return Store(ADDRESS, tmp_path / "cache", patience=20)


def test_a_record_in_a_bucket_is_read_back_and_shared_by_a_node(bucket: Store, s3: Server, tmp_path: Path):
    record = Record.of(bucket, "stage", {"lr": 0.1}, {}, version=1)
    assert not record.complete
    record.write_tensors("x.safetensors", {"a": torch.arange(3)}, {"why": "test"})
    record.finish(facts={"size": 3})
    assert Record.of(Store(ADDRESS, tmp_path / "other"), "stage", {"lr": 0.1}, {}, version=1).facts() == {"size": 3}
    assert record.read_tensors("x.safetensors")["a"].tolist() == [0, 1, 2]
    assert bucket.names(record.folder) == [f"{record.folder}/manifest.json", f"{record.folder}/x.safetensors"]
    s3.requests.clear()
    for _ in range(3):
        assert record.map_tensors("x.safetensors")["a"].tolist() == [0, 1, 2]
        assert Record.of(Store(ADDRESS, tmp_path / "cache"), "stage", {"lr": 0.1}, {}, version=1).facts()["size"] == 3
    assert s3.count("GET") == 2  # each file once, for all processes of the node
    record.remove("x.safetensors")
    assert not record.has("x.safetensors")


def test_a_record_made_again_elsewhere_is_read_as_it_is_now(bucket: Store, tmp_path: Path):
    here, there = (Record.of(store, "stage", {}, {}, version=1) for store in (bucket, Store(ADDRESS, tmp_path / "b")))
    for maker, content in ((there, b"first"), (there, b"second")):
        maker.remove("manifest.json")
        maker.write("x.parquet", content)
        maker.finish()
        assert here.read("x.parquet") == content  # the second time, this node holds the first manifest


def test_a_file_that_is_written_again_is_read_as_it_is_now(bucket: Store, tmp_path: Path):
    writer, reader = (
        Record.of(store, "stage", {}, {}, version=1) for store in (bucket, Store(ADDRESS, tmp_path / "cache"))
    )
    for points in ([1], [1, 2]):
        writer.write_json("curve.json", points)
        assert reader.read_json("curve.json") == points


def test_no_request_lists_more_than_a_record(bucket: Store, s3: Server):
    for name in ("a/1.bin", "a/2.bin", "b/1.bin"):
        bucket.write(name, b"x")
        assert bucket.exists(name)
        bucket.read(name)
        bucket.local(name)
        assert not bucket.exists("a/3.bin")
    bucket.remove("a/1.bin")
    assert s3.listings == []
    assert bucket.names("a") == ["a/2.bin"]
    assert len(s3.listings) == 1
    assert "prefix=raydd%2Fa%2F" in s3.listings[0]


def test_a_small_file_is_one_request_and_a_large_one_goes_in_parts(bucket: Store, s3: Server):
    bucket.write("small.bin", b"x" * 1000)
    assert [method for method, _, _ in s3.requests] == ["PUT"]
    s3.requests.clear()
    content = bytes(range(256)) * 100_000  # 25.6 MB
    bucket.write("large.bin", content)
    assert sum("partNumber" in query for _, _, query in s3.requests) == 3
    assert bucket.read("large.bin") == content


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Server Error"])
def test_a_service_that_is_not_well_is_waited_for(bucket: Store, s3: Server, status: str, caplog):
    bucket.write("a.bin", b"x")
    with s3.ill(status, seconds=3), caplog.at_level(logging.WARNING):
        bucket.write("b.bin", b"y")
        assert bucket.read("a.bin") == b"x"
        assert bucket.exists("b.bin")
    assert s3.client.get_object(Bucket=BUCKET, Key="raydd/b.bin")["Body"].read() == b"y"


def test_a_service_that_stays_away_is_given_up_with_a_sentence(bucket: Store, s3: Server, tmp_path: Path):
    with s3.ill("503 Slow Down"), pytest.raises(PlaceError, match="did not answer"):
        Store(ADDRESS, tmp_path / "cache", patience=1).read("a.bin")


def test_what_does_not_pass_is_not_repeated(bucket: Store, s3: Server):
    with s3.ill("403 Forbidden"), pytest.raises(PlaceError, match="refused a request"):
        bucket.read("a.bin")
    assert len(s3.requests) == 1


@pytest.mark.parametrize("place", [-1, 200, 20])
def test_a_flipped_bit_is_refused_and_not_kept(bucket: Store, s3: Server, place: int):
    record = Record.of(bucket, "stage", {}, {}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.arange(1000)}, {"why": "test"})
    key = f"raydd/{record.folder}/x.safetensors"
    content = bytearray(s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[place] ^= 4
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    with pytest.raises(RecordError, match=r"x\.safetensors is damaged"):
        record.map_tensors("x.safetensors")
    with pytest.raises(RecordError, match=r"x\.safetensors is damaged"):
        record.read_tensors("x.safetensors")
    record.write_tensors("x.safetensors", {"a": torch.arange(1000)}, {"why": "test"})
    assert record.map_tensors("x.safetensors")["a"][-1] == 999


def test_a_copy_that_changed_on_this_machine_is_noticed_and_fetched_again(bucket: Store, s3: Server, caplog):
    record = Record.of(bucket, "stage", {}, {}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.arange(1000)})
    copy = record.local("x.safetensors")
    time.sleep(0.05)
    then, content = copy.stat(), bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    os.utime(copy, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert record.map_tensors("x.safetensors")["a"].tolist() == list(range(1000))
    assert "x.safetensors is damaged" in caplog.text
    assert s3.count("GET") == 2


def test_a_file_of_another_record_is_refused_in_a_bucket_too(bucket: Store, s3: Server):
    one, other = (Record.of(bucket, "scores", {"of": name}, {}, version=1) for name in ("one", "other"))
    for record in (one, other):
        record.write_json("scores.json", [1.0])
    source = {"Bucket": BUCKET, "Key": f"raydd/{one.folder}/scores.json"}
    s3.client.copy_object(CopySource=source, Bucket=BUCKET, Key=f"raydd/{other.folder}/scores.json")
    with pytest.raises(RecordError, match=f"belongs to {one.folder}/scores.json"):
        other.read_json("scores.json")


def test_many_readers_of_a_node_fetch_a_file_once(bucket: Store, s3: Server, tmp_path: Path):
    """Locks are of opened files, so threads with stores of their own stand for processes."""
    bucket.write("big.bin", bytes(3_000_000))
    s3.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        stores = [Store(ADDRESS, tmp_path / "cache") for _ in range(8)]
        sizes = pool.map(lambda store: store.local("big.bin").stat().st_size, stores)
    assert list(sizes) == [3_000_000] * 8
    assert s3.count("GET") == 1


def test_neither_address_nor_messages_hold_credentials(bucket: Store, s3: Server, caplog):
    with pytest.raises(ConfigError, match="holds credentials") as error:
        Store(f"s3://{KEYS['AWS_ACCESS_KEY_ID']}:{KEYS['AWS_SECRET_ACCESS_KEY']}@{BUCKET}/raydd")
    with s3.ill("403 Forbidden"), pytest.raises(PlaceError) as refused:
        bucket.read("a.bin")
    said = str(error.value) + str(refused.value) + caplog.text
    assert not [secret for secret in KEYS.values() if secret in said]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/x", "of an unknown kind"),
        ("s3://bucket/x?secret_key=1", "option 'secret_key'"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("gs://", "names no bucket"),
        ("~nobody-here/x", "home folder cannot be found"),
    ],
)
def test_addresses_that_are_none(address: str, message: str):
    with pytest.raises(ConfigError, match=message):
        Store(address)


def test_google_s_address_opens_the_same_interface(tmp_path: Path):
    store = Store("gs://bucket/raydd?endpoint_override=127.0.0.1:9&scheme=http", tmp_path, patience=0.1)
    assert store.folder is None
    with pytest.raises(RecordError, match="not a name inside"):
        store.read("../x")


def test_a_deleted_file_is_missed_once_and_made_again(bucket: Store, tmp_path: Path) -> None:
    record, elsewhere = (
        Record.of(store, "stage", {}, {}, version=1) for store in (bucket, Store(bucket.root, tmp_path / "elsewhere"))
    )
    record.write_tensors("x.safetensors", {"a": torch.ones(2)})
    record.finish()
    assert elsewhere.complete
    bucket.remove(f"{record.folder}/x.safetensors")
    bucket.remove(f"{record.folder}/manifest.json")
    with pytest.raises(RecordError):
        elsewhere.map_tensors("x.safetensors")
    assert not elsewhere.complete
