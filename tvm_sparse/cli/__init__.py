"""The program ``tvm-sparse``, one verb a file."""
