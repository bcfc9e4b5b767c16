"""The default schedule of PrimFuncs that none of our kernels computes."""
