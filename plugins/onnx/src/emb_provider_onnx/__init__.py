"""ONNX Runtime as a backend of emb-provider, and the export of models to ONNX by optimum."""
