"""The bucket: where journals and snapshots are kept beside the home, in S3 or what else Arrow's file systems reach.

`BENTOFLOW_BUCKET` is s3://bucket/prefix (or gs://…, or file:///… for a mounted disk); without it everything stays in
the home alone. Region, credentials and endpoint of S3 are AWS's own variables, such as AWS_ENDPOINT_URL.
"""

import os
from typing import Any

CONNECT_S, ANSWER_S, ATTEMPTS = 5.0, 60.0, 4


class BucketError(RuntimeError):
    """The bucket cannot be reached, or does not hold what was put there."""


class Bucket:
    """Objects by name below a URL, each read back after it was written."""

    def __init__(self, url: str) -> None:
        from pyarrow import fs  # type: ignore[import-untyped]

        self.url = url.rstrip("/")
        try:
            if self.url.startswith("s3://"):
                patience = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
                limits = {"connect_timeout": CONNECT_S, "request_timeout": ANSWER_S}
                scheme, _, host = _endpoint().rpartition("://")  # Arrow does not read that variable here
                where = {"endpoint_override": host, "scheme": scheme} if scheme else {}
                self._files: Any = fs.S3FileSystem(retry_strategy=patience, **limits, **where)
                self._root = self.url.removeprefix("s3://")
            else:
                self._files, self._root = fs.FileSystem.from_uri(self.url)
        except (OSError, ValueError) as error:
            raise self._error("open it", error) from error
        self._selector, self._nothing = fs.FileSelector, fs.FileType.NotFound

    def put(self, name: str, data: bytes) -> None:
        """Write an object, over one of that name, and read it back; BucketError unless it holds these bytes then."""
        path = f"{self._root}/{name}"
        try:
            if not self.url.startswith("s3://"):  # S3 has no folders
                self._files.create_dir(path.rpartition("/")[0])
            with self._files.open_output_stream(path) as out:
                out.write(data)
        except OSError as error:
            raise self._error(f"write {name}", error) from error
        if self.get(name) != data:
            raise BucketError(f"{self.url}/{name} does not hold what was just written to it; it is not counted as kept")

    def get(self, name: str) -> bytes:
        """An object's bytes; BucketError if it is not there or cannot be read."""
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as file:
                return bytes(file.read())
        except OSError as error:
            raise self._error(f"read {name}", error) from error

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            return bool(self._files.get_file_info(f"{self._root}/{name}").type != self._nothing)
        except OSError as error:
            raise self._error(f"look for {name}", error) from error

    def names(self, folder: str) -> list[str]:
        """Names, without the folder's, of the objects in a folder; [] if there is none."""
        selector = self._selector(f"{self._root}/{folder}", allow_not_found=True)
        try:
            return sorted(found.base_name for found in self._files.get_file_info(selector) if found.is_file)
        except OSError as error:
            raise self._error(f"list {folder}", error) from error

    def _error(self, what: str, error: Exception) -> BucketError:
        at = f" at {_endpoint()}" if _endpoint() else ""
        return BucketError(
            f"the bucket {self.url}{at} did not {what}: {' '.join(str(error).split())[:300]}. "
            "Once it answers run this again; or correct BENTOFLOW_BUCKET, AWS_ENDPOINT_URL and the credentials"
        )


def _endpoint() -> str:
    """The URL of an S3 that is not AWS's own, as AWS's tools name it; "" for none."""
    return (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")


def opened() -> Bucket | None:
    """The bucket that `BENTOFLOW_BUCKET` names, None without one."""
    url = os.environ.get("BENTOFLOW_BUCKET", "").strip()
    return Bucket(url) if url else None
