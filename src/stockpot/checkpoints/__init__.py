"""Files in and out, hashes, metadata. This room knows nothing of what keys mean."""

from stockpot.checkpoints.arranged import (
    Arrangement,
    FolderSink,
    Place,
    RenamingSink,
    is_unfinished,
)
from stockpot.checkpoints.dtypes import DTYPES, DType, get_dtype
from stockpot.checkpoints.file_sink import FileSink
from stockpot.checkpoints.files import JoinedSource, SafetensorsFile, open_checkpoint
from stockpot.checkpoints.hashes import FileHashes, content_hash, file_hashes, hash_tensors
from stockpot.checkpoints.header import Header, encode_header, read_header
from stockpot.checkpoints.journal import Journal, differences, read_lines
from stockpot.checkpoints.sinks import MemorySink, Sink, file_bytes, in_file_order
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
    "Journal",
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
    "differences",
    "encode_header",
    "file_bytes",
    "file_hashes",
    "free_bytes",
    "get_dtype",
    "hash_tensors",
    "in_file_order",
    "is_unfinished",
    "open_checkpoint",
    "read_header",
    "read_lines",
    "size_text",
    "write_whole",
]
