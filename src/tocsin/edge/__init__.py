"""The edge: a small process beside a machine that runs a trained model; it needs numpy and onnxruntime only."""
