"""The user's files: read with care, and written whole or not at all."""

from tvm_sparse.files.arrays import read_npy, read_npz, write_npz
from tvm_sparse.files.cache import CACHE_VARIABLE, Cache, kernel_cache
from tvm_sparse.files.folders import data_folder, scratch_folder
from tvm_sparse.files.reading import open_regular
from tvm_sparse.files.writing import check_writable, replacing, writable_target, write_json

__all__ = [
    "CACHE_VARIABLE",
    "Cache",
    "check_writable",
    "data_folder",
    "kernel_cache",
    "open_regular",
    "read_npy",
    "read_npz",
    "replacing",
    "scratch_folder",
    "writable_target",
    "write_json",
    "write_npz",
]
