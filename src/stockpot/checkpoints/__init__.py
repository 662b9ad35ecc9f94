"""Files in and out, hashes, metadata. This room knows nothing of what keys mean."""

from stockpot.checkpoints.arranged import Arrangement, FolderSink, Place, RenamingSink
from stockpot.checkpoints.dtypes import DTYPES, DType, get_dtype
from stockpot.checkpoints.files import JoinedSource, SafetensorsFile, open_checkpoint
from stockpot.checkpoints.hashes import FileHashes, content_hash, file_hashes, hash_tensors
from stockpot.checkpoints.header import Header, encode_header, read_header
from stockpot.checkpoints.sinks import FileSink, MemorySink, Sink, file_bytes, in_file_order
from stockpot.checkpoints.sizes import size_text
from stockpot.checkpoints.sources import GeneratedSource, MemorySource, Source, TensorInfo
from stockpot.checkpoints.stamps import Stamps
from stockpot.checkpoints.storage import free_bytes, write_whole
from stockpot.checkpoints.torch_files import TorchFile
from stockpot.checkpoints.views import Run, View, Viewed

__all__ = [
    "DTYPES",
    "Arrangement",
    "DType",
    "FileHashes",
    "FileSink",
    "FolderSink",
    "GeneratedSource",
    "Header",
    "JoinedSource",
    "MemorySink",
    "MemorySource",
    "Place",
    "RenamingSink",
    "Run",
    "SafetensorsFile",
    "Sink",
    "Source",
    "Stamps",
    "TensorInfo",
    "TorchFile",
    "View",
    "Viewed",
    "content_hash",
    "encode_header",
    "file_bytes",
    "file_hashes",
    "free_bytes",
    "get_dtype",
    "hash_tensors",
    "in_file_order",
    "open_checkpoint",
    "read_header",
    "size_text",
    "write_whole",
]
