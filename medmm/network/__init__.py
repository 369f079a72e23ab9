"""The fused network in torch: encoders, fusion and heads, their weights and their ONNX graphs."""
