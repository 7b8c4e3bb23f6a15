"""Eager PyTorch: transformers' models on CUDA, MPS or the CPU, the BERT family without padding on the CPU."""
