"""The programs' own engines, run here: environments of Python, libtorch and ONNX in Java."""
